"""Operators' commands on a model with three partitions: all together, and each."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from smartbatch.shared.model_info import InputSpec, ModelInfo, encode
from tests.brokers import Broker
from tests.deploy.test_cli import Ended
from tests.deploy.test_dead import Letters, raw
from tests.deploy.test_queue import Stream

TAGS = ("m", "m:1", "m:2")
LETTER_MS = 1795433558335


class Partitions:
    """The streams of three partitions of the model m, on one broker."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.streams = [Stream(broker, tag) for tag in TAGS]
        self.letters = [Letters(broker, tag) for tag in TAGS]
        self.announce(0, 1, 2)

    def announce(self, *numbers: int) -> None:
        info = ModelInfo("m", "simulated", InputSpec(("raw",)), 32, partitions=numbers)
        self.broker.sync.delete("smartbatch:models")
        self.broker.sync.hset("smartbatch:models", "m", encode(info))

    def join(self, worker_id: str, number: int, state: str = "ready") -> None:
        keys, sync = self.streams[number].keys, self.broker.sync
        numbers = dict.fromkeys(("batches", "rows", "max_batch_size", "max_wait_time"), "0")
        report = {"state": state, "device": "cpu", "progress": "", "batch": "", **numbers}
        sync.hset(keys.worker(worker_id), mapping=report)
        sync.zadd(keys.leases, {worker_id: (sync.time()[0] + 60) * 1000})

    async def run(self, *arguments: str, code: int = 0, **environ: str) -> Ended:
        ended = await asyncio.to_thread(Ended, *arguments, REDIS_URL=self.broker.url, **environ)
        assert ended.code == code, (ended.out, ended.err)
        return ended

    async def json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads("\n".join((await self.run(*arguments, "--json", code=code)).out))

    def take_away(self, number: int) -> None:
        """Make reads of a partition fail: on one broker, by keys of another type."""
        keys = self.streams[number].keys
        for key in (keys.leases, keys.requests, keys.inflight, keys.dead, keys.limits):
            self.broker.sync.delete(key)
            self.broker.sync.set(key, "away")


@pytest.fixture
async def partitions(broker: Broker) -> AsyncIterator[Partitions]:
    made = Partitions(broker)
    yield made
    for stream in made.streams:
        await stream.client.aclose()


# --- queue


async def admit_four(partitions: Partitions) -> None:
    """Admit four requests, the oldest first, of which the one in partition 1 runs."""
    for number, name in ((2, "a"), (1, "b"), (0, "c"), (2, "d")):
        await partitions.streams[number].admit(name, prefix=name)
        await asyncio.sleep(0.003)  # so that their ages differ
    await partitions.streams[1].claim(1)


async def test_queue_lists_all_partitions_together_and_counts_each(partitions: Partitions) -> None:
    await admit_four(partitions)
    partitions.join("w1", 1)
    partitions.join("w1", 2)  # helps out
    [model] = await partitions.json("queue")
    assert (model["model"], model["waiting"], model["running"]) == ("m", 3, 1)
    assert [(e["request"], e["partition"], e["worker"]) for e in model["entries"]] == [
        ("b-0", 1, "w1"),
        ("a-0", 2, None),
        ("c-0", 0, None),
        ("d-0", 2, None),
    ]
    assert {
        number: (each["waiting"], each["running"], each["workers"], each["reachable"])
        for number, each in model["partitions"].items()
    } == {"0": (1, 0, 0, True), "1": (0, 1, 1, True), "2": (2, 0, 1, True)}
    assert model["partitions"]["2"]["oldest_wait_s"] == model["oldest_wait_s"] > 0
    lines = [line.split() for line in (await partitions.run("queue", "--limit", "1")).out]
    assert lines[0][:5] == ["m", "waiting", "3,", "running", "1,"]
    assert "partition waiting running oldest wait (s) ready workers broker" in [" ".join(line) for line in lines]
    assert [line[0] for line in lines if line[-1:] == ["up"]] == ["0", "1", "2"]
    assert [line[0] for line in lines].count("w1") == 1  # once, though it has joined two partitions
    assert [(line[0], line[2]) for line in lines if "raw" in line] == [("1", "b-0"), ("2", "a-0")]
    assert " ".join(lines[-1]) == "… and about 2 more (--limit)"


