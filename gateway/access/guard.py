"""The guard: finds out whose key a request carries. One lookup in a dict of digests, before the body is read.

That lookup compares digests, not keys: what its timing could tell is about the SHA-256 of a guess, and nobody can
choose a guess by its digest.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from gateway.access.caller import ANYONE, Anyone, Caller
from gateway.access.keyring import Keyring
from gateway.access.keys import Digest, digest_of
from gateway.access.ledger import Ledger
from gateway.live import page
from shared import metric_names as names
from shared.errors import Forbidden, SmartBatchError, Unauthenticated
from shared.settings import Settings

log = logging.getLogger(__name__)

Headers = Iterable[tuple[bytes, bytes]]

RELOAD_S = 1.0
# asked by engines and load balancers, and they tell nothing
ALWAYS_OPEN = frozenset({"/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"})
MONITORED = ("/metrics", "/stats", page.EVENTS)  # how their paths end

_HOW = "send an API key: Authorization: Bearer <key>, or X-API-Key: <key>"


class Guard:
    """One per gateway process; `run` is its task. Without keys in the settings everybody is ANYONE."""

    def __init__(self, settings: Settings, registry) -> None:
        self._keyring = Keyring(settings) if Keyring.wanted(settings) else None
        self._callers: dict[str, Caller] = {}
        self._by_digest: dict[Digest, Caller] = {}
        self._decisions = names.KEY_REQUESTS.counter(registry)
        self._unknown = self._decisions.labels("", "unauthenticated")
        self._ledger = Ledger(settings.broker_url) if self._keyring else None
        self._take_over()

    @property
    def open(self) -> bool:
        """Whether everybody is ANYONE."""
        return self._keyring is None

    async def start(self) -> None:
        """Learn what was spent before this process, so that a restart gives nobody a new quota."""
        if self._ledger:
            await self._ledger.settle(self._callers.values())

    async def run(self) -> None:
        """Keep the keys as the file says, and what they spent as all gateways say. Ends at once without keys."""
        while self._keyring and self._ledger:
            await asyncio.sleep(RELOAD_S)
            if self._keyring.reload():
                self._take_over()
            await self._ledger.settle(self._callers.values())

    async def close(self) -> None:
        if self._ledger:
            await self._ledger.settle(self._callers.values())
            await self._ledger.close()

    def _take_over(self) -> None:
        """A name that stays keeps what it has spent; one that is gone is refused from here on."""
        found = self._keyring.keys if self._keyring else {}
        callers = {}
        for name, key in found.items():
            caller = self._callers.get(name)
            if caller is None:
                caller = Caller(name, key, self._decisions)
            caller.change(key)
            callers[name] = caller
        self._callers = callers
        self._by_digest = {caller.key.digest: caller for caller in callers.values()}

    def identify(self, headers: Headers) -> Anyone:
        """Return whose request it is. Raises Unauthenticated."""
        if self._keyring is None:
            return ANYONE
        bearer = own = b""
        for name, value in headers:
            if name == b"authorization" and value[:7].lower() == b"bearer ":
                bearer = value[7:].strip()
            elif name == b"x-api-key":
                own = value.strip()
        sent = bearer or own
        caller = self._by_digest.get(digest_of(sent)) if sent else None
        if caller is None:
            self._unknown.inc()
            raise Unauthenticated("this API key doesn't hold here" if sent else _HOW)
        return caller

    def refusal(self, path: str, headers: Headers) -> SmartBatchError | None:
        """Why a page (anything but a prediction) isn't shown to who asks for it, or None. What isn't known to be open
        needs a key, so a page that is added later does too."""
        if self._keyring is None or path in ALWAYS_OPEN or path in page.FILES:
            return None
        try:
            caller = self.identify(headers)
        except Unauthenticated as error:
            return error
        if path.endswith(MONITORED) and isinstance(caller, Caller) and caller.key.role == "client":
            return Forbidden("this needs a key of the role monitor or admin")
        return None
