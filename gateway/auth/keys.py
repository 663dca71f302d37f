"""Parses and writes API keys as API_KEYS_FILE and API_KEYS contain them. Pure: text in, keys out.

Only digests are stored. A key is 32 random bytes, too many to guess, so a plain SHA-256 (half a microsecond per
request) is as safe as the slow hashes for passwords.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from smartbatch.shared.errors import SettingsError, UnknownModel
from smartbatch.shared.keys import check_model_name

PREFIX = "sb_"  # lets scanners for leaked secrets recognize one
KEY_BYTES = 32

Role = Literal["client", "monitor", "admin"]
Digest = bytes

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


class Key(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One key. `role`: a client runs models, a monitor reads /metrics and /stats, an admin does both."""

    sha256: str
    role: Role = "client"
    rate: Annotated[float, Meta(ge=0, le=1e9)] = 0.0  # requests per second; 0 = unlimited
    burst: Annotated[float, Meta(ge=0, le=1e9)] = 0.0  # requests at once; 0 = as many as `rate`, at least one
    quota: Annotated[int, Meta(ge=0, le=10**15)] = 0  # requests per day (UTC); 0 = unlimited
    models: tuple[str, ...] = ()  # empty = all

    @property
    def digest(self) -> Digest:
        return bytes.fromhex(self.sha256)

    @property
    def burst_requests(self) -> float:
        return max(1.0, self.burst or self.rate)

    @property
    def limited(self) -> bool:
        return self.rate > 0 or self.quota > 0


class _File(msgspec.Struct, forbid_unknown_fields=True):
    keys: dict[str, dict[str, Any]] = {}


def new_key() -> str:
    return PREFIX + secrets.token_urlsafe(KEY_BYTES)


def digest_of(key: bytes) -> Digest:
    return hashlib.sha256(key).digest()


def from_file(text: bytes, where: str) -> dict[str, Key]:
    """Read `[keys.NAME]` tables of TOML. Raises SettingsError, which never quotes a value: it may be a key."""
    keys = {}
    name = ""
    try:
        for name, table in msgspec.toml.decode(text, type=_File).keys.items():
            keys[name] = msgspec.convert(table, Key)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{where}: {name[:64]}: {error}" if name else f"{where}: {error}") from None
    check(keys.items(), where)
    return keys


def from_variable(text: str) -> dict[str, Key]:
    """Read API_KEYS, `name:sha256,name:sha256`. Raises SettingsError."""
    found = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, colon, sha256 = part.partition(":")
        if not colon:
            raise SettingsError("API_KEYS: expected name:sha256,name:sha256")
        found.append((name.strip(), Key(sha256=sha256.strip())))
    check(found, "API_KEYS")
    return dict(found)


def check(keys: Iterable[tuple[str, Key]], where: str) -> None:
    """Raise SettingsError for an invalid or repeated name or digest."""
    names: set[str] = set()
    owners: dict[Digest, str] = {}
    for name, key in keys:
        if not _NAME.fullmatch(name):
            raise SettingsError(f"{where}: a key name must be 1 to 64 characters of A-Z a-z 0-9 . _ -")
        if not _SHA256.fullmatch(key.sha256):
            raise SettingsError(f"{where}: {name}: expected the key's SHA-256, 64 hex digits (`smartbatch key new`)")
        if name in names:
            raise SettingsError(f"{where}: duplicate key name {name}")
        if key.digest in owners:
            raise SettingsError(f"{where}: {owners[key.digest]} and {name} have the same key")
        try:
            for model in key.models:
                check_model_name(model)
        except UnknownModel as error:
            raise SettingsError(f"{where}: {name}: {error}") from None
        names.add(name)
        owners[key.digest] = name


def to_toml(name: str, key: Key) -> str:
    """Return the TOML table of a key."""
    check([(name, key)], "the key")
    quoted = f'"{name}"' if "." in name else name  # an unquoted dot would nest tables
    lines = [f"[keys.{quoted}]", f'sha256 = "{key.sha256}"']
    values: Mapping[str, object] = msgspec.to_builtins(key)
    for field in ("role", "rate", "burst", "quota", "models"):
        value = values[field]
        if value != getattr(Key(sha256=""), field) and value:
            lines.append(f"{field} = {msgspec.json.encode(value).decode()}")
    return "\n".join(lines) + "\n"


def without(text: str, name: str) -> str:
    """Return a key file without the table of one key: its header and the lines up to a blank one or a comment."""
    headers = (f"[keys.{name}]", f'[keys."{name}"]', f"[keys.'{name}']")
    kept = []
    inside = False
    for line in text.splitlines(keepends=True):
        start = line.lstrip()[:1]
        ended = inside and start in ("", "#", "[")
        inside = line.strip() in headers or (inside and not ended)
        if not inside and not (ended and not start):
            kept.append(line)
    return "".join(kept)
