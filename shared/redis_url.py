"""The broker's URL: `redis://`, `rediss://` (TLS) or `unix://`, with user, password, database and options."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

if TYPE_CHECKING:
    import ssl

PASSWORD_FILE = "password_file"
URL_OPTIONS = {
    PASSWORD_FILE,
    *("db", "username", "password"),
    *("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_password"),
    *("ssl_cert_reqs", "ssl_check_hostname", "ssl_min_version", "ssl_ciphers"),
}
_VERIFY = ("none", "optional", "required")
_FALSE = ("0", "f", "false", "n", "no")


class BrokerUrl(msgspec.Struct, frozen=True):
    """Address and credentials of the broker. `tls` holds the `ssl_` options without the prefix; None without TLS."""

    host: str
    port: int
    path: str  # of a Unix socket; empty for TCP
    db: int
    username: str
    password: str
    password_file: str
    tls: dict[str, str] | None

    @property
    def address(self) -> str:
        return self.path or f"{self.host}:{self.port}"

    def credentials(self) -> tuple[str, ...]:
        """Return the arguments of AUTH, none without a user or password.

        Reads the password file each time, so the password can be changed without a restart. Raises OSError or
        ValueError if the file can't be read.
        """
        password = Path(self.password_file).read_text().strip() if self.password_file else self.password
        return (self.username, password) if self.username else (password,) if password else ()

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


def parse_url(url: str) -> BrokerUrl:
    """Parse and validate a URL. Raises ValueError, whose text may contain parts of the password."""
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query))
    tls = {name.removeprefix("ssl_"): value for name, value in options.items() if name.startswith("ssl_")}
    if parts.scheme not in ("redis", "rediss", "unix") or (tls and parts.scheme != "rediss"):
        raise ValueError("expected redis://, rediss:// or unix://, and ssl_ options for rediss:// only")
    if tls.get("cert_reqs", "required") not in _VERIFY:
        raise ValueError(f"ssl_cert_reqs is one of {', '.join(_VERIFY)}")
    is_unix = parts.scheme == "unix"
    if is_unix and not parts.path:
        raise ValueError("a unix:// URL has the socket's path")
    return BrokerUrl(
        host=unquote(parts.hostname or "localhost"),
        port=parts.port or 6379,
        path=unquote(parts.path) if is_unix else "",
        db=int(options.get("db") or ("" if is_unix else parts.path.strip("/")) or 0),
        username=unquote(parts.username or "") or options.get("username", ""),
        password=unquote(parts.password or "") or options.get("password", ""),
        password_file=options.get(PASSWORD_FILE, ""),
        tls=tls if parts.scheme == "rediss" else None,
    )
