"""Authenticates requests by API key, with one lookup in a dict of digests, before the body is read.

The lookup compares digests, not keys. Its timing could only reveal something about the SHA-256 of a guess, and an
attacker can't choose a guess by its digest.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable

from prometheus_client import Counter

from smartbatch.gateway.auth.key_store import KeyStore
from smartbatch.gateway.auth.keys import Digest, digest_of
from smartbatch.gateway.auth.principal import Principal
from smartbatch.gateway.auth.usage_sync import UsageSync
from smartbatch.shared.errors import Forbidden, SmartBatchError, Unauthenticated
from smartbatch.shared.settings import Settings

log = logging.getLogger(__name__)

Headers = Iterable[tuple[bytes, bytes]]

RELOAD_S = 1.0

_MISSING_KEY = "missing API key: send Authorization: Bearer <key> or X-API-Key: <key>"


class Authenticator:
    """One per gateway process that has API keys; `run` is its task.

    `open_paths` need no key. Paths that end with one of `monitoring_suffixes` need the role monitor or admin. All other
    pages need any valid key. `decisions` counts requests by key (metric_names.KEY_REQUESTS).
    """

    def __init__(
        self, settings: Settings, decisions: Counter, open_paths: Collection[str], monitoring_suffixes: tuple[str, ...]
    ) -> None:
        self.open_paths = open_paths
        self._monitoring_suffixes = monitoring_suffixes
        self._key_store = KeyStore(settings)
        self._principals: dict[str, Principal] = {}
        self._by_digest: dict[Digest, Principal] = {}
        self._decisions = decisions
        self._unauthenticated = decisions.labels("", "unauthenticated")
        self._usage_sync = UsageSync(settings.broker_url)
        self._update_principals()

    async def start(self) -> None:
        """Read the usage from before this process started, so that a restart doesn't reset quotas."""
        await self._usage_sync.sync(self._principals.values())

    async def run(self) -> None:
        """Reload the keys when their file changes, and synchronize usage with the other gateways."""
        while True:
            await asyncio.sleep(RELOAD_S)
            if self._key_store.reload():
                self._update_principals()
            await self._usage_sync.sync(self._principals.values())

    async def close(self) -> None:
        await self._usage_sync.sync(self._principals.values())
        await self._usage_sync.close()

    def _update_principals(self) -> None:
        """Apply the current keys. A key that keeps its name keeps its usage; a removed one is refused from now on."""
        principals = {}
        for name, key in self._key_store.keys.items():
            principal = self._principals.get(name)
            if principal is None:
                principal = Principal(name, key, self._decisions)
            principal.change(key)
            principals[name] = principal
        self._principals = principals
        self._by_digest = {principal.key.digest: principal for principal in principals.values()}

    def identify(self, headers: Headers) -> Principal:
        """Return the principal of a request's key. Raises Unauthenticated."""
        bearer = x_api_key = b""
        for name, value in headers:
            if name == b"authorization" and value[:7].lower() == b"bearer ":
                bearer = value[7:].strip()
            elif name == b"x-api-key":
                x_api_key = value.strip()
        sent = bearer or x_api_key
        principal = self._by_digest.get(digest_of(sent)) if sent else None
        if principal is None:
            self._unauthenticated.inc()
            raise Unauthenticated("invalid API key" if sent else _MISSING_KEY)
        return principal

    def refusal(self, path: str, headers: Headers) -> SmartBatchError | None:
        """Return the error for a request of a page (any path that runs no model), or None if it is authorized. Paths
        need a key unless they are listed as open, so new pages do too."""
        if path in self.open_paths:
            return None
        try:
            principal = self.identify(headers)
        except Unauthenticated as error:
            return error
        if path.endswith(self._monitoring_suffixes) and principal.key.role == "client":
            return Forbidden("an API key with the role monitor or admin is required")
        return None
