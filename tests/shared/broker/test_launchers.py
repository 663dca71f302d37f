"""Launchers register themselves, take commands and report what becomes of them, on real brokers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from smartbatch.shared.broker.admin import launchers
from smartbatch.shared.broker.admin.launchers import (
    Command,
    CommandQueue,
    Event,
    Launcher,
    Load,
    ServedModel,
    Unload,
    choose,
    find,
    send,
)
from smartbatch.shared.broker.connection.multiplexed import BLOCK_S, MultiplexedConnection
from smartbatch.shared.errors import BrokerUnavailable, ModelCommandFailed
from tests.brokers import Broker, Client

ONE = Launcher("box-7-ab", "box", 7, (ServedModel("net@2", "net.pt2", 2, 1, "loading", "loading net.pt2"),))
TWO = Launcher("box-8-cd", "box", 8)


@pytest.fixture
async def blocking(any_broker: Broker) -> AsyncIterator[MultiplexedConnection]:
    """A connection of the client's, for `send`."""
    connection = MultiplexedConnection(any_broker.url, block_s=BLOCK_S)
    yield connection
    connection.close()


@pytest.fixture
async def queue(client: Client, any_broker: Broker) -> AsyncIterator[CommandQueue]:
    connection = MultiplexedConnection(any_broker.url, block_s=BLOCK_S)
    yield CommandQueue(client, connection, ONE.id)
    connection.close()


async def taken(queue: CommandQueue) -> Command:
    async with asyncio.timeout(5):
        while (command := await queue.next()) is None:
            pass
    return command


async def test_a_launcher_is_found_until_it_leaves(client: Client, queue: CommandQueue) -> None:
    assert await find(client) == []
    await queue.register(ONE)
    assert await find(client) == [ONE]
    await queue.unregister()
    assert await find(client) == []
    assert await client.keys("*") == []


async def test_a_launcher_that_was_killed_is_forgotten(client: Client, queue: CommandQueue) -> None:
    await queue.register(ONE)
    await CommandQueue(client, client, TWO.id).register(TWO)
    assert await client.pttl("smartbatch:{launchers}:launcher:box-7-ab") > 0
    await client.delete("smartbatch:{launchers}:launcher:box-7-ab")  # as if it had expired
    assert await find(client) == [TWO]
    assert await client.smembers("smartbatch:{launchers}:ids") == {b"box-8-cd"}


@pytest.mark.parametrize(
    "action",
    [Load("net", 2, {"model_path": "net-v2.pt2", "max_batch_size": "8"}, 3), Unload("net", 1, 5.0, True, True)],
    ids=["load", "unload"],
)
async def test_a_command_arrives_and_its_events_come_back(
    client: Client, queue: CommandQueue, blocking: MultiplexedConnection, action: Load | Unload
) -> None:
    await queue.register(ONE)
    events = send(blocking, ONE, action)
    first = asyncio.ensure_future(anext(events))
    command = await taken(queue)
    assert command.action == action
    await queue.report(command.id, Event("progress", "loading", 1))
    assert await first == Event("progress", "loading", 1)
    await queue.report(command.id, Event("progress", "loading", 1))  # pushed again, as the reply was lost
    await queue.report(command.id, Event("failed", "no such file", 2))
    assert [event async for event in events] == [Event("failed", "no such file", 2)]
    await queue.unregister()
    assert await client.keys("*") == []


async def test_events_that_nobody_reads_expire(client: Client, queue: CommandQueue) -> None:
    await queue.report("c1", Event("done", "", 1))
    assert 0 < await client.pttl("smartbatch:{launchers}:events:c1") <= launchers.EVENTS_TTL_MS


async def test_a_command_that_is_not_taken_is_withdrawn(
    client: Client, blocking: MultiplexedConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launchers, "_SILENT_S", 0.1)
    with pytest.raises(ModelCommandFailed, match=r"box-7-ab \(host box, pid 7\) did not take the command; nothing was"):
        await anext(send(blocking, ONE, Unload("net")))
    assert await client.keys("*") == []


@pytest.mark.parametrize(
    ("left", "text"),
    [
        (None, r"box-7-ab \(host box, pid 7\) ended before it said what became of the command"),
        (ONE, "the broker lost what the launcher box-7-ab .* reported"),
    ],
    ids=["ended", "lost"],
)
async def test_a_command_without_an_outcome_fails(
    queue: CommandQueue,
    blocking: MultiplexedConnection,
    monkeypatch: pytest.MonkeyPatch,
    left: Launcher | None,
    text: str,
) -> None:
    monkeypatch.setattr(launchers, "_SILENT_S", 0.1)
    waiting = asyncio.ensure_future(anext(send(blocking, ONE, Unload("net"))))
    await taken(queue)
    if left:
        await queue.register(left)
    with pytest.raises(ModelCommandFailed, match=text):
        await waiting


async def test_a_silent_command_in_progress_is_waited_for(
    queue: CommandQueue, blocking: MultiplexedConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launchers, "_SILENT_S", 0.1)
    waiting = asyncio.ensure_future(anext(send(blocking, ONE, Unload("net"))))
    command = await taken(queue)
    await queue.register(Launcher(ONE.id, "box", 7, commands=(command.id,)))
    assert not (await asyncio.wait([waiting], timeout=2.5))[0]
    await queue.report(command.id, Event("done", "unloaded", 1))
    assert await waiting == Event("done", "unloaded", 1)


async def test_a_command_is_not_sent_while_the_broker_is_away() -> None:
    connection = MultiplexedConnection("redis://127.0.0.1:1/0", block_s=BLOCK_S)
    with pytest.raises(BrokerUnavailable):
        await anext(send(connection, ONE, Unload("net")))


def test_the_launcher_is_chosen_by_its_id_its_model_or_because_it_is_alone() -> None:
    assert choose([TWO], "net") is TWO
    assert choose([ONE, TWO], "net") is ONE
    assert choose([ONE, TWO], "net", "box-8-cd") is TWO
    having = Launcher("box-9-ef", "box", 9, repository="/models", unloaded=("net", "new"))
    assert choose([ONE, TWO, having], "new") is having
    assert choose([ONE, TWO, having], "net") is ONE


@pytest.mark.parametrize(
    ("known", "model", "launcher_id", "text"),
    [
        ([], "net", "", "no launcher .* runs on this broker"),
        ([ONE, TWO], "other", "", "none of the launchers has the model other; choose one with --launcher: box-7-ab"),
        ([ONE, ONE], "net", "", "2 of the launchers run the model net; choose one with --launcher"),
        ([ONE], "net", "nobody", r"there is no launcher 'nobody'; these run: box-7-ab \(host box, pid 7\)"),
    ],
)
def test_a_choice_that_is_not_clear_is_explained(
    known: list[Launcher], model: str, launcher_id: str, text: str
) -> None:
    with pytest.raises(ModelCommandFailed, match=text):
        choose(known, model, launcher_id)
