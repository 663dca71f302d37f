"""The broker of `smartbatch up`: a given one, or embedded servers that it starts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from smartbatch.deploy import embedded_broker, embedded_cluster
from smartbatch.deploy.launcher.child import Child
from smartbatch.deploy.launcher.processes import Exit, Processes, Stage
from smartbatch.deploy.ports import free_port
from smartbatch.shared.broker.connection.check import check
from smartbatch.shared.errors import BrokerUnavailable, StartupError

START_S = 10.0

MayRestart = Callable[[Child, Exit], bool]


async def start(processes: Processes, may_restart: MayRestart, cluster: int, sentinel: bool) -> tuple[str, str]:
    """Start an embedded broker: one server, a cluster of `cluster` primaries, or one primary with Sentinels.

    Returns its URL and a description. Raises StartupError.
    """
    add = partial(_add, processes, may_restart)
    if cluster:
        servers = embedded_cluster.cluster(cluster, processes.folder)
        await add(servers, Stage.BROKER)
        await embedded_cluster.form_cluster(servers)
        url = embedded_cluster.cluster_url(servers)
        kind = f"an embedded cluster of {cluster} primaries and as many replicas"
    elif sentinel:
        servers, sentinels = embedded_cluster.sentinel(processes.folder)
        await add(servers, Stage.BROKER)
        await embedded_cluster.until_replicated(servers)
        await add(sentinels, Stage.SENTINEL)  # they would notice later replicas only after ten seconds
        await embedded_cluster.until_watched(sentinels)
        url = embedded_cluster.sentinel_url(sentinels)
        kind = f"embedded with {len(servers) - 1} replicas and {len(sentinels)} Sentinels"
    else:
        port = free_port(embedded_broker.PREFERRED_PORT)
        child = Child("broker", embedded_broker.arguments(port, processes.folder), {}, quiet=True)
        await processes.add(child, Stage.BROKER, may_restart)
        url, kind = f"redis://127.0.0.1:{port}/0", "embedded"
    return url, f"{await _version(url)}, {kind}, at {url}"


async def _add(
    processes: Processes, may_restart: MayRestart, servers: Sequence[embedded_cluster.Server], stage: Stage
) -> None:
    for server in servers:
        child = Child(server.name, server.command, {}, quiet=True, restart_s=embedded_cluster.RESTART_S)
        await processes.add(child, stage, may_restart)


async def _version(url: str) -> str:
    """Wait until the embedded broker answers, and return its name and version."""
    loop = asyncio.get_running_loop()
    until = loop.time() + START_S
    while True:
        try:
            return await check(url)
        except BrokerUnavailable as error:
            if loop.time() > until:
                raise StartupError(f"the embedded broker at {url} did not start: {error}") from None
            await asyncio.sleep(0.05)
