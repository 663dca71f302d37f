"""The broker's URL, with user, password, database and options.

redis://host:port/db                      one server; rediss:// with TLS, unix:// by its socket
redis+sentinel://host:port,host:port/name the primary that Sentinels know under this name; rediss+sentinel:// with TLS
redis+cluster://host:port,host:port       a cluster, by some of its nodes; rediss+cluster:// with TLS
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

if TYPE_CHECKING:
    import ssl

PASSWORD_FILE = "password_file"
_SENTINEL_OPTIONS = ("sentinel_username", "sentinel_password", "sentinel_password_file")
URL_OPTIONS = {
    PASSWORD_FILE,
    *("db", "username", "password"),
    *_SENTINEL_OPTIONS,
    *("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_password"),
    *("ssl_cert_reqs", "ssl_check_hostname", "ssl_min_version", "ssl_ciphers"),
}
_VERIFY = ("none", "optional", "required")
_FALSE = ("0", "f", "false", "n", "no")
_PORTS = {"sentinel": 26379}
_EXPECTED = {
    "": "redis://user:password@host:port/db (or rediss://, unix://, redis+sentinel://, redis+cluster://; "
    "special characters %-encoded)",
    "sentinel": "redis+sentinel://user:password@host:port,host:port/name?db=0 (or rediss+sentinel://), where the hosts "
    "are the Sentinels and name is what they call the primary",
    "cluster": "redis+cluster://user:password@host:port,host:port (or rediss+cluster://), where the hosts are some "
    "nodes of the cluster, without a database",
}


class InvalidUrl(ValueError):
    """The text says what was expected and contains nothing of the URL."""


class Address(NamedTuple):
    """Where one server listens."""

    host: str
    port: int
    path: str = ""  # of a Unix socket; empty for TCP

    def __str__(self) -> str:
        return self.path or f"{self.host}:{self.port}"


class BrokerUrl(msgspec.Struct, frozen=True, kw_only=True):
    """Addresses and credentials of the broker. `tls` holds the `ssl_` options without the prefix; None without TLS."""

    kind: Literal["single", "sentinel", "cluster"] = "single"
    addresses: tuple[Address, ...]  # the server; the Sentinels; some nodes of the cluster
    primary_name: str = ""  # at the Sentinels
    db: int = 0
    username: str = ""
    password: str = ""
    password_file: str = ""
    sentinel_username: str = ""
    sentinel_password: str = ""
    sentinel_password_file: str = ""
    tls: dict[str, str] | None = None

    def credentials(self) -> tuple[str, ...]:
        """Return the arguments of AUTH, none without a user or password.

        Reads the password file each time, so the password can be changed without a restart. Raises OSError or
        ValueError if the file can't be read.
        """
        return _credentials(self.username, self.password, self.password_file)

    def sentinel_credentials(self) -> tuple[str, ...]:
        """Return the arguments of AUTH for the Sentinels. Raises as `credentials` does."""
        return _credentials(self.sentinel_username, self.sentinel_password, self.sentinel_password_file)

    def tls_context(self) -> ssl.SSLContext | None:
        """Load the certificates. Returns None without TLS. Raises OSError or ValueError if they are invalid."""
        if self.tls is None:
            return None
        import ssl  # imported here, because most readers of the settings need no TLS

        options = self.tls
        context = ssl.create_default_context()
        if "ca_certs" in options or "ca_path" in options:
            context.load_verify_locations(options.get("ca_certs"), options.get("ca_path"))
        if "certfile" in options:
            context.load_cert_chain(options["certfile"], options.get("keyfile"), options.get("password"))
        verify = ssl.VerifyMode[f"CERT_{options.get('cert_reqs', 'required').upper()}"]
        context.check_hostname = verify != ssl.CERT_NONE and options.get("check_hostname", "").lower() not in _FALSE
        context.verify_mode = verify
        if "min_version" in options:
            context.minimum_version = ssl.TLSVersion(int(options["min_version"]))
        if "ciphers" in options:
            context.set_ciphers(options["ciphers"])
        return context


def expected(url: str) -> str:
    """Describe the form of a URL of this kind."""
    return _EXPECTED.get(url.partition("://")[0].lower().partition("+")[2], _EXPECTED[""])


def _credentials(username: str, password: str, password_file: str) -> tuple[str, ...]:
    password = Path(password_file).read_text().strip() if password_file else password
    return (username, password) if username else (password,) if password else ()


def parse_url(url: str) -> BrokerUrl:
    """Parse and validate a URL. Raises ValueError, whose text may contain parts of the password unless it is an
    InvalidUrl."""
    scheme, separator, rest = url.partition("://")
    transport, plus, kind = scheme.lower().partition("+")
    if not separator or transport not in ("redis", "rediss", "unix"):
        raise InvalidUrl(f"expected {_EXPECTED['']}")
    if plus and (kind not in ("sentinel", "cluster") or transport == "unix"):
        raise InvalidUrl(f"expected {_EXPECTED['']}")
    at_host = re.split(r"[/?#]", rest, maxsplit=1)[0]
    user_info, at, hosts = at_host.rpartition("@")
    listed = hosts.split(",")
    if len(listed) > 1 and not kind:
        raise InvalidUrl(f"several hosts are for {_EXPECTED['sentinel']}; or for {_EXPECTED['cluster']}")
    if kind and not all(listed):
        raise InvalidUrl(f"expected {_EXPECTED[kind]}")
    each = [urlsplit(f"{transport}://{user_info}{at}{host}{rest[len(at_host) :]}") for host in listed]
    parts, path = each[0], each[0].path
    options = dict(parse_qsl(parts.query))
    tls = {name.removeprefix("ssl_"): value for name, value in options.items() if name.startswith("ssl_")}
    if tls and transport != "rediss":
        raise InvalidUrl("expected ssl_ options for rediss:// only")
    if tls.get("cert_reqs", "required") not in _VERIFY:
        raise InvalidUrl(f"ssl_cert_reqs: expected one of {', '.join(_VERIFY)}")
    if kind != "sentinel" and any(name in options for name in _SENTINEL_OPTIONS):
        raise InvalidUrl("expected sentinel_ options for redis+sentinel:// only")
    if transport == "unix":
        if not path:
            raise InvalidUrl("expected unix:// with the path of the socket")
        addresses = (Address("localhost", 6379, unquote(path)),)
        path = ""
    else:
        port = _PORTS.get(kind, 6379)
        addresses = tuple(Address(unquote(of.hostname or "localhost"), of.port or port) for of in each)
    primary_name = ""
    if kind == "sentinel":
        primary_name, path = unquote(path.strip("/")), ""
        if not primary_name or "/" in primary_name:
            raise InvalidUrl(f"expected {_EXPECTED[kind]}")
    db = int(options.get("db") or path.strip("/") or 0)
    if kind == "cluster" and db:
        raise InvalidUrl(f"a cluster has database 0 only; expected {_EXPECTED[kind]}")
    return BrokerUrl(
        kind="sentinel" if kind == "sentinel" else "cluster" if kind == "cluster" else "single",
        addresses=addresses,
        primary_name=primary_name,
        db=db,
        username=unquote(parts.username or "") or options.get("username", ""),
        password=unquote(parts.password or "") or options.get("password", ""),
        password_file=options.get(PASSWORD_FILE, ""),
        sentinel_username=options.get("sentinel_username", ""),
        sentinel_password=options.get("sentinel_password", ""),
        sentinel_password_file=options.get("sentinel_password_file", ""),
        tls=tls if transport == "rediss" else None,
    )
