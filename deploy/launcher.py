"""The local launcher: starts broker, gateway and workers as child processes, restarts them and drains them."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import ipaddress
import logging
import os
import signal
import sys
import tempfile
import urllib.request
from collections.abc import Sequence

from rich.status import Status
from rich.text import Text

from smartbatch.deploy import broker_file, embedded_broker, embedded_cluster, startup_error
from smartbatch.deploy.child import Child
from smartbatch.deploy.ports import free_port
from smartbatch.deploy.tables import console
from smartbatch.shared.broker.admin import registry
from smartbatch.shared.broker.admin.registry import Snapshot
from smartbatch.shared.broker.connection.check import check
from smartbatch.shared.broker.connection.multiplexed import MultiplexedConnection
from smartbatch.shared.errors import BrokerUnavailable, StartupError
from smartbatch.shared.keys import Keys
from smartbatch.shared.settings import Settings, mask_url

log = logging.getLogger(__name__)

POLL_S = 0.2
BROKER_START_S = 10.0
STARTUP_EXIT = 2  # exit code of a child that can't start and has reported why
RESTART_S = (0.2, 1.0, 2.0, 5.0)  # pause before the first restart, the second, …; the last is for all later ones
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # http_proxy does not apply to the local gateway
STYLES = {logging.WARNING: "yellow", logging.ERROR: "red"}
STABLE_S = 30.0  # a child that ran this long is restarted with the first pause again


class Launcher:
    """`run` returns the exit code, after every child process has ended."""

    def __init__(
        self,
        settings: Settings,
        workers: int,
        broker_given: bool,
        *,
        grpc: bool = False,
        cluster: int = 0,
        sentinel: bool = False,
    ) -> None:
        self._settings = settings
        self._workers = workers
        self._broker_given = broker_given
        self._grpc = grpc
        self._cluster = cluster  # primaries
        self._sentinel = sentinel
        self._url = settings.broker_url
        self._console = console(stderr=True)
        self._children: list[Child] = []
        self._watchers: set[asyncio.Task[None]] = set()
        self._stop = asyncio.Event()
        self._ready = False
        self._error: tuple[str, ...] = ()
        self._folder = ""

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for name in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(name, self._on_signal)
        with tempfile.TemporaryDirectory(prefix="smartbatch-") as folder, contextlib.ExitStack() as until_end:
            self._folder = folder
            try:
                await self._start_broker(folder)
                if not self._broker_given:
                    until_end.enter_context(broker_file.written(self._url))
                await self._start_processes()
                if await self._until_ready():
                    self._ready = True
                    self._print_ready()
                    await self._stop.wait()
            finally:
                await self._drain()
        for text in filter(None, self._error):
            self._print_error(text)
        return STARTUP_EXIT if self._error else 0

    def _print(self, text: str | Text, level: int = logging.INFO) -> None:
        """Print a line for people, or log it where lines are JSON."""
        if self._settings.log_format == "json":
            log.log(level, "%s", " ".join(str(text).split()))
        else:
            self._console.print(text, style=STYLES.get(level), soft_wrap=True)

    def _print_error(self, text: str) -> None:
        self._print(f"smartbatch: {text}", logging.ERROR)

    # --- start

    async def _start_broker(self, folder: str) -> None:
        if self._broker_given:
            version = await check(self._url)
            self._print(f"broker    {version} at {mask_url(self._settings.redis_url)} (REDIS_URL)")
            return
        if self._cluster:
            kind = await self._start_cluster(folder)
        elif self._sentinel:
            kind = await self._start_sentinel(folder)
        else:
            kind = "embedded"
            port = free_port(embedded_broker.PREFERRED_PORT)
            self._url = f"redis://127.0.0.1:{port}/0"
            await self._add(Child("broker", embedded_broker.arguments(port, folder), {}, quiet=True))
        self._print(f"broker    {await self._embedded_version()}, {kind}, at {self._url}")

    async def _start_cluster(self, folder: str) -> str:
        servers = embedded_cluster.cluster(self._cluster, folder)
        self._url = embedded_cluster.cluster_url(servers)
        await self._add_servers(servers)
        await embedded_cluster.form_cluster(servers)
        return f"an embedded cluster of {self._cluster} primaries and as many replicas"

    async def _start_sentinel(self, folder: str) -> str:
        servers, sentinels = embedded_cluster.sentinel(folder)
        self._url = embedded_cluster.sentinel_url(sentinels)
        await self._add_servers(servers)
        await embedded_cluster.until_replicated(servers)
        await self._add_servers(sentinels)  # they would notice later replicas only after ten seconds
        await embedded_cluster.until_watched(sentinels)
        return f"embedded with {len(servers) - 1} replicas and {len(sentinels)} Sentinels"

    async def _add_servers(self, servers: Sequence[embedded_cluster.Server]) -> None:
        for server in servers:
            await self._add(Child(server.name, server.command, {}, quiet=True, restart_s=embedded_cluster.RESTART_S))

    async def _embedded_version(self) -> str:
        """Wait until the embedded broker answers, and return its name and version."""
        loop = asyncio.get_running_loop()
        until = loop.time() + BROKER_START_S
        while True:
            try:
                return await check(self._url)
            except BrokerUnavailable as error:
                if loop.time() > until:
                    raise StartupError(f"the embedded broker at {self._url} did not start: {error}") from None
                await asyncio.sleep(0.05)

    async def _start_processes(self) -> None:
        settings = self._settings
        environ = {
            "REDIS_URL": self._settings.redis_url if self._broker_given else self._url,
            "REDIS_PASSWORD_FILE": settings.redis_password_file if self._broker_given else "",
            "MODEL_PATH": settings.model_path,
            "MODEL_NAME": settings.model,
            "MODEL_VERSION": str(settings.model_version),
            "MODEL_WEIGHTS": settings.model_weights,
            "HOST": settings.host,
            "PORT": str(settings.port),
            "API_KEYS_FILE": settings.api_keys_file,
            "DEVICE": settings.device,
            "DTYPE": settings.dtype,
            "OPTIMIZE": settings.optimize,
            "MAX_BATCH_SIZE": str(settings.max_batch_size),
            "MAX_WAIT_TIME": str(settings.max_wait_time),
            "MANAGEMENT_PORT": str(settings.management_port),
            "LOG_LEVEL": os.environ.get("LOG_LEVEL", "warning"),
            "DEBUG_ERRORS": os.environ.get("DEBUG_ERRORS") or str(_is_loopback(settings.host)).lower(),
        }
        if not settings.torch_threads:
            environ["TORCH_THREADS"] = str(max(1, (os.cpu_count() or 1) // self._workers))
        await self._add(Child("gateway", _smartbatch("gateway"), self._environ(environ, "gateway")))
        if self._grpc:
            grpc_environ = {
                **environ,
                "GRPC_PORT": str(settings.grpc_port),
                "GATEWAY_PROCESSES": "1",
                "MANAGEMENT_PORT": "-1",
            }
            await self._add(Child("grpc", _smartbatch("gateway", "--grpc"), self._environ(grpc_environ, "grpc")))
        for number in range(1, self._workers + 1):
            name = f"worker {number}" if self._workers > 1 else "worker"
            if settings.metrics_port > 0:  # a fixed port, which Prometheus finds again after a restart
                environ["METRICS_PORT"] = str(settings.metrics_port + number - 1)
            await self._add(Child(name, _smartbatch("worker"), self._environ(environ, name)))

    def _environ(self, environ: dict[str, str], name: str) -> dict[str, str]:
        return {**environ, **startup_error.environ(self._folder, name)}

    async def _add(self, child: Child) -> None:
        await child.start()
        self._children.append(child)
        watcher = asyncio.create_task(self._watch(child))
        self._watchers.add(watcher)

    async def _watch(self, child: Child) -> None:
        """Restart a child that ends by itself.

        Before the system was first ready, a child that can't start stops everything. Later it is restarted, as the
        cause (mostly the broker) may be temporary.
        """
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            started = loop.time()
            code = await child.wait()
            child.kill()  # kills processes that it left behind, which would keep the port
            if self._stop.is_set():
                return
            reason = startup_error.read(self._folder, child.name)
            if code == STARTUP_EXIT and not self._ready:
                self._error = (reason, f"{child.name} failed to start")
                self._stop.set()
                return
            if reason:
                self._print_error(reason)
            if loop.time() - started > STABLE_S:
                failures = 0
            pause_s = max(child.restart_s, RESTART_S[min(failures, len(RESTART_S) - 1)])
            failures += 1
            event = f"was killed by signal {-code}" if code < 0 else f"exited with code {code}"
            self._print(f"{child.name} {event}; restarting in {pause_s:g} s", logging.WARNING)
            await asyncio.sleep(pause_s)
            if self._stop.is_set():
                return
            await child.start()

    # --- progress

    async def _until_ready(self) -> bool:
        """Show the progress of the workers until the gateway is ready. Returns False if a signal came first."""
        connection = MultiplexedConnection(self._url, Keys(self._settings.model_id).requests)
        shown: dict[str, str] = {}
        try:
            with self._status() as status:
                while not self._stop.is_set():
                    try:
                        snapshot = await registry.snapshot(connection, self._settings.model_id)
                        self._show_progress(snapshot, shown, status)
                    except BrokerUnavailable as error:
                        if status:
                            status.update(Text(str(error)))
                    if await asyncio.to_thread(_is_ok, f"{self._management_url}/readyz"):
                        return True
                    await asyncio.sleep(POLL_S)
        finally:
            connection.close()
        return False

    def _status(self) -> contextlib.AbstractContextManager[Status | None]:
        """Return the line that changes while the system starts; None where lines are read by a program."""
        interactive = self._console.is_terminal and self._settings.log_format != "json"
        return self._console.status("starting") if interactive else contextlib.nullcontext()

    def _show_progress(self, snapshot: Snapshot, shown: dict[str, str], status: Status | None) -> None:
        for number, (worker_id, report) in enumerate(snapshot.workers.items(), 1):
            text = report.get("progress") or report.get("state", "")
            if text and shown.get(worker_id) != text:
                shown[worker_id] = text
                line = f"worker {number}  {text}" if self._workers > 1 else f"worker    {text}"
                status.update(Text(line)) if status else self._print(line)

    def _print_ready(self) -> None:
        settings = self._settings
        model = settings.model_id
        workers = f"{self._workers} worker{'s' * (self._workers > 1)}"
        self._print(Text.assemble("ready     ", (self._base_url, "bold"), "  model ", (model, "bold"), f", {workers}"))
        if self._grpc:
            self._print(f"gRPC      {settings.host}:{settings.grpc_port}")
        example = _example_request(settings, self._base_url)
        self._print(Text.assemble("try       ", (example, "green")))
        if not self._broker_given:
            self._print(Text.assemble("join      ", (f"export REDIS_URL={self._url}", "green"), " for more workers"))
        self._print("stop      Ctrl-C drains, a second Ctrl-C stops at once")

    @property
    def _base_url(self) -> str:
        return _url(self._settings.host, self._settings.port)

    @property
    def _management_url(self) -> str:
        settings = self._settings
        return (
            self._base_url if settings.management_port < 0 else _url(settings.management_host, settings.management_port)
        )

    # --- stop

    def _on_signal(self) -> None:
        if self._stop.is_set():
            self._print("stopping at once")
            for child in self._children:
                child.kill()
        else:
            self._stop.set()

    async def _drain(self) -> None:
        """Stop the gateways first, so that no new requests arrive, then the workers, then the broker."""
        self._stop.set()
        if any(child.running for child in self._children):
            self._print("draining")
        order = {"gateway": 0, "grpc": 0, "sentinel": 2, "broker": 3}
        for stage in (0, 1, 2, 3):
            children = [child for child in self._children if order.get(child.name.split()[0], 1) == stage]
            await asyncio.gather(*(child.stop() for child in children))
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)


def _smartbatch(*command: str) -> list[str]:
    # -P: a file in the user's working directory never shadows a module of SmartBatch or the standard library
    return [sys.executable, "-P", "-m", "smartbatch.deploy.cli", *command]


def _url(host: str, port: int) -> str:
    host = "127.0.0.1" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    return f"http://{host}:{port}"


def _is_ok(url: str) -> bool:
    try:
        with _DIRECT.open(url, timeout=1) as response:
            return response.status == 200
    except (OSError, http.client.HTTPException):
        return False


def _example_request(settings: Settings, base_url: str) -> str:
    """Return a curl command that works with the model being served."""
    if settings.api_keys or settings.api_keys_file:
        base_url = f'-H "Authorization: Bearer $SMARTBATCH_API_KEY" {base_url}'
    if settings.model_path.startswith("simulated"):
        return f"curl -d hello {base_url}/predict"
    if settings.model_path == "minilm":
        return f"curl -H 'Content-Type: text/plain' -d 'a cat' {base_url}/predict"
    if ":" in settings.model_path or settings.model_path.endswith(".pt2"):
        return f"""curl -d '{{"data": …}}' {base_url}/predict"""
    return f"curl --data-binary @examples/cat.jpg {base_url}/predict"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