async def test_one_partition_is_shown_by_its_name(partitions: Partitions) -> None:
    await admit_four(partitions)
    [model] = await partitions.json("queue", "--name", "m:2")
    assert (model["model"], model["waiting"], "partitions" in model) == ("m", 2, False)
    assert [(e["request"], e["partition"]) for e in model["entries"]] == [("a-0", 2), ("d-0", 2)]
    [line] = (await partitions.run("queue", "--name", "m:x", code=2)).err
    assert line == "smartbatch: a partition is a number from 1 to 99999, got 'x'"


async def test_an_entry_is_found_and_cancelled_in_its_partition(partitions: Partitions) -> None:
    await admit_four(partitions)
    shown = await partitions.json("queue", "show", "b-0")
    assert (shown["model"], shown["partition"], shown["worker"]) == ("m", 1, "w1")
    cancelled = await partitions.json("queue", "cancel", "b-0", "d-0")
    assert [(each["partition"], each["cancelled"]) for each in cancelled] == [(1, True), (2, True)]
    assert (await partitions.streams[2].reply("d-0")).error.code == "cancelled_by_operator"
    await partitions.streams[1].admit("again", prefix="a")
    [line] = (await partitions.run("queue", "cancel", "a-0", code=2)).err
    assert line == "smartbatch: entry a-0 exists in several partitions (m:1, m:2); select one with --name"
    [cancelled] = await partitions.json("queue", "cancel", "a-0", "--name", "m:1")
    assert (cancelled["partition"], cancelled["cancelled"]) == (1, True)


async def test_a_partition_that_is_away_hides_no_other(partitions: Partitions) -> None:
    await admit_four(partitions)
    partitions.take_away(1)
    ended = await partitions.run("queue", "--json")
    [model] = json.loads("\n".join(ended.out))
    assert [(e["request"], e["partition"]) for e in model["entries"]] == [("a-0", 2), ("c-0", 0), ("d-0", 2)]
    assert [each["reachable"] for each in model["partitions"].values()] == [True, False, True]
    [line] = ended.err
    assert line.startswith("smartbatch: m:1 is left out: ")
    lines = [line.split() for line in (await partitions.run("queue")).out]
    assert ["1", "–", "–", "–", "–", "away"] in lines
    assert (await partitions.json("queue", "show", "c-0"))["partition"] == 0
    [line] = (await partitions.run("queue", "show", "b-0", code=2)).err
    assert line.endswith("no entry b-0 where the broker answers; m:1 can't be read")
    top = "\n".join((await partitions.run("top", "--once")).out)
    assert "waiting 3 " in top and "away" in top
    for number in (0, 2):
        partitions.take_away(number)
    assert (await partitions.run("queue", code=2)).out == []


# --- dead


async def test_dead_letters_of_all_partitions_are_listed_found_and_dropped(partitions: Partitions) -> None:
    ids = [partitions.letters[number].add(raw(), died_ms=LETTER_MS + n) for n, number in enumerate((1, 0, 2, 1))]
    listed = await partitions.json("dead", "list", "--limit", "3")
    assert [(each["id"], each["model"], each["partition"]) for each in listed] == [
        (ids[3], "m", 1),
        (ids[2], "m", 2),
        (ids[1], "m", 0),
    ]
    header, first, *_ = (await partitions.run("dead", "list")).out
    assert header.split()[:4] == ["id", "model", "partition", "when"]
    assert first.split()[:3] == [ids[3], "m", "1"]
    assert [each["id"] for each in await partitions.json("dead", "list", "--name", "m:1")] == [ids[3], ids[0]]
    assert (await partitions.json("dead", "show", ids[2]))["partition"] == 2
    assert (await partitions.run("dead", "drop", ids[0], ids[1])).out == ["deleted 2 dead letters"]
    assert [letters.count for letters in partitions.letters] == [0, 1, 1]
    assert (await partitions.run("dead", "drop", "--all", "--yes")).out == ["deleted 2 dead letters"]


