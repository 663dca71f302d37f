"""Parsing of the broker's URL."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme

from smartbatch.shared.redis_url import Address, BrokerUrl, parse_url


def url_of(*addresses: Address, **fields: Any) -> BrokerUrl:
    return BrokerUrl(addresses=addresses, **fields)


def at(host: str, port: int = 6379, **fields: Any) -> BrokerUrl:
    return url_of(Address(host, port), **fields)


SOCKET = Address("localhost", 6379, "/run/redis.sock")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://", at("localhost")),
        ("redis://h:1/2", at("h", 1, db=2)),
        ("redis://[::1]:6379/0", at("::1")),
        ("redis://h?db=4", at("h", db=4)),
        ("redis://u:p%40%2F@h", at("h", username="u", password="p@/")),
        ("redis://h?username=u&password=p%2525", at("h", username="u", password="p%25")),
        ("redis://u@h?password_file=%2Frun%2Fpw", at("h", username="u", password_file="/run/pw")),
        ("unix:///run/redis.sock?db=1", url_of(SOCKET, db=1)),
        ("unix://u:p@/run/redis.sock", url_of(SOCKET, username="u", password="p")),
        ("rediss://h", at("h", tls={})),
        ("rediss://h?ssl_ca_certs=ca.pem", at("h", tls={"ca_certs": "ca.pem"})),
        (
            "redis+sentinel://u:p@h1:26380,h2,[::1]:5/mymaster?db=2&sentinel_username=s&sentinel_password=q",
            url_of(
                Address("h1", 26380),
                Address("h2", 26379),
                Address("::1", 5),
                kind="sentinel",
                primary_name="mymaster",
                db=2,
                username="u",
                password="p",
                sentinel_username="s",
                sentinel_password="q",
            ),
        ),
        ("rediss+sentinel://h/a", at("h", 26379, kind="sentinel", primary_name="a", tls={})),
        (
            "redis+cluster://u@h1:7000,h2/?password_file=pw",
            url_of(Address("h1", 7000), Address("h2", 6379), kind="cluster", username="u", password_file="pw"),
        ),
        ("redis+cluster://h/0", at("h", kind="cluster")),
        ("rediss+cluster://h?ssl_ca_certs=ca.pem", at("h", kind="cluster", tls={"ca_certs": "ca.pem"})),
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
        ("redis+other://h", r"expected redis://.* redis\+cluster://"),
        ("unix+cluster:///run/redis.sock", "expected redis://"),
        ("redis://h1:1,h2:2", r"several hosts are for redis\+sentinel://.*; or for redis\+cluster://"),
        ("redis+sentinel://h1,h2", r"expected redis\+sentinel://.*/name\?db=0"),
        ("redis+sentinel://h1/mymaster/0", r"expected redis\+sentinel://"),
        ("redis+sentinel://h1,,h2/mymaster", r"expected redis\+sentinel://"),
        ("redis+sentinel://h1:x/mymaster", "Port"),
        ("redis+sentinel://h1/mymaster?ssl_ca_certs=ca.pem", "rediss:// only"),
        ("redis+cluster://", r"expected redis\+cluster://"),
        ("redis+cluster://h1/1", "a cluster has database 0 only"),
        ("redis+cluster://h1?db=3", "a cluster has database 0 only"),
        ("redis+cluster://h1?sentinel_password=p", r"redis\+sentinel:// only"),
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


def test_sentinels_have_credentials_of_their_own(tmp_path: Path) -> None:
    url = parse_url(f"redis+sentinel://u:p@h/a?sentinel_username=s&sentinel_password_file={tmp_path}/pw")
    (tmp_path / "pw").write_text("q\n")
    assert (url.credentials(), url.sentinel_credentials()) == (("u", "p"), ("s", "q"))
    assert parse_url("redis+sentinel://u:p@h/a").sentinel_credentials() == ()


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
