"""The worker process: start up, serve, drain.

event loop         batcher, publisher, heartbeat: they talk to Redis and never compute
device threads     the engine: they compute and never talk to Redis
decode threads     payloads to rows, outputs to replies
watchdog thread    ends the process when one of these makes no progress
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
import uuid
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any

import msgspec
import uvloop

from smartbatch.shared.broker.admin import registry
from smartbatch.shared.broker.connection.check import check
from smartbatch.shared.broker.connection.connections import Connections
from smartbatch.shared.broker.queue.leases import LEASE_MS, HeartbeatResult
from smartbatch.shared.broker.queue.live_limits import LiveLimits
from smartbatch.shared.errors import BrokerUnavailable, ModelLoadError, SmartBatchError, StartupError
from smartbatch.shared.keys import MODELS, Keys
from smartbatch.shared.model_info import ModelInfo
from smartbatch.shared.process import gc_freeze, tasks
from smartbatch.shared.settings import Settings
from smartbatch.shared.telemetry.process_usage import age_s
from smartbatch.worker import models
from smartbatch.worker.batching.batcher import Batcher
from smartbatch.worker.batching.throughput import ThroughputEstimator
from smartbatch.worker.core.batch import Limits
from smartbatch.worker.core.cost_model import CostModel
from smartbatch.worker.core.fingerprint import fingerprint
from smartbatch.worker.core.model import LoadContext
from smartbatch.worker.core.user_traceback import describe
from smartbatch.worker.execution import device_share
from smartbatch.worker.execution.decoding import Decoder
from smartbatch.worker.execution.encoding import EncodingStage, ReplyEncoder
from smartbatch.worker.execution.engine import Engine
from smartbatch.worker.execution.warmup import warm_up
from smartbatch.worker.observability.metrics import WorkerMetrics
from smartbatch.worker.observability.metrics_server import serve_metrics
from smartbatch.worker.observability.model_error_log import ModelErrorLog
from smartbatch.worker.observability.status_report import StatusReport
from smartbatch.worker.observability.tracing import start_tracing
from smartbatch.worker.queue.partition import Partition
from smartbatch.worker.queue.partitions import Partitions
from smartbatch.worker.watchdog import EXIT_DEVICE_LOST, Watchdog, end_process

log = logging.getLogger(__name__)

ANNOUNCE_EVERY_S = 0.5
RESERVE_FOR_S = 30.0  # longer than a failover


class Worker:
    """One worker, one device, one model. Created and run in the event loop of its process."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.worker_id = f"{socket.gethostname()[:40]}-{uuid.uuid4().hex[:12]}"
        max_rows = settings.max_batch_size
        self._loop = asyncio.get_running_loop()
        self._tracing = start_tracing(settings.model_id, self.worker_id)
        self.model = models.resolve(settings.model_path)
        self._connections = Connections(settings.broker_url)  # of the registry and of what all partitions report
        costs = CostModel()
        throughput = ThroughputEstimator(costs, max_rows)
        self._initial_limits = Limits(
            max_rows,
            settings.max_batch_bytes,
            settings.max_wait_time,
            settings.window == "adaptive",
            settings.max_batch_tokens,
            settings.pool,
        )
        self.metrics = WorkerMetrics(settings.model_id, self.worker_id)
        self._error_log = ModelErrorLog(show_errors=settings.debug_errors)
        self.engine = Engine(self.model, max_rows, costs, self.metrics, self._error_log)
        throughput.device_available = lambda: self.engine.device_available
        self.decoder = Decoder(self.model, max_rows, settings.decode_threads, self._error_log)
        self.status = StatusReport(settings, self.model, self.engine, throughput, self.metrics, self._initial_limits)
        self.partitions = Partitions(settings, self.worker_id, self._connections, self._new_partition, self._spawn)
        self.batcher = Batcher(self.engine, self._initial_limits, costs, throughput, self.worker_id)
        encoder = ReplyEncoder(self.model, self.worker_id, self._error_log)
        encoding = EncodingStage(self.engine, self.decoder, encoder, self.metrics, self._tracing)
        encoding.on_encoded = self.batcher.batch_encoded
        encoding.on_freed = self.batcher.device_freed
        self.partitions.is_idle = lambda: self.batcher.idle
        self.partitions.claims_from = lambda partition: self.batcher.source is partition
        self.partitions.on_move = self._moved
        self._watchdog = Watchdog(self.engine, self.decoder, settings.stall_timeout)
        self._info: ModelInfo  # once loaded
        self._tasks: set[asyncio.Task[None]] = set()
        self._moving: list[asyncio.Task[None]] = []  # the one that moves this worker, if any does
        self._failed: asyncio.Future[BaseException | None] = self._loop.create_future()  # a task has ended
        self._stop_requested = asyncio.Event()

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then drain. Raises StartupError if the worker can't start."""
        for name in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(name, self._stop, name)
        try:
            await self._start()
            if not self._stop_requested.is_set():
                await self._serve()
                await self._drain()
        finally:
            await self._close()

    async def _start(self) -> None:
        broker = await check(self.settings.broker_url)
        log.info("worker %s on %s, model %s", self.worker_id, broker, self.settings.model_id)
        self.status.metrics_port = serve_metrics(self.metrics.registry, self.settings)
        self.engine.on_lost = lambda why: end_process(f"the device is lost: {why}", EXIT_DEVICE_LOST)
        self.engine.start()
        await self.partitions.join_home()
        self.batcher.enter(self.partitions.current)
        self.status.partition = self.partitions.current.keys.partition
        await self._in_device_thread(self._load)
        self.batcher.sized = self.model.sized
        if not self._stop_requested.is_set():
            await self._take_name()

    async def _take_name(self) -> None:
        """Announce the model. Raises StartupError if other workers serve a different one under its name."""
        other = await self._reserve_name()
        if other is not None:
            raise StartupError(
                f"model {other.id!r} is being served already, from {other.path} (fingerprint {other.fingerprint}); "
                f"{self._info.path} (fingerprint {self._info.fingerprint}) differs from it. Choose another name "
                "(MODEL_NAME, --name) or version (MODEL_VERSION, --model-version), or replace it "
                "(REPLACE=true, --replace)"
            )

    async def _reserve_name(self) -> ModelInfo | None:
        """Announce the model for the first time. While the brokers that have the names fail over it is tried again: a
        model may have taken minutes to load. Raises BrokerUnavailable."""
        give_up_at = time.monotonic() + RESERVE_FOR_S
        while True:
            try:
                return await self._announce(replace=self.settings.replace)
            except BrokerUnavailable as error:
                if self._stop_requested.is_set():
                    return None
                if time.monotonic() > give_up_at:
                    raise
                log.warning("the model's name can't be reserved yet: %s", error)
                await asyncio.sleep(ANNOUNCE_EVERY_S)

    async def _announce(self, *, replace: bool = False) -> ModelInfo | None:
        """Announce the model if its name is free or its own. Returns the other model that holds the name."""
        info = msgspec.structs.replace(self._info, partitions=tuple(self.partitions.numbers))
        served = self._connections.of(Keys(info.id).served)
        other = await registry.reserve_name(served, info, ttl_ms=LEASE_MS, replace=replace)
        if other is None:
            await registry.announce(self._connections.of(MODELS), info)
        return other

    async def _keep_announced(self) -> None:
        """Announce the model again and again, since Redis may have lost it, and so that the name stays reserved."""
        while True:
            await asyncio.sleep(ANNOUNCE_EVERY_S)
            with contextlib.suppress(BrokerUnavailable):  # Redis still has the last announcement, or will get the next
                await self._announce()

    async def _serve(self) -> None:
        """Claim, run and publish until a signal arrives. An error in one of the tasks ends the worker."""
        gc_freeze.freeze_startup_objects()
        self.status.set_state("ready")
        await self.partitions.current.heartbeat.send()
        log.info("ready")
        self._watchdog.start()
        self._spawn(self.batcher.run())
        if await self.partitions.may_change():
            self._moving = [self._spawn(self.partitions.run())]
        self._spawn(self._keep_announced())
        stop = asyncio.create_task(self._stop_requested.wait())
        await asyncio.wait((stop, self._failed), return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if self._failed.done():
            log.critical("a task of the worker failed", exc_info=self._failed.result())
            raise SmartBatchError("a task of the worker failed; its entries go to other workers")

    async def _drain(self) -> None:
        """Finish the claimed entries within GRACE_TIME."""
        self.status.set_state("draining")
        async with asyncio.timeout(self.settings.grace_time):
            await tasks.end(self._moving)
            await self.batcher.drain()
            await asyncio.to_thread(self.decoder.close)
            await self.partitions.leave()
        log.info("drained")

    async def _close(self) -> None:
        self._watchdog.stop()
        await tasks.end(self._tasks)
        await self.partitions.close()
        if self._tracing is not None:
            await asyncio.to_thread(self._tracing.close)
        self._connections.close()

    # --- loading, in the device thread

    async def _in_device_thread(self, function: Callable[[], None]) -> None:
        """Run a function in the device thread. Returns early if a signal arrives: the process is about to end."""
        done: Future[None] = Future()

        def call() -> None:
            try:
                done.set_result(function())
            except BaseException as error:
                done.set_exception(error)

        self.engine.call(call)
        loading = asyncio.wrap_future(done)
        stop = asyncio.create_task(self._stop_requested.wait())
        await asyncio.wait([loading, stop], return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if loading.done():
            await loading

    def _load(self) -> None:
        settings = self.settings
        started = time.monotonic()
        self.status.set_state("loading", f"loading {settings.model_path}")
        context = LoadContext.of(
            settings,
            decode_threads=self.decoder.threads,
            progress=self._progress,
            in_device_thread=self.engine.between_batches,
        )
        try:
            self.model.load(context)
        except SmartBatchError:
            raise
        except Exception as error:
            log.debug("loading failed", exc_info=True)
            raise ModelLoadError(f"loading {settings.model_path} failed: {describe(error)}") from error
        if share := device_share.join(settings, self.model.device_id):
            share.on_paused = self.metrics.paused_turns.inc
            self.engine.share = share
        self._progress(f"loaded in {time.monotonic() - started:.1f} s on {self.model.device_name}")
        self.status.set_state("warming")
        warm_up(self.engine, self.model, settings.max_batch_size, self._progress)
        self.metrics.memory_limit.set(self.engine.known_memory_limit)
        self._info = self.model.info(
            settings.model,
            settings.model_path,
            settings.max_batch_size,
            fingerprint(self.model, settings.model_path, settings.model_weights),
        )
        self._info = msgspec.structs.replace(self._info, version=settings.model_version, start_s=round(age_s(), 1))

    def _progress(self, text: str) -> None:
        log.info("%s", text)
        self.status.set_state(self.status.state, text)

    # --- partitions

    def _new_partition(self, tag: str) -> Partition:
        partition = Partition(
            tag, self.settings, self.worker_id, self.decoder, self.metrics, self._tracing, self.status.fields
        )
        partition.on_heartbeat = self._after_heartbeat
        partition.heartbeat.loop_alive = self._watchdog.loop_alive
        return partition

    def _moved(self, partition: Partition) -> None:
        self.status.partition = partition.keys.partition
        self.batcher.move_to(partition)

    def _after_heartbeat(self, partition: Partition, result: HeartbeatResult) -> None:
        if self.status.state == "ready" and partition is self.partitions.current:
            self._error_log.flush()
            self._apply(result.limits)

    def _apply(self, live: LiveLimits) -> None:
        """Apply the live limits, capped by those that this worker was started with."""
        initial, self.partitions.limits = self._initial_limits, live
        limits = msgspec.structs.replace(
            initial,
            max_rows=min(initial.max_rows, live.max_batch_size or initial.max_rows),
            window_s=initial.window_s if live.max_wait_time is None else live.max_wait_time,
        )
        if limits != self.batcher.limits:
            log.info("batch limits changed: up to %d rows, a window of %g s", limits.max_rows, limits.window_s)
            self.batcher.set_limits(limits)
            self.status.limits = limits

    # --- tasks and signals

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task that only ends when it is cancelled. If it ends otherwise, the worker does."""
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)
        return task

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and not self._failed.done():
            self._failed.set_result(task.exception())

    def _stop(self, name: signal.Signals) -> None:
        if self._stop_requested.is_set():
            log.warning("%s again: ending at once; unfinished entries go to other workers", name.name)
            os._exit(130)
        log.info("%s: draining", name.name)
        self._stop_requested.set()


def main(settings: Settings) -> None:
    """Run a worker until SIGTERM or SIGINT. Raises StartupError if it can't start."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_main(settings))
    # A device thread may still be loading. It can't be interrupted, and there is nothing left to save.
    sys.stderr.flush()
    os._exit(0)


async def _main(settings: Settings) -> None:
    await Worker(settings).run()
