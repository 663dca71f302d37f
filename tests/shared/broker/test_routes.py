"""Routing tables are changed by one at a time, and every change is kept: on both brokers."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from smartbatch.shared.broker.admin import routes
from smartbatch.shared.broker.admin.routes import change, history, read, tables, update
from smartbatch.shared.errors import RouteChanged, SmartBatchError, UnknownModel
from smartbatch.shared.keys import ROUTES, hash_tag, route_history
from smartbatch.shared.routing import Promotion, RoutingTable
from tests.brokers import Broker, Client

HALVES = RoutingTable({1: 50.0, 2: 50.0}, sticky="x-user", promotion=Promotion(2, "running"))


def to_version(version: int):
    return lambda table: msgspec.structs.replace(table, weights={version: 1.0})


async def test_a_table_is_written_if_it_is_still_the_one_that_was_read(client: Client) -> None:
    assert await read(client, "m") is None
    first = await change(client, "m", HALVES, expected=0, who="ann@laptop", what="1=50 2=50")
    assert first == msgspec.structs.replace(HALVES, revision=1)
    assert await tables(client) == {"m": first}
    with pytest.raises(RouteChanged, match="routing table of m was changed"):
        await change(client, "m", RoutingTable(), expected=0, who="bob@laptop", what="reset")
    assert await read(client, "m") == first
    second = await change(client, "m", RoutingTable(), expected=1, who="bob@laptop", what="reset")
    assert await read(client, "m") == second == RoutingTable(revision=2)


async def test_the_history_tells_who_changed_what_and_when(client: Client, any_broker: Broker) -> None:
    first = await change(client, "m", HALVES, expected=0, who="ann@laptop", what="1=50 2=50")
    await change(client, "m", None, expected=1, who="bob@höst", what="--reset")
    newest, oldest = await history(client, "m", 10)
    assert (newest.revision, newest.who, newest.what) == (2, "bob@höst", "--reset")
    assert (newest.before, newest.after) == (first, None)
    assert (oldest.revision, oldest.who, oldest.before, oldest.after) == (1, "ann@laptop", None, first)
    now_s, _ = any_broker.sync.time()
    assert now_s * 1000 - 60_000 < oldest.at_ms <= newest.at_ms < now_s * 1000 + 2000
    assert await history(client, "m", 1) == [newest]
    assert await history(client, "other", 10) == []


async def test_a_deleted_table_is_gone_and_its_revisions_go_on(client: Client) -> None:
    await change(client, "m", HALVES, expected=0, who="a", what="")
    await change(client, "m", None, expected=1, who="a", what="")
    assert (await tables(client), await read(client, "m")) == ({}, None)
    again = await update(client, "m", to_version(3), who="a", what="")
    assert again == RoutingTable({3: 1.0}, revision=3)


async def test_models_have_tables_and_histories_of_their_own(client: Client) -> None:
    await update(client, "a", to_version(1), who="a", what="")
    await update(client, "b", to_version(2), who="a", what="")
    assert await tables(client) == {"a": RoutingTable({1: 1.0}, revision=1), "b": RoutingTable({2: 1.0}, revision=1)}
    assert len(await history(client, "a", 10)) == 1


async def test_of_many_updates_at_once_none_is_lost(client: Client, any_broker: Broker) -> None:
    def drain(version: int):
        return lambda table: msgspec.structs.replace(table, draining=(*table.draining, version))

    others = [Client(any_broker.url) for _ in range(8)]
    await asyncio.gather(
        *(update(each, "m", drain(n), who=f"user{n}", what=f"drain {n}") for n, each in enumerate(others))
    )
    for each in others:
        await each.aclose()
    table = await read(client, "m")
    assert table is not None
    assert (sorted(table.draining), table.revision) == (list(range(8)), 8)
    changes = await history(client, "m", 100)
    assert [each.revision for each in changes] == list(range(8, 0, -1))
    assert all(newer.before == older.after for newer, older in zip(changes, changes[1:], strict=False))


async def test_an_update_that_changes_nothing_is_not_recorded(client: Client) -> None:
    table = await update(client, "m", to_version(1), who="a", what="")
    assert await update(client, "m", to_version(1), who="b", what="") == table
    assert await update(client, "none", lambda _: None, who="b", what="") is None
    assert len(await history(client, "m", 10)) == 1
    assert await history(client, "none", 10) == []


async def test_an_error_of_the_function_changes_nothing(client: Client) -> None:
    def refuse(_: RoutingTable) -> RoutingTable:
        raise SmartBatchError("no")

    with pytest.raises(SmartBatchError, match="^no$"):
        await update(client, "m", refuse, who="a", what="")
    assert await tables(client) == {}


@pytest.mark.parametrize("text", [b"\xff", b"[]", b'{"weights":{"x":1}}', b"{"])
async def test_an_invalid_table_counts_as_none_and_is_replaced(client: Client, text: bytes) -> None:
    await client.hset(ROUTES, "m", text)
    assert (await tables(client), await read(client, "m")) == ({}, None)
    await update(client, "m", to_version(2), who="a", what="")
    assert await tables(client) == {"m": RoutingTable({2: 1.0}, revision=1)}
    assert (await history(client, "m", 1))[0].before is None


async def test_a_table_whose_history_is_lost_can_be_changed(client: Client) -> None:
    await update(client, "m", to_version(1), who="a", what="")
    await update(client, "m", to_version(2), who="a", what="")
    await client.delete(route_history("m"))
    assert await update(client, "m", to_version(3), who="a", what="") == RoutingTable({3: 1.0}, revision=3)


async def test_a_history_keeps_about_a_thousand_changes(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "MAX_CHANGES", 10)
    for version in range(1, 300):
        await update(client, "m", to_version(version), who="a", what="")
    assert 10 <= len(await history(client, "m", 1000)) < 299  # Redis trims whole nodes of the stream
    assert (await history(client, "m", 1))[0].revision == 299


async def test_a_full_broker_takes_a_change(client: Client, any_broker: Broker) -> None:
    any_broker.sync.config_set("maxmemory", 1)
    try:
        await update(client, "m", to_version(1), who="a", what="")
    finally:
        any_broker.sync.config_set("maxmemory", 0)
    assert await tables(client) == {"m": RoutingTable({1: 1.0}, revision=1)}


@pytest.mark.parametrize("name", ["m@2", "m:1", "", "a b"])
async def test_a_table_belongs_to_a_name_without_version(client: Client, name: str) -> None:
    with pytest.raises(UnknownModel, match="a model name must be"):
        await update(client, name, to_version(1), who="a", what="")


def test_both_keys_are_in_one_slot() -> None:
    assert hash_tag(ROUTES) == hash_tag(route_history("m")) == "routes"
