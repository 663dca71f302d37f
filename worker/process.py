"""The worker process: start up, serve, drain.

event loop      claimer, finisher, heartbeat: they talk to Redis and never compute
device thread   the engine: it computes and never talks
decode threads  inputs to rows, outputs to replies
watchdog        ends the process when neither makes progress
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

from shared import garbage, tasks
from shared.broker import registry
from shared.broker.claims import Claims
from shared.broker.connection import BLOCK_S, check, connect
from shared.broker.leases import LEASE_MS, Beat, Leases
from shared.broker.live_limits import LiveLimits
from shared.errors import BrokerFull, ModelLoadError, SmartBatchError
from shared.keys import Keys
from shared.model_info import ModelInfo
from shared.settings import Settings
from worker import models
from worker.batch import Batch
from worker.claimer import Claimer
from worker.conviction import Convictions
from worker.decoding import Decoder
from worker.engine import Engine
from worker.finisher import Finisher
from worker.forward_times import ForwardTimes
from worker.heartbeat import Heartbeat
from worker.intake import Intake
from worker.meters import Meters
from worker.metrics_port import serve_metrics
from worker.models.contract import LoadContext
from worker.policy import Limits
from worker.replies import Made, ReplyMaker
from worker.report import Report
from worker.row_log import RowLog
from worker.service_rate import ServiceRate
from worker.tracing import tracing_of
from worker.warmup import warm_up
from worker.watchdog import EXIT_DEVICE_LOST, Watchdog, end_process

log = logging.getLogger(__name__)


class Worker:
    """One worker, one device, one model. Created and run in the event loop of its process."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.worker_id = f"{socket.gethostname()[:40]}-{uuid.uuid4().hex[:12]}"
        keys = Keys(settings.model)
        self._tracing = tracing_of(settings.model, self.worker_id)
        self.model = models.resolve(settings.model_path)
        self._redis = connect(settings.broker_url)
        self._blocking_redis = connect(settings.broker_url, block_s=BLOCK_S)
        self._lease_redis = connect(settings.broker_url)  # a beat must not wait behind a large reply
        claims = Claims(
            self._blocking_redis,
            self._redis,
            keys,
            self.worker_id,
            lease_ms=LEASE_MS,
            reply_ttl_s=settings.reply_ttl,
        )
        max_rows = settings.max_batch_size
        times = ForwardTimes()
        service = ServiceRate(times, max_rows)
        self._started_with = Limits(
            max_rows, settings.max_batch_bytes, settings.max_wait_time, settings.window == "adaptive"
        )
        self.meters = Meters(settings.model)
        self._row_log = RowLog()
        self.engine = Engine(self.model, max_rows, times, self.meters, self._row_log)
        self.decoder = Decoder(self.model, max_rows, settings.decode_threads, self._row_log)
        self.finisher = Finisher(claims, self.meters, settings.request_timeout + settings.reply_ttl)
        self.intake = Intake(claims, self.decoder, self.finisher, self.meters, settings.max_deliveries, self._tracing)
        convictions = Convictions()
        self.claimer = Claimer(
            claims, self.intake, self.engine, self._started_with, times, service, convictions, self.worker_id
        )
        self.report = Report(settings, self.model, self.engine, service, self.meters, self._started_with)
        self._replies = ReplyMaker(self.model, self.worker_id, self._row_log)
        self._leases = Leases(self._lease_redis, keys, self.worker_id)
        self._heartbeat = Heartbeat(self._leases, convictions, self.meters, self.report.fields)
        self._watchdog = Watchdog(self.engine, self.decoder, settings.stall_timeout)
        self._tasks: set[asyncio.Task[None]] = set()
        self._stop_asked = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then drain. Raises StartupError if it can't start."""
        for name in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(name, self._stop, name)
        try:
            await self._start()
            if not self._stop_asked.is_set():
                await self._serve()
                await self._drain()
        finally:
            await self._close()

    async def _start(self) -> None:
        broker = await check(self.settings.broker_url)
        log.info("worker %s on %s, model %s", self.worker_id, broker, self.settings.model)
        self.report.metrics_port = serve_metrics(self.meters.registry, self.settings)
        self.engine.on_done = self._batch_done
        self.engine.on_lost = lambda why: end_process(f"the device is lost: {why}", EXIT_DEVICE_LOST)
        self.engine.start()
        self._spawn(self._heartbeat.run())
        await self._in_device_thread(self._load)
        await registry.announce(self._redis, self._info())

    async def _serve(self) -> None:
        """Claim, run and finish until told to stop. An error of one of the tasks ends the worker."""
        garbage.leave_alone_what_is_here()
        self.report.now("ready")
        self._heartbeat.on_beat = self._after_beat
        self._heartbeat.alive = self._watchdog.loop_alive
        self._heartbeat.soon()
        log.info("ready")
        self._watchdog.start()
        self._spawn(self.finisher.run())
        self._spawn(self.claimer.run())
        stop = asyncio.create_task(self._stop_asked.wait())
        done, _ = await asyncio.wait({*self._tasks, stop}, return_when=asyncio.FIRST_COMPLETED)
        for task in done - {stop}:
            raise SmartBatchError("a task of the worker ended; what it holds goes to others") from task.exception()

    async def _drain(self) -> None:
        """Finish what is held, within GRACE_TIME."""
        self.report.now("draining")
        async with asyncio.timeout(self.settings.grace_time):
            await self.claimer.drain()
            await asyncio.to_thread(self.decoder.close)
            await self.finisher.drain()
        log.info("drained")

    async def _close(self) -> None:
        self._watchdog.stop()
        await tasks.end(self._tasks)
        with contextlib.suppress(SmartBatchError):
            if left := await self._leases.leave():
                log.warning("left with %d entries; others will run them", left)
        if self._tracing is not None:
            await asyncio.to_thread(self._tracing.close)
        await self._blocking_redis.aclose()
        await self._redis.aclose()
        await self._lease_redis.aclose()

    # --- loading, in the device thread

    async def _in_device_thread(self, function: Callable[[], None]) -> None:
        """Run `function` there; return early when told to stop (the process is about to end)."""
        done: Future[None] = Future()

        def call() -> None:
            try:
                done.set_result(function())
            except BaseException as error:
                done.set_exception(error)

        self.engine.call(call)
        loading = asyncio.wrap_future(done)
        stop = asyncio.create_task(self._stop_asked.wait())
        await asyncio.wait([loading, stop], return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if loading.done():
            await loading

    def _load(self) -> None:
        settings = self.settings
        started = time.monotonic()
        self.report.now("loading", f"loading {settings.model_path}")
        context = LoadContext(
            settings.device,
            settings.dtype,
            settings.optimize,
            settings.model_weights,
            settings.torch_threads,
            settings.max_image_pixels,
            settings.max_batch_size,
            self.decoder.threads,
            self._progress,
            settings.model_path,
            self.engine.between_batches,
        )
        try:
            self.model.load(context)
        except SmartBatchError:
            raise
        except Exception as error:
            log.debug("loading failed", exc_info=True)
            where = f"{type(error).__name__}: {error}"
            raise ModelLoadError(f"loading {settings.model_path} failed: {where}") from error
        self._progress(f"loaded in {time.monotonic() - started:.1f} s on {self.model.device_name}")
        self.report.now("warming")
        warm_up(self.engine, self.model, settings.max_batch_size, self._progress)
        self.meters.ceiling.set(self.engine.ceiling)

    def _progress(self, text: str) -> None:
        log.info("%s", text)
        self.report.now(self.report.state, text)

    def _info(self) -> ModelInfo:
        settings = self.settings
        return self.model.info(settings.model, settings.model_path, settings.max_batch_size)

    # --- what the parts tell each other

    def _batch_done(self, batch: Batch) -> None:
        """In the device's threads: pass the batch on and be free for the next.

        The replies first: a drain closes the decoder once the device is free.
        """
        if self.engine.idle and self._replies.quick(batch):  # sooner made than handed over
            self.decoder.work_here(self._make_replies, batch, True)
        else:
            self.decoder.submit(self._make_replies, batch)
        self._loop.call_soon_threadsafe(self._after_turns, 2, self.claimer.device_freed, batch, time.monotonic())

    def _make_replies(self, batch: Batch, in_device_thread: bool = False) -> None:
        started_at = time.monotonic()
        made = self._replies.make(batch)
        self._loop.call_soon_threadsafe(self._replies_made, batch, made)
        if self._tracing is None:
            return
        facts = (batch, self.model.device_name, started_at, time.monotonic())
        if in_device_thread:  # which has better to do
            self.decoder.submit(self._tracing.batch, *facts)
        else:
            self._tracing.batch(*facts)

    def _replies_made(self, batch: Batch, made: Made) -> None:
        self.finisher.put(made.outcomes)
        for rider in batch.riders:
            if rider.cancelled:
                self.intake.forget(rider)
        self._after_turns(2, self.meters.batch, batch, made.counts)

    def _after_turns(self, turns: int, function: Callable[..., None], *args: Any) -> None:
        """Call it so many turns of the event loop later. Replies go first: one turn wakes the finisher, and what that
        writes leaves at the end of the next."""
        if turns:
            self._loop.call_soon(self._after_turns, turns - 1, function, *args)
        else:
            function(*args)

    def _apply(self, live: LiveLimits) -> None:
        """Batch by what was set while serving, within what this worker was started with."""
        began = self._started_with
        limits = msgspec.structs.replace(
            began,
            max_rows=min(began.max_rows, live.max_batch_size or began.max_rows),
            window_s=began.window_s if live.max_wait_time is None else live.max_wait_time,
        )
        if limits != self.claimer.limits:
            log.info("batches of up to %d rows, a window of %g s from now on", limits.max_rows, limits.window_s)
            self.claimer.set_limits(limits)
            self.report.limits = limits

    async def _after_beat(self, beat: Beat, sent_at: float) -> None:
        self._row_log.settle()
        self.claimer.alone = beat.alive == 1
        self._apply(beat.limits)
        strays = self.intake.audit(beat.pending, sent_at)
        if strays:
            await self.intake.adopt(strays, beat.now_ms)
        with contextlib.suppress(BrokerFull):  # it still holds what was announced before
            await registry.announce(self._redis, self._info())  # Redis may have lost it since

    # --- tasks and signals

    def _spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        return task

    def _stop(self, name: signal.Signals) -> None:
        if self._stop_asked.is_set():
            log.warning("%s again: ending at once; what is held goes to others", name.name)
            os._exit(130)
        log.info("%s: draining", name.name)
        self._stop_asked.set()


def main(settings: Settings) -> None:
    """Run a worker until it is told to stop. Raises StartupError if it can't start."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_main(settings))
    # A device thread may still be loading; it can't be interrupted, and nothing is left to save.
    sys.stderr.flush()
    os._exit(0)


async def _main(settings: Settings) -> None:
    await Worker(settings).run()
