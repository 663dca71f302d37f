"""The generator counts every request once, whatever becomes of it; and figures are added up right."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from loadtest.drive.histogram import bucket, merged, percentile_ms
from loadtest.drive.inputs import duration_s, numbers, whole_seconds
from loadtest.drive.loops import Closed, Loop, Open
from loadtest.drive.order import Load, Order
from loadtest.drive.scenario import NoScenario, choose
from loadtest.traffic.bodies import Body

OK = b'{"values": ["right"]}'
BODIES = [Body("one", "bytes", b"x", "application/octet-stream")]
Answer = Callable[[int], bytes | None]


def response(status: int = 200, content: bytes = OK, *headers: str) -> bytes:
    head = [f"HTTP/1.1 {status} X", f"content-length: {len(content)}", *headers, "", ""]
    return "\r\n".join(head).encode() + content


@contextlib.asynccontextmanager
async def served(handle: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> AsyncIterator[int]:
    """A server on a free port, which is yielded. All its connections are closed afterwards."""
    open_here: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_here.add(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await handle(reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        open_here.discard(writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    async with asyncio.timeout(20):
        for _ in range(10):  # a connection that is being accepted just when the server closes is never closed
            await asyncio.sleep(0.01)
            while open_here:
                await asyncio.sleep(0.01)
    server.close()


async def counted(kind: str, amount: float, answer: Answer, *, until: int) -> tuple[dict, int, list[float]]:
    """Drive a server that gives request number n (from 0) `answer(n)`, or hangs up, until so many have come.

    Returns what was counted, how many came, and for how long the unanswered had waited.
    """
    came = 0
    enough = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal came
        while await reader.readuntil(b"\r\n\r\n"):
            await reader.readexactly(1)
            number, came = came, came + 1
            if came >= until:
                enough.set()
            said = answer(number)
            if said is None:
                break
            writer.write(said)

    async with served(handle) as port:
        load = Load("closed" if kind == "closed" else "open", amount)
        order = Order(port, load, 1, BODIES, {"one": ["right"]}, check_every=1)
        loop: Loop = (Closed if kind == "closed" else Open)(order)
        loop.start()
        async with asyncio.timeout(20):
            await enough.wait()
        in_flight = len(loop.waiting_since())
        tally = loop.tally.take()
        ages = loop.stop()
    answered = tally["ok"] + tally["refused"] + sum(tally["errors"].values())
    assert tally["sent"] == answered + in_flight
    return tally, came, ages


@pytest.mark.parametrize(("kind", "amount"), [("closed", 4), ("open", 300)])
async def test_right_answers_refusals_errors_and_wrong_answers_are_told_apart(kind: str, amount: float) -> None:
    kinds = [
        response(),
        response(503, b"{}", "Retry-After: 0"),
        response(503, b"{}"),
        response(500, b"{}"),
        response(200, b'{"values": ["another\'s"]}'),
        None,
    ]
    tally, _, _ = await counted(kind, amount, lambda number: kinds[number % 6], until=240)
    assert tally["ok"] > 10 and tally["refused"] > 10
    assert set(tally["errors"]) == {"503", "500", "wrong answer", "no answer"}
    assert tally["wrong"] == tally["errors"]["wrong answer"] > 10
    assert tally["checked"] == tally["ok"] + tally["wrong"]
    assert sum(tally["latency"].values()) == tally["ok"]


async def test_a_closed_loop_has_as_many_requests_open_as_users() -> None:
    _, _, ages = await counted("closed", 7, lambda number: response(), until=100)
    assert len(ages) == 7


async def test_an_open_loop_does_not_wait_for_answers() -> None:
    tally, came, ages = await counted("open", 500, lambda number: b"", until=40)  # never an answer
    assert tally["ok"] == 0
    assert len(ages) >= came >= 40
    assert max(ages) > 0


async def test_a_server_that_is_not_there_is_an_error_and_no_crash() -> None:
    loop = Closed(Order(1, Load("closed", 2), 1, BODIES, {}))
    loop.start()
    async with asyncio.timeout(10):
        while not loop.tally.errors["no connection"] >= 4:
            await asyncio.sleep(0.01)
    loop.stop()


async def test_what_waits_too_long_is_given_up() -> None:
    hung_up = asyncio.Event()

    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.read(1000):
                pass
        finally:
            hung_up.set()

    async with served(never) as port:
        loop = Closed(Order(port, Load("closed", 1), 1, BODIES, {}, give_up_s=0.0))
        loop.start()
        async with asyncio.timeout(10):
            while not loop.tally.errors["no answer"]:
                loop.give_up()
                await asyncio.sleep(0.01)
        loop.stop()
        await asyncio.wait_for(hung_up.wait(), 10)


def test_percentiles_are_right_within_a_hundredth() -> None:
    histogram = Counter(bucket(float(ms)) for ms in range(1, 1001))
    for percent in (1, 50, 95, 99, 100):
        assert percentile_ms(histogram, percent) == pytest.approx(percent * 10, rel=0.01)
    assert percentile_ms(Counter(), 50) is None
    assert bucket(0.0) == bucket(-1.0)


def test_histograms_of_any_seconds_may_be_added_up() -> None:
    assert merged([{"3": 1, "-4": 2}, {}, {"3": 5}]) == {3: 6, -4: 2}


def test_an_order_arrives_as_it_was_given(tmp_path: Path) -> None:
    body = Body("b", "bytes", bytes(range(256)), "application/octet-stream")
    order = Order(8000, Load("open", 12.5), 60, [body], {"b": [1.0]}, headers={"x-api-key": "k"})
    order.save(tmp_path / "order.json")
    assert Order.read(tmp_path / "order.json") == order


def test_durations() -> None:
    assert [duration_s(text) for text in ("100ms", "90", "90s", "10m", "1h30m", "1.5 s")] == [
        0.1,
        90,
        90,
        600,
        5400,
        1.5,
    ]
    for wrong in ("", "ten", "10x", "-5s", "1h x"):
        with pytest.raises(ValueError, match="expected"):
            duration_s(wrong)
    with pytest.raises(ValueError, match="whole seconds"):
        whole_seconds("100ms")


def test_lists_of_numbers() -> None:
    assert numbers("200, 1000,200", int, 1, "whole numbers from 1") == (200, 1000)
    for wrong in ("", "0", "1,,2", "a"):
        with pytest.raises(ValueError, match="expected whole numbers from 1 by comma"):
            numbers(wrong, int, 1, "whole numbers from 1")


def info(*kinds: str, shape: list[int] | None = None) -> dict:
    return {"input": {"kinds": list(kinds), "dtype": "float32", "shape": shape}}


def test_what_is_sent_follows_from_what_the_model_takes() -> None:
    assert choose("auto", [], info("image", "tensor", shape=[3, 8, 8]))[0] == "photos"
    assert choose("auto", [], info("tensor", shape=[4]))[0] == "npy"
    assert choose("auto", [], info("text"))[0] == "texts"
    assert choose("auto", [], info("raw"))[0] == "bytes"
    name, mixed = choose("mixed", [], info("image", "tensor", shape=[4]))
    shares = Counter(body.kind for body in mixed)
    assert name == "mixed" and shares["photo"] == 6 * shares["json"] == 3 * shares["npy"]
    with pytest.raises(NoScenario, match="the model takes tensor: choose --scenario json, npy, msgpack"):
        choose("photos", [], info("tensor", shape=[4]))
    with pytest.raises(NoScenario, match=r"of no announced shape.*files of your own"):
        choose("auto", [], info("tensor"))
