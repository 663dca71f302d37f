"""The queue of one model, as one gateway process sees it: its requests that are outstanding, their deadlines, and the
tasks that exchange entries and replies with the broker."""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import operator
import random
import time
from collections.abc import Callable, Mapping, Sequence

from smartbatch.gateway.core.metrics import ModelMetrics
from smartbatch.gateway.queue.admission_control import AdmissionControl
from smartbatch.gateway.queue.choice import choose, favourites
from smartbatch.gateway.queue.partition import Partition, Watch, assign
from smartbatch.gateway.queue.queued_request import QueuedRequest
from smartbatch.gateway.queue.submitter import Submitter
from smartbatch.shared.broker.queue.admission import UNKNOWN, Capacity
from smartbatch.shared.errors import BrokerUnavailable, Unavailable
from smartbatch.shared.keys import partition_tag, split_model_id
from smartbatch.shared.process import tasks
from smartbatch.shared.settings import Settings

log = logging.getLogger(__name__)

# Least time between two checks of deadlines, and so the most that a request ends late by. A check walks over all
# outstanding requests.
DEADLINE_INTERVAL_S = 0.01

MIN_PARTS_AT_ONCE = 4
CHECK_EVERY_S = 0.1  # whether partitions are stuck
DOWN_AFTER_S = 0.5  # a planned change of the primary takes less, and no request is rejected then

_deadline_at = operator.attrgetter("deadline_at")


