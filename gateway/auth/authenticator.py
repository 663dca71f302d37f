"""The guard: finds out whose key a request carries. One lookup in a dict of digests, before the body is read.

That lookup compares digests, not keys: what its timing could tell is about the SHA-256 of a guess, and nobody can
choose a guess by its digest.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from smartbatch.gateway.auth.key_store import KeyStore
from smartbatch.gateway.auth.keys import Digest, digest_of
from smartbatch.gateway.auth.principal import ANONYMOUS, Anonymous, Principal
from smartbatch.gateway.auth.usage_sync import UsageSync
from smartbatch.gateway.web.live import page
from smartbatch.shared.errors import Forbidden, SmartBatchError, Unauthenticated
from smartbatch.shared.settings import Settings
from smartbatch.shared.telemetry import metric_names as names

log = logging.getLogger(__name__)

Headers = Iterable[tuple[bytes, bytes]]

RELOAD_S = 1.0
# asked by engines and load balancers, and they tell nothing
ALWAYS_OPEN = frozenset({"/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"})
MONITORED = ("/metrics", "/stats", page.EVENTS)  # how their paths end

_HOW = "missing API key: send Authorization: Bearer <key> or X-API-Key: <key>"


class Authenticator:
    """One per gateway process; `run` is its task. Without keys in the settings everybody is ANYONE."""

    def __init__(self, settings: Settings, registry) -> None:
        self._key_store = KeyStore(settings) if KeyStore.wanted(settings) else None
        self._principals: dict[str, Principal] = {}
        self._by_digest: dict[Digest, Principal] = {}
        self._decisions = names.KEY_REQUESTS.counter(registry)
        self._unknown = self._decisions.labels("", "unauthenticated")
        self._usage_sync = UsageSync(settings.broker_url) if self._key_store else None
        self._take_over()

    async def start(self) -> None:
        """Learn what was spent before this process, so that a restart gives nobody a new quota."""
        if self._usage_sync:
            await self._usage_sync.settle(self._principals.values())

    async def run(self) -> None:
        """Keep the keys as the file says, and what they spent as all gateways say. Ends at once without keys."""
        while self._key_store and self._usage_sync:
            await asyncio.sleep(RELOAD_S)
            if self._key_store.reload():
                self._take_over()
            await self._usage_sync.settle(self._principals.values())

    async def close(self) -> None:
        if self._usage_sync:
            await self._usage_sync.settle(self._principals.values())
            await self._usage_sync.close()

    def _take_over(self) -> None:
        """A name that stays keeps what it has spent; one that is gone is refused from here on."""
        found = self._key_store.keys if self._key_store else {}
        principals = {}
        for name, key in found.items():
            principal = self._principals.get(name)
            if principal is None:
                principal = Principal(name, key, self._decisions)
            principal.change(key)
            principals[name] = principal
        self._principals = principals
        self._by_digest = {principal.key.digest: principal for principal in principals.values()}

    def identify(self, headers: Headers) -> Anonymous:
        """Return whose request it is. Raises Unauthenticated."""
        if self._key_store is None:
            return ANONYMOUS
        bearer = own = b""
        for name, value in headers:
            if name == b"authorization" and value[:7].lower() == b"bearer ":
                bearer = value[7:].strip()
            elif name == b"x-api-key":
                own = value.strip()
        sent = bearer or own
        principal = self._by_digest.get(digest_of(sent)) if sent else None
        if principal is None:
            self._unknown.inc()
            raise Unauthenticated("invalid API key" if sent else _HOW)
        return principal

    def refusal(self, path: str, headers: Headers) -> SmartBatchError | None:
        """Why a page (anything but a prediction) isn't shown to who asks for it, or None. What isn't known to be open
        needs a key, so a page that is added later does too."""
        if self._key_store is None or path in ALWAYS_OPEN or path in page.FILES:
            return None
        try:
            principal = self.identify(headers)
        except Unauthenticated as error:
            return error
        if path.endswith(MONITORED) and isinstance(principal, Principal) and principal.key.role == "client":
            return Forbidden("an API key with the role monitor or admin is required")
        return None
