"""Finds the primary for a key: one server, the primary that Sentinels know, or a node of a cluster.

Sentinels and nodes are asked over short connections of their own. What they said is kept for the whole process until a
connection fails, and is asked again every second while connections are open. A connection whose key has moved is told,
so a call that waits at a demoted primary ends. A view with a lower epoch is older: a Sentinel or node that was cut off
is believed only if no other answers.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import hiredis

from smartbatch.shared.errors import BrokerUnavailable
from smartbatch.shared.keys import SLOTS, slot
from smartbatch.shared.partitions import SlotRange
from smartbatch.shared.redis_url import Address, BrokerUrl, parse_url

if TYPE_CHECKING:
    import ssl

log = logging.getLogger(__name__)

Command = Sequence[str | int | bytes]

ASK_TIMEOUT_S = 0.5  # for one Sentinel or node; then the next one is asked
ASK_EVERY_S = 0.1  # least time between two times, however many connections fail
WATCH_EVERY_S = 1.0

_INCOMPLETE = object()


class View(NamedTuple):
    """Where the primaries are, as one Sentinel or node sees it."""

    epoch: int  # rises with each failover
    asked: Address  # who said it
    ranges: list[tuple[int, int, Address]]  # first slot, last slot, their primary
    nodes: list[Address]  # that may be asked later

    def primary(self, key: str) -> Address | None:
        """Return the address of the key's primary, None if no node serves its slot. Without a key, of any node."""
        if not key:
            return self.asked if len(self.ranges) != 1 else self.ranges[0][2]
        number = slot(key)
        return next((address for first, last, address in self.ranges if first <= number <= last), None)


class Watcher(Protocol):
    """A connection to the primary of `key`."""

    key: str
    address: Address

    def moved(self, address: Address) -> None:
        """The primary of `key` is at another address now."""


class OneAddress:
    """One server, whatever the key."""

    def __init__(self, url: BrokerUrl) -> None:
        (self._address,) = url.addresses

    async def find(self, key: str) -> Address:
        return self._address

    async def slots(self) -> list[list[SlotRange]]:
        return []

    def failed(self, address: Address) -> None:
        pass

    def add(self, watcher: Watcher) -> None:
        pass

    def remove(self, watcher: Watcher) -> None:
        pass


class Discovery(ABC):
    """Asks one after the other until one answers, those that did not answer before at the end.

    Used in one event loop. Subclasses ask one of them.
    """

    def __init__(self, url: BrokerUrl) -> None:
        self._url = url
        self._nodes = list(url.addresses)  # in the order in which they are asked
        self._silent: set[Address] = set()  # they did not answer, so they are asked after the others
        self._view: View | None = None
        self._current = False  # no connection has failed since the view was read
        self._asked_at = 0.0  # on the loop's clock
        self._refreshing: asyncio.Task[None] | None = None
        self._tls: ssl.SSLContext | None = None  # loading certificates takes longer than an answer
        self._watchers: set[Watcher] = set()
        self._watch: asyncio.Task[None] | None = None

    async def find(self, key: str) -> Address:
        """Return the address of the key's primary. Raises BrokerUnavailable if nobody knows it."""
        recent = asyncio.get_running_loop().time() - self._asked_at < ASK_EVERY_S
        if self._view is None or not (self._current or recent):
            await self._refresh()
        assert self._view is not None
        address = self._view.primary(key)
        if address is None:
            self._current = False
            raise BrokerUnavailable(f"the broker can't be reached or can't answer: no node serves slot {slot(key)}")
        return address

    async def slots(self) -> list[list[SlotRange]]:
        """Return the slots of each primary, in the order of their lowest. Raises BrokerUnavailable if nobody knows."""
        if self._view is None:
            await self._refresh()
        assert self._view is not None
        by_primary: dict[Address, list[SlotRange]] = {}
        for first, last, address in sorted(self._view.ranges):
            by_primary.setdefault(address, []).append((first, last))
        return list(by_primary.values())

    def failed(self, address: Address) -> None:
        """Look again before the next connection, because one to this address failed. Another one is asked then: what
        the last one said may be wrong."""
        self._current = False
        self._silent.add(address)
        if self._view is not None:
            self._ask_last(self._view.asked)

    def add(self, watcher: Watcher) -> None:
        """Tell `watcher` when its key moves, until it is removed."""
        self._watchers.add(watcher)
        if self._watch is None:
            self._watch = asyncio.create_task(self._keep_watching())

    def remove(self, watcher: Watcher) -> None:
        self._watchers.discard(watcher)
        if not self._watchers and self._watch:
            self._watch.cancel()
            self._watch = None

    @abstractmethod
    async def _ask(self, node: Address) -> View:
        """Ask one of them. Raises OSError, ValueError, TimeoutError or hiredis.HiredisError."""

    async def _send(self, node: Address, commands: Sequence[Command], credentials: tuple[str, ...]) -> list[Any]:
        self._tls = self._tls or self._url.tls_context()
        return await ask(node, commands, credentials, self._tls)

    async def _refresh(self) -> None:
        """Ask, or wait for the answer to a question in progress."""
        if self._refreshing is None:
            self._refreshing = asyncio.create_task(self._ask_all())
            self._refreshing.add_done_callback(self._refreshed)
        await asyncio.shield(self._refreshing)

    def _refreshed(self, task: asyncio.Task[None]) -> None:
        self._refreshing = None
        if not task.cancelled():
            task.exception()  # marks it as retrieved; whoever waits raises it

    async def _ask_all(self) -> None:
        """Take the view of the first that answers. An older view is taken only if all are older, and the known one is
        kept if nobody answers."""
        older: list[View] = []
        reasons: list[str] = []
        for node in sorted(self._nodes, key=self._silent.__contains__):
            try:
                async with asyncio.timeout(ASK_TIMEOUT_S):
                    view = await self._ask(node)
            except (OSError, ValueError, hiredis.HiredisError) as error:  # TimeoutError is an OSError
                reasons.append(f"{node} {str(error) or type(error).__name__}")
                self._silent.add(node)
                self._tls = None  # the certificates may have changed
                continue
            self._silent.discard(node)
            if self._view is None or view.epoch >= self._view.epoch:
                self._take(view)
                return
            older.append(view)
            self._ask_last(node)
        if older:
            self._take(max(older, key=lambda view: view.epoch))
        elif self._view is None:
            raise BrokerUnavailable(f"the broker can't be reached: {'; '.join(reasons)[:300]}")
        self._asked_at = asyncio.get_running_loop().time()

    def _take(self, view: View) -> None:
        if self._view is not None and view.ranges != self._view.ranges:
            log.warning("the broker's primaries have changed: %s", ", ".join(str(a) for *_, a in view.ranges))
        self._view, self._current = view, True
        self._asked_at = asyncio.get_running_loop().time()
        known = dict.fromkeys((*view.nodes, *self._url.addresses))
        self._nodes = [*(node for node in self._nodes if node in known), *(n for n in known if n not in self._nodes)]
        for watcher in list(self._watchers):
            address = view.primary(watcher.key)
            if watcher.key and address is not None and address != watcher.address:
                watcher.moved(address)

    def _ask_last(self, node: Address) -> None:
        if node in self._nodes:
            self._nodes.remove(node)
            self._nodes.append(node)

    async def _keep_watching(self) -> None:
        while True:
            await asyncio.sleep(WATCH_EVERY_S)
            await self._refresh()  # does not raise once there is a view


