"""Several real servers as one broker, for the tests: a cluster, or a primary with replicas and Sentinels."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import redis

from smartbatch.deploy import embedded_cluster
from smartbatch.deploy.embedded_cluster import HOST, PRIMARY_NAME, Server
from smartbatch.shared.keys import SLOTS, Keys, slot
from tests.brokers import eventually

Kind = Literal["cluster", "sentinel"]


class Node:
    """One server, with a client of the tests' own. `options`: more of its command line."""

    def __init__(self, server: Server, options: Sequence[str] = ()) -> None:
        self.server = server
        self._command = [*server.command, *options]
        self.port = server.port
        self.tls_port = int(dict(pairwise(options)).get("--tls-port", 0))
        self.paused = False
        self.sync: Any = redis.Redis(HOST, server.port, protocol=2, socket_timeout=5)
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)

    @property
    def running(self) -> bool:
        return self.process.poll() is None and not self.paused

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        self.process.kill()
        self.process.wait()

    def pause(self) -> None:
        self.paused = True
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.paused = False

    def stop(self) -> None:
        self.sync.close()
        self.kill()

    def replication(self) -> dict[str, Any]:
        return self.sync.info("replication")


class Servers:
    """What `Broker` is for one server. `sync` is a client of the primary that has the keys of `model`.

    `options` returns more of the command line of each server. With a --tls-port, a primary with replicas and Sentinels
    find each other there.
    """

    def __init__(
        self,
        kind: Kind,
        binary: str,
        model: str = "simulated",
        primaries: int = 3,
        options: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        self.kind: Kind = kind
        self.folder = tempfile.TemporaryDirectory(prefix="smartbatch-test-")
        self.key = Keys(model).requests
        self.sentinels: list[Node] = []
        if kind == "cluster":
            servers = embedded_cluster.cluster(primaries, self.folder.name, binary)
            self.url = embedded_cluster.cluster_url(servers)
            self.nodes = [Node(server, options()) for server in servers]
            asyncio.run(embedded_cluster.form_cluster(servers))
            return
        servers, sentinels = embedded_cluster.sentinel(self.folder.name, binary)
        self.url = embedded_cluster.sentinel_url(sentinels)
        more = options()
        if "--tls-port" in more:
            for file in Path(self.folder.name).glob("*.conf"):  # names the primary's other port
                file.write_text(re.sub(rf"\b{servers[0].port}\b", more[more.index("--tls-port") + 1], file.read_text()))
        self.nodes = [Node(servers[0], more), *(Node(server, options()) for server in servers[1:])]
        asyncio.run(embedded_cluster.until_replicated(servers))
        self.sentinels = [Node(server, options()) for server in sentinels]
        asyncio.run(embedded_cluster.until_watched(sentinels))

    @property
    def sync(self) -> Any:
        return self.primary().sync

    def primary(self) -> Node:
        """Return the primary of the model's keys."""
        return eventually(lambda: self._primaries().get(slot(self.key)))

    def clients(self) -> list[Any]:
        """Return a client of each primary."""
        return [node.sync for node in self.primaries()]

    def primaries(self) -> list[Node]:
        return list(dict.fromkeys(self._primaries().values()))

    def _primaries(self) -> dict[int, Node]:
        """Return the primary of each slot, as a running server or Sentinel says."""
        if self.kind == "sentinel":
            _, port = self.sentinels[0].sync.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", PRIMARY_NAME)
            return dict.fromkeys(range(SLOTS), self._at(int(port)))
        ranges = next(node for node in self.nodes if node.running).sync.execute_command("CLUSTER", "SLOTS")
        return {number: self._at(of[1]) for first, last, of, *_ in ranges for number in range(first, last + 1)}

    def _at(self, port: int) -> Node:
        return next(node for node in self.nodes if port in (node.port, node.tls_port))

    def replicas(self, of: Node) -> list[Node]:
        """Return the running replicas of a primary."""
        states = [(node, node.replication()) for node in self.nodes if node.running]
        return [node for node, state in states if state["role"] == "slave" and state["master_port"] == of.port]

    def until_taken_over(self, old: Node, timeout_s: float = 20.0) -> None:
        """Wait until all keys have a primary, and `old` is none."""

        def taken() -> bool:
            try:
                found = self._primaries()
                primaries = set(found.values())
                serve = all(node.running and node.replication()["role"] == "master" for node in primaries)
            except redis.RedisError:  # a server that has just started does not listen yet
                return False
            return len(found) == SLOTS and old not in primaries and serve

        eventually(taken, timeout_s)

    def until_written(self) -> None:
        """Wait until the primary of the model's keys takes writes."""

        def written() -> bool:
            try:
                return self.primary().sync.unlink(f"{self.key}:none") == 0
            except redis.RedisError:  # a node of a cluster that has just started waits two seconds
                return False

        eventually(written)

    def until_healed(self, timeout_s: float = 60.0) -> None:
        """Wait until every server runs, and all replicas follow the right primary."""
        eventually(self._healed, timeout_s, 0.1)

    def _healed(self) -> bool:
        try:
            states = [node.replication() for node in self.nodes]
            if self.kind == "cluster" and not all(self._in_order(node) for node in self.nodes):
                return False
        except redis.RedisError:
            return False
        replicas = [state for state in states if state["role"] == "slave"]
        expected = len(self.nodes) // 2 if self.kind == "cluster" else embedded_cluster.REPLICAS
        primaries = {node.port for node, state in zip(self.nodes, states, strict=True) if state["role"] == "master"}
        linked = all(each["master_link_status"] == "up" and each["master_port"] in primaries for each in replicas)
        return linked and len(replicas) == expected

    def _in_order(self, node: Node) -> bool:
        """Whether all slots are served and no node is failing, as this one sees it."""
        state, nodes = (node.sync.execute_command("CLUSTER", name) for name in ("INFO", "NODES"))
        return b"cluster_state:ok" in state and not any(b"fail" in line.split()[2] for line in nodes.splitlines())

    def fail_over(self, old: Node) -> None:
        """Let a replica take over from a primary that runs."""
        if self.kind == "cluster":
            self.replicas(old)[0].sync.execute_command("CLUSTER", "FAILOVER")
        else:
            self.sentinels[0].sync.execute_command("SENTINEL", "FAILOVER", PRIMARY_NAME)

    def move_slot(self) -> None:
        """Move the slot of the model's keys to another primary of the cluster, key by key and slowly."""
        source = self.primary()
        target = next(node for node in self.primaries() if node is not source)
        number, ids = slot(self.key), {node: node.sync.execute_command("CLUSTER", "MYID") for node in (source, target)}
        target.sync.execute_command("CLUSTER", "SETSLOT", number, "IMPORTING", ids[source])
        source.sync.execute_command("CLUSTER", "SETSLOT", number, "MIGRATING", ids[target])
        time.sleep(0.3)
        while keys := source.sync.execute_command("CLUSTER", "GETKEYSINSLOT", number, 10):
            source.sync.execute_command("MIGRATE", HOST, target.port, "", 0, 5000, "KEYS", *keys)
        for node in (target, source, *self.primaries()):
            node.sync.execute_command("CLUSTER", "SETSLOT", number, "NODE", ids[target])

    def stop(self) -> None:
        for node in (*self.nodes, *self.sentinels):
            node.stop()
        self.folder.cleanup()
