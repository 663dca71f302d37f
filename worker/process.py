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
from smartbatch.shared.broker.connection.multiplexed import BLOCK_S, MultiplexedConnection
from smartbatch.shared.broker.queue.claims import WorkerQueue
from smartbatch.shared.broker.queue.leases import LEASE_MS, HeartbeatResult, Leases
from smartbatch.shared.broker.queue.live_limits import LiveLimits
from smartbatch.shared.errors import BrokerFull, ModelLoadError, SmartBatchError, StartupError
from smartbatch.shared.keys import Keys
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
from smartbatch.worker.execution.decoding import Decoder
from smartbatch.worker.execution.encoding import EncodingStage, ReplyEncoder
from smartbatch.worker.execution.engine import Engine
from smartbatch.worker.execution.warmup import warm_up
from smartbatch.worker.observability.metrics import WorkerMetrics
from smartbatch.worker.observability.metrics_server import serve_metrics
from smartbatch.worker.observability.model_error_log import ModelErrorLog
from smartbatch.worker.observability.status_report import StatusReport
from smartbatch.worker.observability.tracing import start_tracing
from smartbatch.worker.queue.entry_tracker import EntryTracker
from smartbatch.worker.queue.failure_detection import FailureDetector
from smartbatch.worker.queue.heartbeat import Heartbeat
from smartbatch.worker.queue.reply_publisher import ReplyPublisher
from smartbatch.worker.watchdog import EXIT_DEVICE_LOST, Watchdog, end_process

log = logging.getLogger(__name__)