class SentinelDiscovery(Discovery):
    """The Sentinels of the URL. They know one primary, for all keys."""

    async def _ask(self, node: Address) -> View:
        name = self._url.primary_name
        # The first names the new primary earlier in a failover; the second has the epoch.
        commands = [("SENTINEL", "GET-MASTER-ADDR-BY-NAME", name), ("SENTINEL", "MASTER", name)]
        found, info = await self._send(node, commands, self._url.sentinel_credentials())
        if not found:
            raise ValueError(f"knows no primary named {name!r}")
        host, port = found
        fields = dict(zip(info[::2], info[1::2], strict=False))
        address = Address(host.decode(), int(port))
        return View(int(fields[b"config-epoch"]), node, [(0, SLOTS - 1, address)], [])


class ClusterDiscovery(Discovery):
    """The nodes of a cluster: those of the URL first, then all that they know."""

    async def _ask(self, node: Address) -> View:
        commands = [("CLUSTER", "SLOTS"), ("CLUSTER", "INFO")]
        slots, info = await self._send(node, commands, self._url.credentials())
        fields = dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
        ranges = [(first, last, _address(primary, node)) for first, last, primary, *_ in slots]
        nodes = [_address(each, node) for _, _, *members in slots for each in members]
        return View(int(fields["cluster_current_epoch"]), node, ranges, nodes)


def _address(member: Sequence[Any], asked: Address) -> Address:
    """Return the address of a node in the reply of CLUSTER SLOTS. Without a host it is that of the node asked."""
    host, port, *_ = member
    text = host.decode() if host else ""
    return Address(asked.host if text in ("", "?") else text, port)


async def ask(
    node: Address,
    commands: Sequence[Command],
    credentials: tuple[str, ...] = (),
    tls: ssl.SSLContext | None = None,
) -> list[Any]:
    """Connect, send commands and return their replies. Raises OSError, ValueError or hiredis.HiredisError."""
    sent = [("AUTH", *credentials), *commands] if credentials else list(commands)
    reader, writer = await asyncio.open_connection(node.host, node.port, ssl=tls)
    try:
        writer.write(b"".join(hiredis.pack_command(tuple(command)) for command in sent))  # type: ignore[arg-type]
        parser = hiredis.Reader(notEnoughData=_INCOMPLETE)
        replies: list[Any] = []
        while len(replies) < len(sent):
            data = await reader.read(65536)
            if not data:
                raise ConnectionError("closed the connection")
            parser.feed(data)
            while (reply := parser.gets()) is not _INCOMPLETE:
                if isinstance(reply, Exception):
                    raise reply
                replies.append(reply)
    finally:
        writer.transport.abort()
    return replies[len(sent) - len(commands) :]


Primaries = OneAddress | Discovery

_discoveries: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Discovery]] = weakref.WeakKeyDictionary()


def primaries(url: str) -> Primaries:
    """Return what finds the primaries of a URL. All connections of an event loop share one view."""
    parsed = parse_url(url)
    if parsed.kind == "single":
        return OneAddress(parsed)
    of_loop = _discoveries.setdefault(asyncio.get_running_loop(), {})
    if url not in of_loop:
        of_loop[url] = SentinelDiscovery(parsed) if parsed.kind == "sentinel" else ClusterDiscovery(parsed)
    return of_loop[url]
