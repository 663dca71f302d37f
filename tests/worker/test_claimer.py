"""What is claimed while a batch runs: behind one that is over at once nothing, behind a lone one the next in time."""

from __future__ import annotations

import asyncio
import time
from typing import Any, cast

import pytest

from shared.broker.claims import Claim, Entry
from worker.batch import Batch, Rider
from worker.claimer import Claimer
from worker.conviction import Convictions
from worker.forward_times import ForwardTimes
from worker.policy import CloseReason, Limits
from worker.service_rate import ServiceRate

NOTHING = Claim("empty", 1_000_000, 0, "1-0", False, [])


class Around:
    """Stands for the broker, the intake and the engine; notes when it was asked for a claim."""

    def __init__(self) -> None:
        self.claimed_at: list[float] = []
        self.modes: list[str] = []
        self.batches: list[Batch] = []
        self.has_suspects = False
        self.mean_s = self.fetch_s = 0.0
        self.decoder = self

    async def claim(self, mode: str, **how: object) -> Claim:
        self.claimed_at.append(time.monotonic())
        self.modes.append(mode)
        await asyncio.sleep(0.5 if how.get("after_bell_s") else 0)
        return NOTHING

    def wake(self) -> None: ...
    def take_suspect(self) -> list[Rider]:
        return []

    take_adopted = take_suspect

    def submit(self, batch: Batch) -> None:
        self.batches.append(batch)


def made(around: Around, forward_s: float) -> Claimer:
    times = ForwardTimes()
    for rows in (1, 32):
        times.record(rows, forward_s)
    any_: Any = cast(Any, around)
    claimer = Claimer(any_, any_, any_, Limits(32, 1 << 30, 0.01), times, ServiceRate(times, 32), Convictions(), "w")
    claimer.alone = True
    return claimer


def submit(claimer: Claimer, rows: int, closed: CloseReason) -> None:
    now = time.monotonic()
    entries = [Entry(f"1-{n}", f"r{n}", "g", 1_000_000, 10_000, 1, 1, "raw", "", b"x") for n in range(rows)]
    claimer._filling.add([Rider(entry, 1_000_000, now) for entry in entries])
    claimer._submit(closed)


@pytest.mark.parametrize(("forward_s", "unfollowed"), [(0.0001, True), (0.010, False)])
def test_a_batch_much_shorter_than_a_claim_is_not_claimed_behind(forward_s: float, unfollowed: bool) -> None:
    around = Around()
    submit(made(around, forward_s), 32, "full")
    assert around.batches[0].unfollowed is unfollowed


@pytest.mark.parametrize(
    ("forward_s", "alone", "claims"),
    [
        (0.100, True, 1),
        (0.100, False, 0),  # another worker may be free by then, and take it at once
        (0.0005, True, 0),
    ],
)
async def test_the_next_claim_leaves_a_moment_before_a_lone_batch_ends(
    forward_s: float, alone: bool, claims: int
) -> None:
    around = Around()
    claimer = made(around, forward_s)
    claimer.alone = alone
    for number in range(50):  # it always is alone
        claimer._arrivals.came([float(number)], learn=True)
        claimer._arrivals.answered(1, number + 0.005, last=True)
    submit(claimer, 1, "quiet")
    begun_at = time.monotonic()
    running = asyncio.create_task(claimer.run())
    await asyncio.sleep(forward_s + 0.05)  # it is late, and what was claimed waits for the bell
    assert len(around.claimed_at) == claims
    for claimed_at in around.claimed_at:
        assert claimed_at - begun_at == pytest.approx(forward_s, abs=0.03)
    running.cancel()


async def test_a_stream_is_claimed_ahead_also_where_nobody_is_waited_for() -> None:
    """Else its decoding would begin only when the device is free."""
    around = Around()
    around.mean_s = 0.001  # of decoding: a full batch takes 32 ms
    claimer = made(around, 0.100)
    claimer.set_limits(Limits(32, 1 << 30, 0.0))
    for number in range(100):
        claimer._arrivals.came([100 + number / 1000], learn=True)
    submit(claimer, 10, "window")
    running = asyncio.create_task(claimer.run())
    await asyncio.sleep(0.09)
    assert "ahead" in around.modes
    running.cancel()


def test_what_comes_to_a_batch_that_explores_is_learned_too() -> None:
    claimer, now = made(Around(), 0.010), time.monotonic()
    learned: list[bool] = []
    claimer._arrivals.came = lambda admitted_at, *, learn: learned.append(learn)
    claimer._filling.explores = True
    assert claimer._quiet_at(claimer._filling.state(), now) == float("inf")
    assert learned == [True]
