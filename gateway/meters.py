"""What a gateway counts, per model: resolved once per lane, so that counting costs next to nothing."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from gateway.recent import Recent
from shared import errors
from shared import metric_names as names
from shared.errors import (
    ClientError,
    ClientGone,
    DeadlineExceeded,
    Forbidden,
    LimitReached,
    TakenBack,
    Unauthenticated,
    Unavailable,
)
from shared.tally import Tally

PARTS = ("admit", "queue", "decode", "batch_wait", "forward", "reply")
OUTCOMES = ("ok", "invalid", "denied", "rejected", "timeout", "cancelled", "error")
REFUSALS = (
    "idle",
    "write_timeout",
    errors.MalformedRequest.code,
    errors.HeadTooLarge.code,
    errors.UrlTooLong.code,
    errors.HeadTimeout.code,
    errors.TooManyConnections.code,
    errors.Draining.code,
)


class Meters:
    """One gateway process's metrics."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = names.REQUESTS.counter(self.registry)
        self._seconds = names.REQUEST_SECONDS.histogram(self.registry)
        self._parts = names.PART_SECONDS.histogram(self.registry)
        self._readmissions = names.READMISSIONS.counter(self.registry)
        self._flushes = names.FLUSHES.counter(self.registry)
        self._broker_errors = names.GATEWAY_BROKER_ERRORS.counter(self.registry)
        refused = names.HTTP_REFUSED.counter(self.registry)
        self._refused = {reason: refused.labels(reason) for reason in REFUSALS}
        self._lanes: list[LaneMeters] = []

    def refused(self, reason: str) -> None:
        """Count a connection that was ended early; `reason` is one of REFUSALS."""
        self._refused[reason].inc()

    def of(self, model: str) -> LaneMeters:
        lane = LaneMeters(self, model)
        self._lanes.append(lane)
        return lane

    def settle(self) -> None:
        """Bring the histograms up to date, before somebody looks at them."""
        for lane in self._lanes:
            lane.settle()


class LaneMeters:
    """The metrics of one model. Called from the event loop only."""

    def __init__(self, meters: Meters, model: str) -> None:
        self._outcomes = {outcome: meters._requests.labels(model, outcome) for outcome in OUTCOMES}
        self._seconds = Tally(meters._seconds.labels(model))
        self._parts = {part: Tally(meters._parts.labels(model, part)) for part in PARTS}
        self.readmissions = meters._readmissions.labels(model)
        self.flushes = meters._flushes.labels(model)
        self.broker_errors = meters._broker_errors.labels(model)
        self.recent = Recent()

    def answered(self, timing_ms: dict[str, float]) -> None:
        """Count an answered request by its parts and their total."""
        total_s = timing_ms["total"] / 1000
        self._outcomes["ok"].inc()
        self._seconds.observe(total_s)
        for part, tally in self._parts.items():
            tally.observe(timing_ms.get(part, 0.0) / 1000)
        self.recent.add("ok", total_s)

    def parts(self) -> tuple[int, dict[str, float]]:
        """How many were answered so far, and the seconds that their parts took."""
        totals = {part: tally.total() for part, tally in self._parts.items()}
        return totals["forward"][0], {part: seconds for part, (_, seconds) in totals.items()}

    def failed(self, error: BaseException, total_s: float) -> None:
        outcome = outcome_of(error)
        self._outcomes[outcome].inc()
        self._seconds.observe(total_s)
        self.recent.add(outcome, total_s)

    def settle(self) -> None:
        for tally in (self._seconds, *self._parts.values()):
            tally.settle()


def outcome_of(error: BaseException) -> str:
    match error:
        case ClientGone() | TakenBack():
            return "cancelled"
        case Unauthenticated() | Forbidden():
            return "denied"
        case LimitReached():
            return "rejected"
        case ClientError():
            return "invalid"
        case Unavailable():
            return "rejected"
        case DeadlineExceeded():
            return "timeout"
        case _:
            return "error"
