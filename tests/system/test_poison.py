"""Rows that raise or kill their worker, without effect on their batch mates. Real processes, real signals."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator

import pytest

from tests.brokers import eventually
from tests.system.hostile_stack import SETTINGS, Supervised, dead_letters, hostile, is_empty, send_rows
from tests.system.stack import Stack

GOOD = [f"good {number}" for number in range(15)]


def rows_with(bad: list[str], good: int) -> list[str]:
    """Good rows with the bad ones spread among them."""
    rows = [f"good {number}" for number in range(good)]
    for number, row in enumerate(bad):
        rows.insert(1 + number * (good // len(bad)), row)
    return rows


# --- rows that raise


@pytest.mark.parametrize(
    ("bad", "statuses", "forwards"),
    [
        (["raise"], [500], 9),
        (["refuse"], [422], 9),
        (["quit"], [500], 9),
        (["raise in company"], [200], 9),
        (["short"], [500], 9),
        (["raise", "refuse"], [500, 422], 15),
        (["raise"] * 16, [500] * 16, 31),
    ],
    ids=lambda value: str(value)[:24],
)
async def test_row_that_raises_fails_alone(
    one_worker: Stack, bad: list[str], statuses: list[int], forwards: int
) -> None:
    entries, ran = total_entries(one_worker), total_forwards(one_worker)
    rows = rows_with(bad, 16 - len(bad)) if len(bad) < 16 else bad
    responses = await send_rows(one_worker, rows)
    assert [response.status for row, response in zip(rows, responses, strict=True) if row in bad] == statuses
    for row, response in zip(rows, responses, strict=True):
        assert (row in bad) or (response.status, response.value) == (200, row)
    assert {response.body["batch"]["rows"] for response in responses if response.status == 200} <= {16}
    eventually(lambda: total_entries(one_worker) == entries + 16)
    # those that fail alone are neither
    assert total_forwards(one_worker) - ran + sum(status != 200 for status in statuses) == forwards


async def test_row_with_nan_output_gets_a_response(one_worker: Stack) -> None:
    responses = await send_rows(one_worker, ["nan", *GOOD])
    assert [response.value for response in responses] == ["NaN", *GOOD]


@pytest.fixture
def one_worker(shared: Callable[..., Stack]) -> Iterator[Stack]:
    """A system whose one worker survives all of these tests."""
    system = shared(**SETTINGS, MAX_BATCH_SIZE=16, WINDOW="fixed")
    yield system
    assert [process.popen.poll() for process in system.processes] == [None, None]


def total_entries(system: Stack) -> float:
    return system.counter("smartbatch_entries_total")


def total_forwards(system: Stack) -> float:
    return system.counter("smartbatch_forward_seconds_count") + system.counter("smartbatch_bisections_total")


# --- rows that kill


@pytest.mark.parametrize(
    "poison",
    ["kill", *[pytest.param(row, marks=pytest.mark.extended) for row in ("exit", "segfault", "exit in decode")]],
)
async def test_row_that_kills_workers_becomes_a_dead_letter_and_its_batch_mates_succeed(
    stack: Callable[..., Stack], poison: str
) -> None:
    system = hostile(stack, MAX_BATCH_SIZE=16)
    with Supervised(system, 2) as workers:
        started = time.monotonic()
        responses = await send_rows(system, rows_with([poison], 15))
        seconds = time.monotonic() - started
        eventually(lambda: is_empty(system))
    bad = [response for response in responses if response.status != 200]
    assert [(response.status, response.code) for response in bad] == [(500, "dead_lettered")]
    assert "ended 3 workers, 2 of them while isolated" in bad[0].body["detail"]
    assert [response.value for response in responses if response.status == 200] == GOOD
    assert len(workers.exits) == 3
    assert workers.exits[0] == {"exit": 1, "segfault": -11, "kill": -9, "exit in decode": 1}[poison]
    [letter] = dead_letters(system)
    assert (letter[b"deliveries"], letter[b"header"].split(b"|")[5]) == (b"3", b"raw")
    assert letter[b"reason"].startswith(b"ended 3 workers, 2 of them while isolated")
    assert seconds < 60  # a dead worker detected three times in 3.5 s each, two starts in between


@pytest.mark.parametrize(
    ("max_deliveries", "kills"),
    [(2, 2), pytest.param(1, 2, marks=pytest.mark.extended), pytest.param(3, 3, marks=pytest.mark.extended)],
)
async def test_first_kill_is_counted_against_no_entry(
    stack: Callable[..., Stack], max_deliveries: int, kills: int
) -> None:
    system = hostile(stack, MAX_BATCH_SIZE=16, MAX_DELIVERIES=max_deliveries)
    with Supervised(system, 2) as workers:
        responses = await send_rows(system, rows_with(["kill"], 15))
    assert sorted(response.code for response in responses) == ["dead_lettered", *["ok"] * 15]
    assert workers.exits == [-9] * kills
    assert len(dead_letters(system)) == 1


async def test_isolated_entry_is_not_blamed_for_the_kill_of_the_next(stack: Callable[..., Stack]) -> None:
    system = hostile(stack, MAX_BATCH_SIZE=2, MAX_WAIT_TIME=10, MAX_DELIVERIES=2)
    with Supervised(system, 1) as workers:
        good = asyncio.create_task(send_rows(system, ["slow to encode"]))
        # So it is the first to run isolated.
        await asyncio.to_thread(eventually, lambda: system.running("hostile") == 1)
        responses = await send_rows(system, ["kill"]) + await good
    assert [response.code for response in responses] == ["dead_lettered", "ok"]
    assert workers.exits == [-9, -9]


async def test_several_poison_entries_fail_no_healthy_entry(stack: Callable[..., Stack]) -> None:
    # The first batch closes with all 65, since waiting for the next and sharing a forward of so long pays.
    system = hostile(stack, MAX_BATCH_SIZE=65, MAX_DELIVERIES=2, WINDOW="fixed", MAX_WAIT_TIME=10)
    rows = rows_with(["kill", "exit", "segfault", "kill", "exit"], 60)
    with Supervised(system, 3, HOSTILE_FORWARD_MS=20) as workers:
        responses = await send_rows(system, rows)
        eventually(lambda: is_empty(system))
    for row, response in zip(rows, responses, strict=True):
        if row.startswith("good"):
            assert (response.status, response.value) == (200, row)
        else:
            assert (response.status, response.code) == (500, "dead_lettered")
    assert len(dead_letters(system)) == 5
    assert len(workers.exits) == 6  # one in a shared batch, then each isolated


async def test_entries_claimed_ahead_of_a_kill_succeed_with_max_deliveries_two(
    stack: Callable[..., Stack],
) -> None:
    system = hostile(stack, MAX_BATCH_SIZE=8, MAX_DELIVERIES=1, MAX_WAIT_TIME=0.05)
    with Supervised(system, 1, HOSTILE_FORWARD_MS=400) as workers:
        running = asyncio.create_task(send_rows(system, rows_with(["kill"], 7)))
        await asyncio.to_thread(eventually, lambda: system.running("hostile") == 8)
        ahead = asyncio.create_task(send_rows(system, GOOD[:8]))
        await asyncio.to_thread(eventually, lambda: system.running("hostile") == 16 or workers.exits)
        responses = await running + await ahead
    assert sorted(response.code for response in responses) == ["dead_lettered", *["ok"] * 15]
    assert workers.exits == [-9, -9]


# --- the device's memory


async def test_out_of_memory_shrinks_batches_and_fails_no_request(stack: Callable[..., Stack]) -> None:
    system = hostile(stack, MAX_BATCH_SIZE=32)
    with Supervised(system, 1, HOSTILE_ROWS_THAT_FIT=10) as workers:
        rows = [f"good {number}" for number in range(320)]
        responses = await send_rows(system, rows)
        assert [response.value for response in responses] == rows
        eventually(lambda: system.counter("smartbatch_memory_batch_limit_rows") == 8)
        assert system.counter("smartbatch_out_of_memory_total") >= 1
        [report] = system.stats("hostile")["workers"].values()
        assert int(report["memory_limit_rows"]) == 8
    assert workers.exits == []


async def test_lost_device_ends_its_worker_and_others_run_its_entries(stack: Callable[..., Stack]) -> None:
    system = hostile(stack, MAX_BATCH_SIZE=16, MAX_DELIVERIES=2)
    with Supervised(system, 2) as workers:
        responses = await send_rows(system, rows_with(["lost device"], 15))
    assert sorted(response.code for response in responses) == ["dead_lettered", *["ok"] * 15]
    assert workers.exits == [71, 71]
    assert workers.count_in_logs("the device is lost: RuntimeError: CUDA error: device-side assert triggered") == 2
