"""`smartbatch queue` as users and scripts run it, on entries that the gateway's code admitted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import msgpack
import pytest

from smartbatch.shared.broker.admin.entries import READ_COUNT, Entries
from smartbatch.shared.broker.connection.multiplexed import Command
from smartbatch.shared.broker.queue.admission import Admission, AdmitStatus, NewEntry
from smartbatch.shared.broker.queue.claims import WorkerQueue
from smartbatch.shared.keys import Keys
from smartbatch.shared.model_info import InputSpec, ModelInfo, encode
from smartbatch.shared.wire import Payload, Raw, pack_payload, unpack_reply
from tests.brokers import Broker, Client
from tests.deploy.test_cli import Ended


class Stream:
    """A model's stream on an empty broker, and a runner of the command."""

    def __init__(self, broker: Broker, model: str) -> None:
        self.broker = broker
        self.model = model
        self.keys = Keys(model)
        self.client = Client(broker.url)
        self.admission = Admission(self.client, self.keys, "gw", max_entries=1000, max_bytes=10**8, body_ttl_s=60)
        broker.sync.hset("smartbatch:models", model, encode(ModelInfo(model, "simulated", InputSpec(("raw",)), 32)))

    async def admit(self, *texts: str, prefix: str = "r") -> None:
        payloads = [pack_payload(Payload("raw", Raw(text.encode(), "text/plain"))) for text in texts]
        requests = [NewEntry(f"{prefix}-{n}", 30_000, 1, "raw", payload) for n, payload in enumerate(payloads)]
        assert set((await self.admission.admit(requests)).statuses) == {AdmitStatus.ADMITTED}

    async def claim(self, count: int) -> None:
        claims = WorkerQueue(self.client, self.client, self.keys, "w1", lease_ms=60_000, reply_ttl_s=60)
        assert len((await claims.claim("idle", room_rows=count, room_bytes=10**8)).entries) == count

    async def run(self, *arguments: str, code: int = 0) -> Ended:
        ended = await asyncio.to_thread(Ended, "queue", *arguments, REDIS_URL=self.broker.url)
        assert ended.code == code, (ended.out, ended.err)
        return ended

    async def json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads("\n".join((await self.run(*arguments, "--json", code=code)).out))

    async def rejection(self, *arguments: str) -> str:
        [line] = (await self.run(*arguments, code=2)).err
        return line.removeprefix("smartbatch: ")

    async def reply(self, request_id: str) -> Any:
        packed = await self.client.get(self.keys.reply(request_id))
        return unpack_reply(packed) if packed else None


@pytest.fixture
async def stream(broker: Broker) -> AsyncIterator[Stream]:
    made = Stream(broker, "m")
    yield made
    await made.client.aclose()


async def test_list_has_running_then_waiting_entries_oldest_first(stream: Stream) -> None:
    await stream.admit(*"abcde")
    await stream.claim(2)
    [model] = await stream.json()
    assert (model["model"], model["waiting"], model["running"]) == ("m", 3, 2)
    assert [(e["request"], e["worker"], e["deliveries"]) for e in model["entries"]] == [
        ("r-0", "w1", 1),
        ("r-1", "w1", 1),
        ("r-2", None, 0),
        ("r-3", None, 0),
        ("r-4", None, 0),
    ]
    assert {(e["rows"], e["kind"]) for e in model["entries"]} == {(1, "raw")}
    assert all(0 <= e["age_s"] < 60 for e in model["entries"])
    some = await stream.run("--limit", "1", "--name", "m")
    assert [line.split()[1] for line in some.out if " raw " in line] == ["r-0", "r-2"]
    assert some.out[-1] == " … and about 3 more (--limit)"


