"""What the ledger says. A run is good if nothing was lost, doubled, wrong or punished, and it was over in time."""

from __future__ import annotations

from collections import Counter, defaultdict

import msgspec

from tests.chaos.run import Run
from tests.load import NO_ANSWER, Asked

RECOVERED_S = 5.0
MAX_LATE = 0.005  # of all requests: more would mean that something is stuck
_BROKEN_S = 2.0  # so long after its gateway's death a connection may be seen to break

# What may come of each kind besides a refusal (503) and a connection that broke with its gateway.
_PLAIN = {(200, "")}
_KILLED = {(500, "dead_lettered"), (504, "deadline_exceeded")}
ALLOWED: dict[str, set[tuple[int, str]]] = {
    "plain": _PLAIN,
    "large": _PLAIN,
    "memory": _PLAIN,
    "raise": {(500, "model_failed")},
    "malformed": {(400, "bad_request"), (400, "malformed_body"), (415, "unsupported_media"), (406, "not_acceptable")},
    "abandoned": {(200, ""), (NO_ANSWER, "")},
    "hurried": {(200, ""), (504, "deadline_exceeded")},
    **dict.fromkeys(("exit", "segfault", "kill", "hang"), _KILLED),
}
_REFUSALS = {"broker_unavailable", "broker_full", "queue_full", "deadline_unattainable"}


class Verdict(msgspec.Struct):
    """Counts of requests by what became of them, and how long each kind of fault was felt."""

    sent: int = 0
    answered: int = 0
    refused: int = 0
    broken: int = 0  # by the death of their gateway
    abandoned: int = 0
    hostile: int = 0  # answered with the error that they deserve
    late: int = 0  # answered 504: they went from one death to the next until their time was up
    lost: int = 0
    wrong: int = 0
    doubled: int = 0
    punished: int = 0  # innocent, and answered with an error
    recovery_s: dict[str, list[float]] = {}
    slowest_s: float = 0.0  # of the right answers
    unproved: int = 0
    leftovers: list[str] = []
    bad: list[Asked] = []

    @property
    def admitted(self) -> int:
        return self.answered + self.late + self.lost + self.wrong + self.doubled + self.punished

    @property
    def slow(self) -> list[str]:
        return [name for name, times in self.recovery_s.items() if max(times) > RECOVERED_S]

    @property
    def good(self) -> bool:
        failed = self.lost + self.wrong + self.doubled + self.punished + self.unproved
        return not (failed or self.leftovers or self.slow or self.late > MAX_LATE * self.sent)


def judge(run: Run) -> Verdict:
    verdict = Verdict(sent=len(run.asked), leftovers=run.leftovers)
    ids = Counter(asked.request_id for asked in run.asked if asked.request_id)
    for asked in run.asked:
        what = "doubled" if ids[asked.request_id] > 1 else _became(asked, run)
        setattr(verdict, what, getattr(verdict, what) + 1)
        if what in ("lost", "wrong", "doubled", "punished"):
            verdict.bad.append(asked)
    unproved = [asked for asked in run.proof if not asked.right]
    verdict.unproved = len(unproved)
    verdict.bad += unproved
    verdict.recovery_s = _recovery(run)
    verdict.slowest_s = max((asked.seconds for asked in run.asked if asked.right), default=0.0)
    return verdict


def _became(asked: Asked, run: Run) -> str:
    outcome = (asked.status, asked.code)
    if asked.status == 503 and asked.code in _REFUSALS and asked.retry_after:
        return "refused"
    if asked.status == NO_ANSWER and asked.kind == "abandoned":
        return "abandoned"
    if asked.status == NO_ANSWER:
        died = any(
            url == asked.url and asked.sent_at <= at + _BROKEN_S and asked.done_at >= at
            for url, at in run.killed_gateways
        )
        return "broken" if died else "lost"
    if outcome not in ALLOWED[asked.kind]:
        return "late" if outcome == (504, "deadline_exceeded") else "punished"
    if asked.status == 200:
        return "answered" if asked.right else "wrong"
    return "hostile"


def _recovery(run: Run) -> dict[str, list[float]]:
    """From the end of each fault until the first right answer to a request that was sent after it. Faults that
    another one ran into are left out: it is not known which of them was felt."""
    right = sorted(((a.sent_at, a.done_at) for a in run.asked if a.right), key=lambda pair: pair[0])
    times: dict[str, list[float]] = defaultdict(list)
    for fault in run.faults:
        others = [other for other in run.faults if other is not fault and other.ended_at > fault.began_at]
        done = [done_at for sent_at, done_at in right if fault.ended_at <= sent_at <= fault.ended_at + 2 * RECOVERED_S]
        took = min(done) - fault.ended_at if done else 2 * RECOVERED_S
        if not any(other.began_at < fault.ended_at + took for other in others):
            times[fault.name].append(took)
    return dict(times)
