"""Parsing of the broker's URL."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme

from smartbatch.shared.redis_url import BrokerUrl, parse_url

PLAIN = BrokerUrl("localhost", 6379, "", 0, "", "", "", None)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://", PLAIN),
        ("redis://h:1/2", BrokerUrl("h", 1, "", 2, "", "", "", None)),
        ("redis://[::1]:6379/0", BrokerUrl("::1", 6379, "", 0, "", "", "", None)),
        ("redis://h?db=4", BrokerUrl("h", 6379, "", 4, "", "", "", None)),
        ("redis://u:p%40%2F@h", BrokerUrl("h", 6379, "", 0, "u", "p@/", "", None)),
        ("redis://h?username=u&password=p%2525", BrokerUrl("h", 6379, "", 0, "u", "p%25", "", None)),
        ("redis://u@h?password_file=%2Frun%2Fpw", BrokerUrl("h", 6379, "", 0, "u", "", "/run/pw", None)),
        ("unix:///run/redis.sock?db=1", BrokerUrl("localhost", 6379, "/run/redis.sock", 1, "", "", "", None)),
        ("unix://u:p@/run/redis.sock", BrokerUrl("localhost", 6379, "/run/redis.sock", 0, "u", "p", "", None)),
        ("rediss://h", BrokerUrl("h", 6379, "", 0, "", "", "", {})),
        ("rediss://h?ssl_ca_certs=ca.pem", BrokerUrl("h", 6379, "", 0, "", "", "", {"ca_certs": "ca.pem"})),
    ],
)
def test_a_url_is_parsed(url: str, expected: BrokerUrl) -> None:
    assert parse_url(url) == expected


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://h", "expected redis://"),
        ("h:6379", "expected redis://"),
        ("unix://?db=1", "path"),
        ("redis://h:port", "Port"),
        ("redis://h/name", "name"),
        ("redis://h?ssl_ca_certs=ca.pem", "rediss:// only"),  # whoever sets this expects TLS
        ("rediss://h?ssl_cert_reqs=maybe", "none, optional, required"),
    ],
)
def test_an_invalid_url_is_rejected(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_url(url)


@pytest.mark.parametrize(
    ("url", "credentials"),
    [("redis://h", ()), ("redis://:p@h", ("p",)), ("redis://u:p@h", ("u", "p")), ("redis://u@h", ("u", ""))],
)
def test_credentials_become_the_auth_command(url: str, credentials: tuple[str, ...]) -> None:
    assert parse_url(url).credentials() == credentials


def test_a_password_file_is_read_at_each_connect(tmp_path: Path) -> None:
    url = parse_url(f"redis://u@h?password_file={tmp_path}/pw")
    for password in ("first", "second"):
        (tmp_path / "pw").write_text(f"{password}\n")
        assert url.credentials() == ("u", password)


def test_certificates_and_host_names_are_verified_unless_disabled() -> None:
    def checks(options: str) -> tuple[ssl.VerifyMode, bool]:
        context = parse_url(f"rediss://h?{options}").tls_context()
        assert context is not None
        return context.verify_mode, context.check_hostname

    assert checks("") == (ssl.CERT_REQUIRED, True)
    assert checks("ssl_cert_reqs=required&ssl_check_hostname=true") == (ssl.CERT_REQUIRED, True)
    assert checks("ssl_cert_reqs=optional") == (ssl.CERT_OPTIONAL, True)
    assert checks("ssl_check_hostname=False") == (ssl.CERT_REQUIRED, False)
    assert checks("ssl_cert_reqs=none") == (ssl.CERT_NONE, False)
    assert parse_url("redis://h").tls_context() is None


def test_tls_options_are_applied(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate = authority.issue_cert("me")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "me.pem")
    files = f"ssl_ca_certs={tmp_path}/ca.pem&ssl_certfile={tmp_path}/me.pem"
    context = parse_url(f"rediss://h?{files}&ssl_min_version=772&ssl_ciphers=ECDHE-RSA-AES128-GCM-SHA256").tls_context()
    assert context is not None
    assert context.minimum_version == ssl.TLSVersion.TLSv1_3
    assert "ECDHE-RSA-AES128-GCM-SHA256" in [cipher["name"] for cipher in context.get_ciphers()]
    assert "ECDHE-RSA-AES256-GCM-SHA384" not in [cipher["name"] for cipher in context.get_ciphers()]
    assert "trustme" in str(context.get_ca_certs())
    with pytest.raises(OSError, match="No such file"):
        parse_url("rediss://h?ssl_ca_certs=none.pem").tls_context()
