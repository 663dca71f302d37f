"""The local launcher: starts broker, gateway and workers as child processes, restarts them and drains them."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import ipaddress
import os
import signal
import tempfile
import urllib.request
from collections.abc import Sequence

import msgspec
from rich.status import Status
from rich.text import Text

from smartbatch.deploy import broker_file, startup_error
from smartbatch.deploy.launcher import broker, ready_output
from smartbatch.deploy.launcher.child import Child
from smartbatch.deploy.launcher.commands import Commands
from smartbatch.deploy.launcher.models import POLL_S, Models, command
from smartbatch.deploy.launcher.processes import STARTUP_EXIT, Exit, Processes, Stage
from smartbatch.deploy.launcher.screen import Screen
from smartbatch.deploy.models.entry import ModelEntry
from smartbatch.deploy.models.repository import Repository
from smartbatch.shared.broker.connection.check import check
from smartbatch.shared.errors import BrokerUnavailable
from smartbatch.shared.process import tasks
from smartbatch.shared.settings import Settings, mask_url

_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # http_proxy does not apply to the local gateway


class Launcher:
    """`run` returns the exit code, after every child process has ended. The first entry is the gateway's default."""

    def __init__(
        self,
        settings: Settings,
        entries: Sequence[ModelEntry],
        broker_given: bool,
        *,
        repository: Repository | None = None,
        model_commands: str = "any",
        grpc: bool = False,
        cluster: int = 0,
        sentinel: bool = False,
    ) -> None:
        self._settings = settings
        self._entries = entries
        self._broker_given = broker_given
        self._repository = repository
        self._model_commands = model_commands  # "any", "repository" or "none"
        self._grpc = grpc
        self._cluster = cluster  # primaries
        self._sentinel = sentinel
        self._screen = Screen(settings.log_format)
        self._stop = asyncio.Event()
        self._ready = False
        self._error: tuple[str, ...] = ()

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for name in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(name, self._on_signal)
        with tempfile.TemporaryDirectory(prefix="smartbatch-") as folder, contextlib.ExitStack() as until_end:
            self._processes = Processes(folder, self._screen)
            try:
                await self._start_broker()
                if not self._broker_given:
                    until_end.enter_context(broker_file.written(self._settings.redis_url))
                await self._serve()
            finally:
                self._stop.set()
                await self._processes.drain()
        for text in filter(None, self._error):
            self._screen.error(text)
        return STARTUP_EXIT if self._error else 0

    async def _start_broker(self) -> None:
        if self._broker_given:
            version = await check(self._settings.broker_url)
            where = f"{version} at {mask_url(self._settings.redis_url)} (REDIS_URL)"
        else:
            url, where = await broker.start(self._processes, self._may_restart, self._cluster, self._sentinel)
            self._settings = msgspec.structs.replace(self._settings, redis_url=url, redis_password_file="")
        self._screen.say(f"broker    {where}")

    async def _serve(self) -> None:
        """Start gateways and workers, and serve until a signal arrives or something can't start."""
        environ = self._environ()
        models = Models(self._settings, self._processes, environ, several=len(self._entries) > 1)
        try:
            await self._start_gateways({**environ, **self._entries[0].environ})
            added = [models.add(entry) for entry in self._entries]
            for model in added:
                await models.start(model)
            if not await self._until_ready(models):
                return
            self._ready = True
            for model in added:
                model.established = True
            self._print_ready()
            if self._model_commands == "none":
                await self._stop.wait()
            else:
                await self._take_commands(models)
        finally:
            models.close()

    async def _take_commands(self, models: Models) -> None:
        """Load and unload models until a signal arrives."""
        any_path = self._model_commands == "any"
        commands = Commands(models, self._repository, self._screen, any_path=any_path)
        taking = asyncio.create_task(commands.run())
        await self._stop.wait()
        await tasks.end([taking])
        await commands.close()

    def _environ(self) -> dict[str, str]:
        """Return the environment variables of all children that are not a broker's."""
        settings = self._settings
        return {
            "REDIS_URL": settings.redis_url,
            "REDIS_PASSWORD_FILE": settings.redis_password_file,
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

    async def _start_gateways(self, environ: dict[str, str]) -> None:
        await self._start_gateway("gateway", command("gateway"), environ)
        if self._grpc:
            more = {"GRPC_PORT": str(self._settings.grpc_port), "GATEWAY_PROCESSES": "1", "MANAGEMENT_PORT": "-1"}
            await self._start_gateway("grpc", command("gateway", "--grpc"), {**environ, **more})

    async def _start_gateway(self, name: str, words: Sequence[str], environ: dict[str, str]) -> None:
        environ = {**environ, **startup_error.environ(self._processes.folder, name)}
        await self._processes.add(Child(name, words, environ), Stage.GATEWAY, self._may_restart)

    def _may_restart(self, child: Child, ended: Exit) -> bool:
        """Say whether a child that is no worker is started again. Before the system was first ready, one that can't
        start stops everything. Later it is restarted, as the cause (mostly the broker) may be temporary."""
        if ended.code != STARTUP_EXIT or self._ready:
            return True
        self._fail(ended.failure.text if ended.failure else "", child.name)
        return False

    def _fail(self, reason: str, child: str) -> None:
        self._error = (reason, f"{child} failed to start")
        self._stop.set()

    async def _until_ready(self, models: Models) -> bool:
        """Show the progress of the workers until every model has a ready worker and the gateway knows of all. Returns
        False if a signal came first or a model failed."""
        shown: dict[str, str] = {}
        with self._screen.status() as status:
            while not self._stop.is_set():
                try:
                    await models.observe_all()
                except BrokerUnavailable as error:
                    if status:
                        status.update(Text(str(error)))
                for model in models:
                    if model.error:
                        self._fail(model.error, model.failed_child)
                        return False
                    self._show_progress(model.progress, shown, status)
                if all(model.ready for model in models):
                    known = await asyncio.to_thread(_ready_models, self._readyz)
                    if known is not None and known.issuperset(model.id for model in models):
                        return True
                await asyncio.sleep(POLL_S)
        return False

    def _show_progress(self, progress: dict[str, str], shown: dict[str, str], status: Status | None) -> None:
        for name, text in progress.items():
            if text and shown.get(name) != text:
                shown[name] = text
                line = f"{name:<9} {text}"
                status.update(Text(line)) if status else self._screen.say(line)

    @property
    def _readyz(self) -> str:
        settings = self._settings
        own_port = settings.management_port >= 0
        host, port = (
            (settings.management_host, settings.management_port) if own_port else (settings.host, settings.port)
        )
        return f"{ready_output.base_url(host, port)}/readyz"

    def _print_ready(self) -> None:
        for line in ready_output.lines(self._settings, self._entries, grpc=self._grpc, embedded=not self._broker_given):
            self._screen.say(line)

    def _on_signal(self) -> None:
        if self._stop.is_set():
            self._screen.say("stopping at once")
            self._processes.kill()
        else:
            self._stop.set()


def _ready_models(url: str) -> set[str] | None:
    """Return the models of which the gateway knows a ready worker; None while it isn't ready itself."""
    try:
        with _DIRECT.open(url, timeout=1) as response:
            ready_workers = msgspec.json.decode(response.read())["ready_workers"]
    except (OSError, http.client.HTTPException):
        return None
    return {model for model, workers in ready_workers.items() if workers}


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
