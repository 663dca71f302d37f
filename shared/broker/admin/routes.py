"""Routing tables of models: read by gateways, changed by operators' tools. Each change is kept in a history.

Changes of a model are numbered by the table's revision, also across a deletion. `connection` is that of ROUTES.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from smartbatch.shared import routing
from smartbatch.shared.broker.connection.multiplexed import MultiplexedConnection, to_dict
from smartbatch.shared.broker.connection.script import ROUTE
from smartbatch.shared.errors import RouteChanged, UnknownModel
from smartbatch.shared.keys import ROUTES, check_model_name, route_history
from smartbatch.shared.routing import RoutingTable

MAX_CHANGES = 1000  # that the history of a model keeps, roughly
_TRIES = 20  # of a change while others change the same table


class Change(msgspec.Struct, frozen=True):
    """One change of a routing table. `at_ms`: on the Redis clock. None stands for no table."""

    revision: int
    at_ms: int
    who: str
    what: str
    before: RoutingTable | None
    after: RoutingTable | None


async def tables(connection: MultiplexedConnection) -> dict[str, RoutingTable]:
    """Return the routing table of each model that has one, without invalid ones."""
    found = {}
    for name, text in to_dict(await connection.execute("HGETALL", ROUTES)).items():
        try:
            found[check_model_name(name.decode())] = routing.decode(text)
        except (ValueError, UnknownModel):  # msgspec's errors and UnicodeDecodeError are ValueErrors
            continue
    return found


async def read(connection: MultiplexedConnection, model: str) -> RoutingTable | None:
    """Return the model's routing table, None if it has none or an invalid one."""
    return _decode(await connection.execute("HGET", ROUTES, check_model_name(model)))


async def update(
    connection: MultiplexedConnection,
    model: str,
    function: Callable[[RoutingTable], RoutingTable | None],
    *,
    who: str,
    what: str,
) -> RoutingTable | None:
    """Write the table that `function` makes of the present one, None to delete it. Returns what was written.

    `function` gets an empty table if there is none, and is called again if somebody else changes the table at the same
    time; its errors are raised. If it returns a table as it is, nothing is written. Raises RouteChanged if others never
    stop changing it.
    """
    for _ in range(_TRIES):
        present, last = await _read(connection, model)
        table = function(present or RoutingTable())
        if table == present:
            return present
        try:
            return await change(connection, model, table, expected=last, who=who, what=what)
        except RouteChanged as error:
            changed = error
    raise changed


async def change(
    connection: MultiplexedConnection, model: str, table: RoutingTable | None, *, expected: int, who: str, what: str
) -> RoutingTable | None:
    """Write a table, None to delete it, and record who changed what. Returns it with its new revision.

    Raises RouteChanged if the last change is not the one with the revision `expected`, 0 for none.
    """
    revision = max(expected, table.revision if table else 0) + 1
    if table is not None:
        table = msgspec.structs.replace(table, revision=revision)
    text = b"" if table is None else routing.encode(table)
    arguments = [check_model_name(model), expected, revision, text, who, what, MAX_CHANGES]
    if not await ROUTE.call(connection, [ROUTES, route_history(model)], arguments):
        raise RouteChanged(f"the routing table of {model} was changed by somebody else in the meantime")
    return table


async def history(connection: MultiplexedConnection, model: str, count: int) -> list[Change]:
    """Return up to `count` changes of the model's table, newest first."""
    found = await connection.execute("XREVRANGE", route_history(check_model_name(model)), "+", "-", "COUNT", count)
    return [_change(entry_id, to_dict(fields)) for entry_id, fields in found]


async def _read(connection: MultiplexedConnection, model: str) -> tuple[RoutingTable | None, int]:
    """Return the table, and the revision of the last change in the history, which outlives a deleted table."""
    text, changes = await connection.call(
        [
            ("HGET", ROUTES, check_model_name(model)),
            ("XREVRANGE", route_history(model), "+", "-", "COUNT", 1),
        ]
    )
    return _decode(text), int(to_dict(changes[0][1])[b"revision"]) if changes else 0


def _decode(text: bytes | None) -> RoutingTable | None:
    try:
        return routing.decode(text) if text else None
    except ValueError:  # written by another program
        return None


def _change(entry_id: bytes, fields: dict[bytes, bytes]) -> Change:
    who, what = (fields[name].decode(errors="replace") for name in (b"who", b"what"))
    at_ms = int(entry_id.partition(b"-")[0])
    return Change(int(fields[b"revision"]), at_ms, who, what, _decode(fields[b"before"]), _decode(fields[b"after"]))
