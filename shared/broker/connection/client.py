"""Clients of Redis, and the translation of its errors.

redis-py's defaults don't fit here: it would resend *every* failed command ten times (a resent XREADGROUP strands
a batch), and its socket timeout would break longer blocking reads. So no client of ours retries by itself; each
caller knows whether what it sends may be sent again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

import redis.exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider

from smartbatch.shared.broker.connection.redis_client import LinkedRedis
from smartbatch.shared.errors import BrokerFull, BrokerUnavailable
from smartbatch.shared.settings import PASSWORD_FILE, mask_url

Client = Any  # a LinkedRedis; redis-py's annotations don't know that ours never decode, so they'd be wrong

COMMAND_TIMEOUT_S = 2.0
BLOCK_S = 1.0  # the longest blocking read; a black-holed link is noticed one second later
CONNECT_TIMEOUT_S = 1.0


class _FromFile(CredentialProvider):
    """Reads the password at each connect, so it may be changed without a restart."""

    def __init__(self, username: str, path: str) -> None:
        self._username = username
        self._path = Path(path)

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        password = self._path.read_text().strip()
        return (self._username, password) if self._username else (password,)


def _credentials(url: str) -> tuple[str, dict[str, Any]]:
    """Take our own option, the password's file, out of a broker's URL."""
    parts = urlsplit(url)
    options = parse_qsl(parts.query)
    path = dict(options).get(PASSWORD_FILE)
    if not path:
        return url, {}
    user, _, host = parts.netloc.rpartition("@")
    query = urlencode([(name, value) for name, value in options if name != PASSWORD_FILE])
    bare = urlunsplit(parts._replace(netloc=host, query=query))
    return bare, {"credential_provider": _FromFile(unquote(user.partition(":")[0]), path)}


def connect(url: str, *, block_s: float = 0.0) -> Client:
    """Return a client whose calls fail after a bounded time. `block_s`: how long its blocking reads may block."""
    url, credentials = _credentials(url)
    client: Any = LinkedRedis.from_url(
        url,
        protocol=2,  # plain lists; RESP3 turns stream replies into maps
        socket_timeout=block_s + 1.0 if block_s else COMMAND_TIMEOUT_S,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        **({} if url.startswith("unix:") else {"socket_keepalive": True}),  # which redis-py takes for TCP alone
        retry=Retry(NoBackoff(), 0),
        client_name="smartbatch",
        driver_info=None,  # no CLIENT SETINFO: Redis 7.0 has none, so no ACL that names it can be loaded there
        **credentials,
    )
    client.link_up(exclusive=bool(block_s))
    return client


class _Translation:
    """A class, since each call passes through it: a generator takes nearly three times as long."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, redis.exceptions.OutOfMemoryError):
            raise BrokerFull("the broker has reached its memory limit") from error
        if isinstance(error, redis.exceptions.RedisError | OSError):  # TimeoutError is one
            raise BrokerUnavailable(f"the broker can't be reached or can't answer: {_brief(error)}") from error


_TRANSLATION = _Translation()


def broker_errors() -> _Translation:
    """Raise BrokerUnavailable or BrokerFull for whatever redis-py raises within."""
    return _TRANSLATION


def _brief(error: BaseException) -> str:
    """The error in a line, without the address it may hold."""
    return f"{type(error).__name__}: {str(error).splitlines()[0][:200]}" if str(error) else type(error).__name__


async def check(url: str) -> str:
    """Connect once and return what answers, as `Redis 7.0.15`. Raises BrokerUnavailable with a clear line."""
    client = connect(url)
    try:
        with broker_errors():
            info = await client.info("server")
        name = "Valkey" if "valkey_version" in info else "Redis"
        version = str(info.get("valkey_version") or info["redis_version"])
        if int(str(info["redis_version"]).split(".")[0]) < 7:
            raise BrokerUnavailable(f"{mask_url(url)} is {name} {version}; 7.0 or newer is needed")
        return f"{name} {version}"
    finally:
        await client.aclose()
