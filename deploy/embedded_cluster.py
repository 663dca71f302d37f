"""Several servers on this machine, for trying out and for tests: a cluster, or a primary with replicas and Sentinels.

They store only their configuration. A primary that came back at once would be empty, so the launcher restarts a server
only after another has taken over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import hiredis
import msgspec

from smartbatch.deploy import embedded_broker
from smartbatch.deploy.ports import free_ports
from smartbatch.shared.broker.connection.primary import ask
from smartbatch.shared.errors import StartupError
from smartbatch.shared.keys import SLOTS
from smartbatch.shared.redis_url import Address

PRIMARY_NAME = "smartbatch"
NODE_TIMEOUT_MS = 2000  # until a node of a cluster that does not answer is replaced
DOWN_AFTER_MS = 1000  # the same at the Sentinels
RESTART_S = 6.0  # longer than a failover takes
FORM_TIMEOUT_S = 30.0
REPLICAS, SENTINELS = 2, 3

HOST = "127.0.0.1"


class Server(msgspec.Struct, frozen=True):
    """One server process."""

    name: str
    port: int
    command: list[str]

    async def ask(self, *command: str | int | bytes) -> Any:
        """Send one command and return its reply. Raises OSError or hiredis.HiredisError."""
        (reply,) = await ask(Address(HOST, self.port), [command])
        return reply

    async def fields(self, *command: str) -> dict[str, str]:
        """Send a command whose reply has lines of `name:value`."""
        lines = (await self.ask(*command)).decode().splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)


def cluster(primaries: int, folder: str, binary: str = "") -> list[Server]:
    """Return the servers of a cluster, as many replicas as primaries; the primaries first."""
    count = 2 * primaries
    first = free_ports(2 * count)
    servers = []
    for number in range(count):
        port = first + number
        options = {
            "--cluster-enabled": "yes",
            "--cluster-port": str(first + count + number),
            "--cluster-config-file": f"nodes-{port}.conf",
            "--cluster-node-timeout": str(NODE_TIMEOUT_MS),
            "--cluster-require-full-coverage": "no",  # slots with a primary are served while others have none
            "--repl-diskless-sync-delay": "0",
        }
        servers.append(Server(f"broker {number + 1}", port, _command(binary, port, folder, options)))
    return servers


def cluster_url(servers: Sequence[Server]) -> str:
    return f"redis+cluster://{','.join(f'{HOST}:{server.port}' for server in servers)}"


async def form_cluster(servers: Sequence[Server]) -> None:
    """Make a cluster of running servers, as `redis-cli --cluster create` does. Raises StartupError."""
    count = len(servers) // 2
    primaries, replicas = servers[:count], servers[count:]
    for server in servers:
        await _until(partial(server.ask, "PING"), "start")
    for number, server in enumerate(servers):
        await server.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
    for number, server in enumerate(primaries):
        slots = number * SLOTS // count, (number + 1) * SLOTS // count - 1
        await server.ask("CLUSTER", "ADDSLOTSRANGE", *slots)
    for server in servers[1:]:
        await servers[0].ask("CLUSTER", "MEET", HOST, server.port, _option(server, "--cluster-port"))

    async def formed(**expected: str) -> bool:
        states = [await server.fields("CLUSTER", "INFO") for server in servers]
        return all(expected.items() <= state.items() for state in states)

    await _until(partial(formed, cluster_known_nodes=str(len(servers))), "find each other")
    for primary, replica in zip(primaries, replicas, strict=True):
        primary_id = await primary.ask("CLUSTER", "MYID")
        await _until(partial(replica.ask, "CLUSTER", "REPLICATE", primary_id), "become replicas")
    await _until(partial(formed, cluster_state="ok"), "form a cluster")
    await _until(partial(_synchronized, replicas), "copy their primaries")


def sentinel(folder: str, binary: str = "") -> tuple[list[Server], list[Server]]:
    """Return a primary with its replicas, and the Sentinels that watch them."""
    count = 1 + REPLICAS + SENTINELS
    first = free_ports(count)
    servers = []
    for number in range(1 + REPLICAS):
        port = first + number
        file = Path(folder, f"server-{port}.conf")  # a Sentinel makes the server write there whom it replicates
        file.write_text(f"replicaof {HOST} {first}\n" if number else "")
        options = {"--repl-diskless-sync-delay": "0"}
        servers.append(Server(f"broker {number + 1}", port, _command(binary, port, folder, options, file)))
    sentinels = []
    for number in range(SENTINELS):
        port = first + 1 + REPLICAS + number
        file = Path(folder, f"sentinel-{port}.conf")
        file.write_text(
            f"sentinel monitor {PRIMARY_NAME} {HOST} {first} {SENTINELS // 2 + 1}\n"
            f"sentinel down-after-milliseconds {PRIMARY_NAME} {DOWN_AFTER_MS}\n"
            f"sentinel failover-timeout {PRIMARY_NAME} 10000\n"
        )
        program = binary or str(embedded_broker.server_binary())
        options = ["--port", str(port), "--bind", HOST, "--dir", folder, "--sentinel", "--loglevel", "warning"]
        sentinels.append(Server(f"sentinel {number + 1}", port, [program, str(file), *options]))
    return servers, sentinels


def sentinel_url(sentinels: Sequence[Server]) -> str:
    return f"redis+sentinel://{','.join(f'{HOST}:{server.port}' for server in sentinels)}/{PRIMARY_NAME}"


async def until_replicated(servers: Sequence[Server]) -> None:
    """Wait until the replicas have copied their primary. Raises StartupError."""
    await _until(partial(_synchronized, servers[1:]), "copy their primary")


async def until_watched(sentinels: Sequence[Server]) -> None:
    """Wait until the Sentinels know each other and the replicas. Raises StartupError."""
    expected = {"num-slaves": str(REPLICAS), "num-other-sentinels": str(SENTINELS - 1)}

    async def known() -> bool:
        for server in sentinels:
            flat = [text.decode() for text in await server.ask("SENTINEL", "MASTER", PRIMARY_NAME)]
            if not expected.items() <= dict(zip(flat[::2], flat[1::2], strict=False)).items():
                return False
        return True

    await _until(known, "find each other")


def _command(binary: str, port: int, folder: str, options: dict[str, str], file: Path | None = None) -> list[str]:
    program, *arguments = embedded_broker.arguments(port, folder, binary)
    pairs = [part for pair in options.items() for part in pair]
    return [program, *([str(file)] if file else []), *arguments, *pairs]


def _option(server: Server, name: str) -> str:
    return server.command[server.command.index(name) + 1]


async def _synchronized(replicas: Sequence[Server]) -> bool:
    states = [await server.fields("INFO", "replication") for server in replicas]
    return all(state.get("master_link_status") == "up" for state in states)


async def _until(condition: Callable[[], Awaitable[Any]], what: str) -> None:
    """Wait until `await condition()` is true. It may raise what `Server.ask` raises."""
    try:
        async with asyncio.timeout(FORM_TIMEOUT_S):
            while True:
                try:
                    if await condition():
                        return
                except (OSError, hiredis.HiredisError):
                    pass
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise StartupError(f"the embedded servers did not {what} within {FORM_TIMEOUT_S:g} s") from None