class Worker:
    """One worker, one device, one model. Created and run in the event loop of its process."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.worker_id = f"{socket.gethostname()[:40]}-{uuid.uuid4().hex[:12]}"
        keys = Keys(settings.model)
        max_rows = settings.max_batch_size
        self._loop = asyncio.get_running_loop()
        self._tracing = start_tracing(settings.model, self.worker_id)
        self.model = models.resolve(settings.model_path)
        self._redis = MultiplexedConnection(settings.broker_url)
        self._blocking_redis = MultiplexedConnection(settings.broker_url, block_s=BLOCK_S)
        self._lease_redis = MultiplexedConnection(settings.broker_url)  # a heartbeat must not wait behind a large reply
        queue = WorkerQueue(
            self._blocking_redis,
            self._redis,
            keys,
            self.worker_id,
            lease_ms=LEASE_MS,
            reply_ttl_s=settings.reply_ttl,
        )
        costs = CostModel()
        throughput = ThroughputEstimator(costs, max_rows)
        failure_detector = FailureDetector()
        self._initial_limits = Limits(
            max_rows,
            settings.max_batch_bytes,
            settings.max_wait_time,
            settings.window == "adaptive",
            settings.max_batch_tokens,
            settings.pool,
        )
        self.metrics = WorkerMetrics(settings.model, self.worker_id)
        self._error_log = ModelErrorLog(show_errors=settings.debug_errors)
        self.engine = Engine(self.model, max_rows, costs, self.metrics, self._error_log)
        self.decoder = Decoder(self.model, max_rows, settings.decode_threads, self._error_log)
        self.publisher = ReplyPublisher(queue, self.metrics, settings.request_timeout + settings.reply_ttl)
        self.tracker = EntryTracker(
            queue, self.decoder, self.publisher, self.metrics, settings.max_deliveries, self._tracing
        )
        self.batcher = Batcher(
            queue,
            self.tracker,
            self.engine,
            self._initial_limits,
            costs,
            throughput,
            failure_detector,
            self.worker_id,
        )
        encoder = ReplyEncoder(self.model, self.worker_id, self._error_log)
        encoding = EncodingStage(self.engine, self.decoder, encoder, self.metrics, self._tracing)
        encoding.on_encoded = self.tracker.finish
        encoding.on_freed = self.batcher.device_freed
        self.status = StatusReport(settings, self.model, self.engine, throughput, self.metrics, self._initial_limits)
        self._leases = Leases(self._lease_redis, keys, self.worker_id)
        self._heartbeat = Heartbeat(self._leases, failure_detector, self.metrics, self.status.fields)
        self._watchdog = Watchdog(self.engine, self.decoder, settings.stall_timeout)
        self._info: ModelInfo  # once loaded
        self._tasks: set[asyncio.Task[None]] = set()
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
        log.info("worker %s on %s, model %s", self.worker_id, broker, self.settings.model)
        self.status.metrics_port = serve_metrics(self.metrics.registry, self.settings)
        self.engine.on_lost = lambda why: end_process(f"the device is lost: {why}", EXIT_DEVICE_LOST)
        self.engine.start()
        self._spawn(self._heartbeat.run())
        await self._in_device_thread(self._load)
        self.batcher.sized = self.model.sized
        if not self._stop_requested.is_set():
            await self._take_name()

    async def _take_name(self) -> None:
        """Announce the model. Raises StartupError if other workers serve a different one under its name."""
        other = await self._announce(replace=self.settings.replace)
        if other is not None:
            raise StartupError(
                f"model {other.name!r} is being served already, from {other.path} (fingerprint {other.fingerprint}); "
                f"{self._info.path} (fingerprint {self._info.fingerprint}) differs from it. Choose another name "
                "(MODEL_NAME, --name), or replace it (REPLACE=true, --replace)"
            )

    async def _announce(self, *, replace: bool = False) -> ModelInfo | None:
        """Announce the model if its name is free or its own. Returns the other model that holds the name."""
        other = await registry.reserve_name(self._redis, self._info, ttl_ms=LEASE_MS, replace=replace)
        if other is None:
            await registry.announce(self._redis, self._info)
        return other

    async def _serve(self) -> None:
        """Claim, run and publish until a signal arrives. An error in one of the tasks ends the worker."""
        gc_freeze.freeze_startup_objects()
        self.status.set_state("ready")
        self._heartbeat.on_success = self._after_heartbeat
        self._heartbeat.loop_alive = self._watchdog.loop_alive
        self._heartbeat.send_now()
        log.info("ready")
        self._watchdog.start()
        self._spawn(self.publisher.run())
        self._spawn(self.batcher.run())
        stop = asyncio.create_task(self._stop_requested.wait())
        done, _ = await asyncio.wait({*self._tasks, stop}, return_when=asyncio.FIRST_COMPLETED)
        for task in done - {stop}:
            log.critical("a task of the worker failed", exc_info=task.exception())
            raise SmartBatchError("a task of the worker failed; its entries go to other workers")

    async def _drain(self) -> None:
        """Finish the claimed entries within GRACE_TIME."""
        self.status.set_state("draining")
        async with asyncio.timeout(self.settings.grace_time):
            await self.batcher.drain()
            await asyncio.to_thread(self.decoder.close)
            await self.publisher.drain()
        log.info("drained")

    async def _close(self) -> None:
        self._watchdog.stop()
        await tasks.end(self._tasks)
        with contextlib.suppress(SmartBatchError):
            if left := await self._leases.leave():
                log.warning("left with %d unfinished entries; other workers will run them", left)
        if self._tracing is not None:
            await asyncio.to_thread(self._tracing.close)
        self._blocking_redis.close()
        self._redis.close()
        self._lease_redis.close()

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
        self._info = msgspec.structs.replace(self._info, start_s=round(age_s(), 1))

    def _progress(self, text: str) -> None:
        log.info("%s", text)
        self.status.set_state(self.status.state, text)

    # --- after each heartbeat

    async def _after_heartbeat(self, result: HeartbeatResult, sent_at: float) -> None:
        self._error_log.flush()
        self.batcher.workers = result.alive
        self._apply(result.limits)
        lost_claims = self.tracker.audit(result.pending, sent_at)
        if lost_claims:
            await self.tracker.adopt(lost_claims, result.now_ms)
        with contextlib.suppress(BrokerFull):  # Redis still has the last announcement
            await self._announce()  # each time, since Redis may have lost it

    def _apply(self, live: LiveLimits) -> None:
        """Apply the live limits, capped by those that this worker was started with."""
        initial = self._initial_limits
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

    def _spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        return task

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