class ModelQueue:
    """Created and closed with the gateway's services; used in their event loop."""

    def __init__(
        self,
        model: str,
        numbers: Sequence[int],
        settings: Settings,
        gateway_id: str,
        metrics: ModelMetrics,
        capacities: Mapping[str, Capacity],
        make_partition: Callable[..., Partition] = Partition,
    ) -> None:
        """`model` is the model ID. `numbers` are those of the model's partitions. `capacities` are those of their ready
        workers, by tag. The simulator makes partitions of its own."""
        self.model = model
        self.name, self.version = split_model_id(model)
        self.metrics = metrics
        self.outstanding: dict[str, QueuedRequest] = {}
        self.partitions: list[Partition] = []
        self._settings = settings
        self._gateway_id = gateway_id
        self._capacities = capacities
        self._make_partition = make_partition
        self._usable: list[Partition] = []
        self._rank, self._gateways = 0, 1
        self._deadlines = Deadlines(self.outstanding, self._expiry)
        self._submitter = Submitter(metrics, lambda: self._usable, lambda: len(self.partitions) == 1)
        self._watch: Watch | None = None  # once started
        self._tasks: list[asyncio.Task[None]] = []
        self.set_partitions(numbers)

    def start(self, watch: Watch) -> None:
        """Start the tasks. `watch` creates a task and reports when it ends unexpectedly."""
        self._watch = watch
        for partition in self.partitions:
            partition.start(watch)
        self._tasks = [watch(self._submitter.run()), watch(self._keep_moving())]

    async def close(self) -> None:
        self._deadlines.close()
        await tasks.end(self._tasks)
        for partition in self.partitions:
            await partition.close()

    # --- partitions

    def set_rank(self, rank: int, gateways: int) -> None:
        """Take over the number of this gateway among so many that serve the model. Call `set_partitions` after."""
        self._rank, self._gateways = rank, gateways

    def set_partitions(self, numbers: Sequence[int]) -> None:
        """Take over which partitions the model has, whenever they and their workers were read. Others get no more
        requests, and are closed once empty."""
        tags = [partition_tag(self.model, number) for number in numbers]
        known = {partition.keys.tag: partition for partition in self.partitions}
        for partition in self.partitions:
            partition.leaving = partition.keys.tag not in tags
        for tag in tags:
            if tag not in known:
                self._add_partition(tag)
        self._find_usable()

    def _add_partition(self, tag: str) -> None:
        capacity = functools.partial(self._capacities.get, tag, UNKNOWN)
        partition = self._make_partition(
            tag, self._settings, self._gateway_id, self.metrics, self.outstanding, capacity
        )
        partition.on_state = self._find_usable
        self.partitions.append(partition)
        if self._watch:
            partition.start(self._watch)

    def _find_usable(self) -> None:
        """Find the partitions that requests are sent to: those whose broker takes some, or all if none does; of these
        the ones that have workers, or all if none has."""
        now = time.monotonic()
        staying = [partition for partition in self.partitions if not partition.leaving]
        answering = [each for each in staying if each.takes_requests(now)] or staying
        self._usable = [each for each in answering if each.has_workers] or answering
        for partition in self._usable:
            partition.share_limits(len(self._usable))
        in_order = sorted(self._usable, key=lambda partition: partition.keys.partition)
        chosen = favourites(in_order, self._rank, self._gateways)
        for partition in self._usable:
            partition.favourite = partition in chosen

    async def _keep_moving(self) -> None:
        """Move requests from partitions whose broker doesn't answer or that no worker serves to others."""
        while True:
            await asyncio.sleep(CHECK_EVERY_S)
            if len(self.partitions) == 1:
                continue
            self._find_usable()
            for partition in self.partitions:
                try:
                    await self._move_from(partition)
                except BrokerUnavailable as error:
                    log.warning("requests of %s could not be moved: %s", partition.keys.tag, error)
            for partition in [each for each in self.partitions if each.leaving and each.finished]:
                await partition.close()
                self.partitions.remove(partition)

    async def _move_from(self, partition: Partition) -> None:
        """Send its requests to other partitions, if it is stuck for longer than PARTITION_PATIENCE."""
        others = [each for each in self._usable if each is not partition]
        stuck_s = partition.stuck_s(time.monotonic(), others_have_workers=any(each.has_workers for each in others))
        requests = partition.requests() if others and stuck_s >= self._settings.partition_patience else []
        if not requests:
            return
        log.warning("moving %d requests from %s, stuck for %.1f s", len(requests), partition.keys.tag, stuck_s)
        partition.cancel(request.entry.id for request in requests)
        for request in requests:
            if not request.admitted_at:
                self._submitter.put(request)
        await _admit_again([request for request in requests if request.admitted_at], others)

    async def move_to(self, target: ModelQueue) -> int:
        """Move the requests that have been sent and whose client doesn't mind to the queue of another version. Returns
        how many. Raises BrokerUnavailable."""
        sent = [request for request in self.outstanding.values() if request.partition is not None]
        moved = [request for request in sent if request.move_to(target)]
        for request in moved:
            del self.outstanding[request.entry.id]
            request.partition.cancel((request.entry.id,))
            request.admitted_at = request.admitted_at or time.monotonic()  # so the target's reconciler looks for it
            target._add(request)
        await _admit_again(moved, target._usable)
        return len(moved)

    # --- requests

    def check(self, timeout_ms: int) -> None:
        """Reject a request now that the broker would reject later. Raises BrokerUnavailable, QueueFull or
        DeadlineUnattainable."""
        if not self.broker_up:
            retry_s = self.partitions[0].admission_control.retry_after_s()
            raise BrokerUnavailable("the broker can't be reached", retry_s)
        self._check_any(lambda control: control.check(timeout_ms))

    def check_rows(self, rows: int, timeout_ms: int) -> None:
        """Reject a request of many rows, which are spread over the partitions, if it would be late. Raises
        DeadlineUnattainable."""
        share = math.ceil(rows / len(self._usable))
        self._check_any(lambda control: control.check_rows(share, timeout_ms))

    def _check_any(self, check: Callable[[AdmissionControl], None]) -> None:
        """Pass if one of two partitions accepts; more would make rejections slow."""
        among = self._usable
        if len(among) > 2:
            among = random.sample(among, 2)
        for partition in among[:-1]:
            try:
                check(partition.admission_control)
            except Unavailable:
                continue
            return
        check(among[-1].admission_control)

    def _expiry(self, waited_s: float) -> Exception:
        """Return the error of a request that was not answered in time."""
        served = next((each for each in self._usable if each.has_workers), self._usable[0])
        return served.admission_control.expiry(waited_s)

    @property
    def parts_at_once(self) -> int:
        """How many parts of one request keep all workers busy: each has one running, one claimed and one waiting."""
        return max(MIN_PARTS_AT_ONCE, 3 * sum(partition.workers for partition in self._usable))

    def submit(self, request: QueuedRequest) -> None:
        """Send the request's entry to the broker. Call `check` before, and `release` after, whatever the outcome."""
        self._add(request)
        self._submitter.put(request)

    def _add(self, request: QueuedRequest) -> None:
        self.outstanding[request.entry.id] = request
        if request.deadline_at < self._deadlines.next_check_at:
            self._deadlines.check_by(request.deadline_at)

    def release(self, request: QueuedRequest, *, answered: bool) -> None:
        """Remove a request. Without `answered` its entry is cancelled, if it was sent."""
        self.outstanding.pop(request.entry.id, None)
        if request.partition is not None:
            if not answered and request.admitted_at:
                request.partition.cancel((request.entry.id,))
            assign(request, None)

    @property
    def broker_up(self) -> bool:
        """Whether a broker answers, or has been away so shortly that it may only be changing its primary."""
        for partition in self._usable:  # nearly always the first; every request asks
            if partition.broker_up or partition.unanswered_s(time.monotonic()) < DOWN_AFTER_S:
                return True
        return False


