"""Evaluate the record of requests. In a good run no request was lost or answered twice, and no valid one failed."""

from __future__ import annotations

from collections import Counter, defaultdict

import msgspec

from tests.chaos.run import Run
from tests.load import NO_RESPONSE, SentRequest

RECOVERED_S = 5.0
MAX_LATE = 0.005  # share of all requests; more means that something is stuck
_BROKEN_S = 2.0  # a connection may break this long after its gateway was killed

# Permitted outcomes of each kind, besides a rejection (503) and a connection broken by its gateway's death.
_PLAIN = {(200, "")}
_LATE = {(504, "deadline_exceeded"), (503, "unavailable")}  # the second if no worker was ready then
_KILLED = {(500, "dead_lettered"), *_LATE}
ALLOWED: dict[str, set[tuple[int, str]]] = {
    "plain": _PLAIN,
    "large": _PLAIN,
    "memory": _PLAIN,
    "raise": {(500, "model_failed")},
    "malformed": {(400, "bad_request"), (400, "malformed_body"), (415, "unsupported_media"), (406, "not_acceptable")},
    "abandoned": {(200, ""), (NO_RESPONSE, "")},
    "hurried": {(200, ""), *_LATE},
    **dict.fromkeys(("exit", "segfault", "kill", "hang"), _KILLED),
}
_REFUSALS = {"broker_unavailable", "broker_full", "queue_full", "deadline_unattainable"}


class Evaluation(msgspec.Struct):
    """Counts of requests by outcome, and recovery times by kind of fault."""

    sent: int = 0
    answered: int = 0
    rejected: int = 0
    broken: int = 0  # by the death of its gateway
    abandoned: int = 0
    hostile: int = 0  # hostile requests that got the expected error
    late: int = 0  # not answered in time: redelivered from one dying worker to the next until their deadline
    lost: int = 0
    wrong: int = 0
    duplicated: int = 0
    wrongly_failed: int = 0  # valid requests that got an error
    recovery_s: dict[str, list[float]] = {}
    slowest_s: float = 0.0  # of correct responses
    failed_probes: int = 0
    leftovers: list[str] = []
    bad: list[SentRequest] = []

    @property
    def admitted(self) -> int:
        return self.answered + self.late + self.lost + self.wrong + self.duplicated + self.wrongly_failed

    @property
    def slow(self) -> list[str]:
        return [name for name, times in self.recovery_s.items() if max(times) > RECOVERED_S]

    @property
    def good(self) -> bool:
        failed = self.lost + self.wrong + self.duplicated + self.wrongly_failed + self.failed_probes
        return not (failed or self.leftovers or self.slow or self.late > MAX_LATE * self.sent)


def evaluate(run: Run) -> Evaluation:
    evaluation = Evaluation(sent=len(run.requests), leftovers=run.leftovers)
    ids = Counter(request.request_id for request in run.requests if request.request_id)
    for request in run.requests:
        what = "duplicated" if ids[request.request_id] > 1 else _became(request, run)
        setattr(evaluation, what, getattr(evaluation, what) + 1)
        if what in ("lost", "wrong", "duplicated", "wrongly_failed"):
            evaluation.bad.append(request)
    failed_probes = [request for request in run.probes if not request.correct]
    evaluation.failed_probes = len(failed_probes)
    evaluation.bad += failed_probes
    evaluation.recovery_s = _recovery(run)
    evaluation.slowest_s = max((request.seconds for request in run.requests if request.correct), default=0.0)
    return evaluation


def _became(request: SentRequest, run: Run) -> str:
    outcome = (request.status, request.code)
    if request.status == 503 and request.code in _REFUSALS and request.retry_after:
        return "rejected"
    if request.status == NO_RESPONSE and request.kind == "abandoned":
        return "abandoned"
    if request.status == NO_RESPONSE:
        died = any(
            url == request.url and request.sent_at <= at + _BROKEN_S and request.done_at >= at
            for url, at in run.killed_gateways
        )
        return "broken" if died else "lost"
    if outcome not in ALLOWED[request.kind]:
        return "late" if outcome in _LATE else "wrongly_failed"
    if request.status == 200:
        return "answered" if request.correct else "wrong"
    return "hostile"


def _recovery(run: Run) -> dict[str, list[float]]:
    """Return the time from the end of each fault until the first correct response to a request sent after it.

    Faults that overlap with another one are excluded.
    """
    correct = sorted(((a.sent_at, a.done_at) for a in run.requests if a.correct), key=lambda pair: pair[0])
    times: dict[str, list[float]] = defaultdict(list)
    for fault in run.faults:
        others = [other for other in run.faults if other is not fault and other.ended_at > fault.began_at]
        done = [
            done_at for sent_at, done_at in correct if fault.ended_at <= sent_at <= fault.ended_at + 2 * RECOVERED_S
        ]
        took = min(done) - fault.ended_at if done else 2 * RECOVERED_S
        if not any(other.began_at < fault.ended_at + took for other in others):
            times[fault.name].append(took)
    return dict(times)