async def test_a_long_stream_is_read_in_pieces(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    await stream.admit(*map(str, range(5 * READ_COUNT)))
    await stream.claim(2 * READ_COUNT + 1)
    call, read = stream.client.call, list[int]()

    async def counted(commands: Sequence[Command], **how: bool) -> list[Any]:
        results = await call(commands, **how)
        rows = zip(commands, results, strict=True)
        read.append(sum(len(result) for command, result in rows if command[0] in ("XRANGE", "XPENDING")))
        return results

    monkeypatch.setattr(stream.client, "call", counted)
    entries_read = await Entries(stream.client, "m").oldest(1000)
    assert [each.entry.id for each in entries_read] == [f"r-{n}" for n in range(5 * READ_COUNT)]
    assert [bool(each.worker) for each in entries_read].count(True) == 2 * READ_COUNT + 1
    assert max(read) == READ_COUNT
    assert len(await Entries(stream.client, "m").oldest(READ_COUNT + 1)) == 2 * (READ_COUNT + 1)


async def test_show_decodes_an_entry_by_either_id(stream: Stream, tmp_path: Path) -> None:
    large = "x" * 100_000  # an external payload
    await stream.admit("hello", large)
    await stream.claim(1)
    shown = await stream.json("show", "r-0")
    assert shown["worker"] == "w1"
    assert shown["timeout_s"] == 30.0
    assert shown["gateway"] == "gw"
    assert shown["payload"] == {"kind": "raw", "content_type": "text/plain", "bytes": 5, "options": {}}
    saved = tmp_path / "input"
    lines = (await stream.run("show", shown["entry"], "--save", str(saved))).out
    assert saved.read_text() == "hello"
    assert [line.split() for line in lines if line.startswith("payload bytes")] == [["payload", "bytes", "5"]]
    await stream.run("show", "r-1", "--save", str(saved))
    assert saved.read_text() == large


async def test_show_tells_and_saves_several_inputs(stream: Stream, tmp_path: Path) -> None:
    inputs = {"words": Payload("text", ["a cat"]), "blob": Payload("raw", Raw(b"\0\1", "a/b"))}
    entry = NewEntry("r-0", 30_000, 1, "inputs", pack_payload(Payload("inputs", inputs)))
    assert (await stream.admission.admit([entry])).statuses == [AdmitStatus.ADMITTED]
    saved = tmp_path / "inputs"
    shown = await stream.json("show", "r-0", "--save", str(saved))
    assert shown["payload"] == {
        "kind": "inputs",
        "inputs": {"words": {"texts": ["a cat"]}, "blob": {"content_type": "a/b", "bytes": 2}},
        "options": {},
    }
    assert msgpack.unpackb(saved.read_bytes()) == {"inputs": {"words": ["a cat"], "blob": b"\0\1"}}


async def test_an_unknown_or_ambiguous_id_is_rejected(stream: Stream, broker: Broker) -> None:
    await stream.admit("hello")
    for id_ in ("no-such", "1795433558335-0"):
        text = f"no entry {id_} in any model; `smartbatch queue` lists what exists"
        assert await stream.rejection("show", id_) == text
        assert await stream.rejection("cancel", "r-0", id_) == text
    assert await stream.reply("r-0") is None  # nothing was changed
    other = Stream(broker, "other")
    await other.admit("hello")
    text = "entry r-0 exists in several models (m, other); select one with --name"
    assert await stream.rejection("cancel", "r-0") == text
    [shown] = await stream.json("cancel", "r-0", "--name", "other")
    assert (shown["model"], shown["cancelled"]) == ("other", True)
    await other.client.aclose()


async def test_cancel_replies_to_the_client_and_leaves_nothing_behind(stream: Stream) -> None:
    await stream.admit("running", "waiting", "y" * 100_000, "stays")
    await stream.claim(1)
    assert (await stream.run("cancel", "r-0", "r-1", "r-2")).out[0].endswith("  cancelled")
    for n in range(3):
        assert (await stream.reply(f"r-{n}")).error.code == "cancelled_by_operator"
    assert [bytes(n).split(b"|")[0] for n in await stream.client.lrange(stream.keys.inbox("gw"), 0, -1)] == [
        b"r-0",
        b"r-1",
        b"r-2",
    ]
    [model] = await stream.json()
    assert [(e["request"], e["worker"]) for e in model["entries"]] == [("r-3", None)]
    assert not await stream.client.exists(stream.keys.body("r-2"))


async def test_cancel_reports_a_request_that_is_already_finished(stream: Stream) -> None:
    await stream.admit("hello")
    entries = Entries(stream.client, "m")
    [entry] = await entries.find(["r-0"])
    assert entry is not None
    assert await entries.cancel(entry, 60)
    assert not await entries.cancel(entry, 60)


async def test_malformed_entries_are_shown_and_can_be_removed(stream: Stream) -> None:
    entry_id = (await stream.client.xadd(stream.keys.requests, {"id": "\x1b[2J[red]", "what": "ever"})).decode()
    assert r"\x1b[2J[red]" in "\n".join((await stream.run()).out)
    shown = await stream.json("show", entry_id)
    assert shown["malformed"] == "its fields are not id, header and payload"
    assert (await stream.json("cancel", entry_id))[0]["cancelled"] is True
    assert (await stream.json())[0]["entries"] == []