async def _admit_again(requests: Sequence[QueuedRequest], partitions: Sequence[Partition]) -> None:
    """Spread requests that were admitted elsewhere over partitions. Raises BrokerUnavailable."""
    targets: dict[Partition, list[QueuedRequest]] = {}
    for request in requests:
        assign(request, target := choose(partitions))
        targets.setdefault(target, []).append(request)
    for target, moved in targets.items():
        await target.take_over(moved)


class Deadlines:
    """Ends requests at their deadlines. One timer serves all requests of a queue, since nearly none reaches its
    deadline."""

    def __init__(self, outstanding: Mapping[str, QueuedRequest], expiry: Callable[[float], Exception]) -> None:
        """`expiry` makes the error of a request from the seconds that it waited."""
        self._outstanding = outstanding
        self._expiry = expiry
        self.next_check_at = math.inf
        self._checked_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def check_by(self, deadline_at: float) -> None:
        """Check no later than at this deadline, which is earlier than `next_check_at`."""
        at = max(deadline_at, self._checked_at + DEADLINE_INTERVAL_S)
        if at < self.next_check_at:
            self._schedule(at)

    def close(self) -> None:
        if self._timer:
            self._timer.cancel()

    def _schedule(self, at: float) -> None:
        if self._timer:
            self._timer.cancel()
        self.next_check_at = at
        self._timer = asyncio.get_running_loop().call_at(at, self._check)  # the loop's clock is time.monotonic()

    def _check(self) -> None:
        self._checked_at = now = time.monotonic()
        self._timer, self.next_check_at = None, math.inf
        earliest = min(map(_deadline_at, self._outstanding.values()), default=math.inf)
        if earliest <= now:
            earliest = self._end_expired(now)
        if earliest < self.next_check_at:
            self._schedule(max(earliest, now + DEADLINE_INTERVAL_S))

    def _end_expired(self, now: float) -> float:
        """End the requests whose deadline has passed. Returns the earliest deadline of the others."""
        expired: list[QueuedRequest] = []
        earliest = math.inf
        for request in self._outstanding.values():
            if request.deadline_at <= now:
                expired.append(request)
            else:
                earliest = min(earliest, request.deadline_at)
        for request in expired:
            request.end(self._expiry(now - request.started_at))
        return earliest