async def test_an_id_of_two_partitions_requires_the_partition(partitions: Partitions) -> None:
    letter_id = partitions.letters[0].add(raw())
    assert partitions.letters[2].add(raw()) == letter_id
    [line] = (await partitions.run("dead", "drop", letter_id, code=2)).err
    assert line.endswith(f"{letter_id} exists in several partitions (m, m:2); select one with --name")
    await partitions.run("dead", "drop", letter_id, "--name", "m:2")
    assert [letters.count for letters in partitions.letters] == [1, 0, 0]


async def test_a_letter_is_requeued_in_its_partition(partitions: Partitions) -> None:
    partitions.letters[2].add(raw())
    [outcome] = await partitions.json("dead", "requeue", "--all", "--no-wait")
    assert (outcome["partition"], outcome["outcome"]) == (2, "queued")
    assert [partitions.broker.sync.xlen(stream.keys.requests) for stream in partitions.streams] == [0, 0, 1]


# --- limits, top, models


def limits(partitions: Partitions) -> list[dict]:
    return [partitions.broker.sync.hgetall(stream.keys.limits) for stream in partitions.streams]


async def test_limits_are_changed_in_all_partitions(partitions: Partitions) -> None:
    partitions.join("w1", 0)
    partitions.join("w2", 2)
    out = (await partitions.run("limits", "--max-batch-size", "4")).out
    assert out == ["m: MAX_BATCH_SIZE=4 for 2 workers within a second, and for workers that start later"]
    assert limits(partitions) == [{b"max_batch_size": b"4"}] * 3
    shown = [line.split() for line in (await partitions.run("limits")).out]
    assert [line[1] for line in shown if line[0] == "m"] == ["w1", "w2"]
    await partitions.run("limits", "--reset")
    assert limits(partitions) == [{}] * 3


async def test_limits_of_a_model_that_is_not_announced_are_set_in_its_future_partitions(
    partitions: Partitions,
) -> None:
    partitions.broker.sync.flushall()
    await partitions.run("limits", "--name", "m", "--max-wait-time", "0.5", PARTITIONS="3")
    assert limits(partitions) == [{b"max_wait_time": b"0.5"}] * 3


async def test_limits_say_where_they_could_not_be_changed(partitions: Partitions) -> None:
    partitions.join("w1", 0)
    partitions.take_away(1)
    [line] = (await partitions.run("limits", "--max-batch-size", "4", code=2)).err
    assert line.endswith("changed, but not in m:1, whose broker is away; run this again once it is back")
    for number in (0, 2):
        assert partitions.broker.sync.hgetall(partitions.streams[number].keys.limits) == {b"max_batch_size": b"4"}


async def test_top_and_models_count_a_worker_once(partitions: Partitions) -> None:
    await admit_four(partitions)
    partitions.join("w1", 1)
    partitions.join("w1", 2)
    partitions.join("w2", 0, state="loading")
    stats = (await partitions.json("top", "--once"))["models"]["m"]["stats"]
    assert (stats["queue"]["waiting"], stats["queue"]["running"]) == (3, 1)
    assert list(stats["workers"]) == ["w2", "w1"]
    assert [(n, each["waiting"], each["workers"]) for n, each in stats["partitions"].items()] == [
        ("0", 1, 0),
        ("1", 0, 1),
        ("2", 2, 1),
    ]
    lines = [line.split() for line in (await partitions.run("top", "--once")).out]
    assert [line[:3] for line in lines if line[-1:] == ["up"]] == [["0", "1", "0"], ["1", "0", "1"], ["2", "2", "0"]]
    listed = [line.split() for line in (await partitions.run("models")).out]
    assert ["m", "simulated", "raw", "any", "1"] in [line[:5] for line in listed]


async def test_one_partition_is_not_mentioned(partitions: Partitions) -> None:
    partitions.announce(0)
    await partitions.streams[0].admit("a")
    partitions.letters[0].add(raw())
    partitions.join("w1", 0)
    for command in (["queue"], ["queue", "show", "r-0"], ["dead", "list"], ["top", "--once"], ["limits"]):
        assert "partition" not in "\n".join((await partitions.run(*command)).out)
        if command != ["limits"]:
            found = "\n".join((await partitions.run(*command, "--json")).out)
            assert '"partition"' not in found and '"reachable"' not in found
