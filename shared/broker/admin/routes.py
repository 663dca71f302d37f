"""Routing tables of models: read by gateways, changed by operators' tools."""

from __future__ import annotations

from smartbatch.shared import routing
from smartbatch.shared.broker.connection.multiplexed import MultiplexedConnection, to_dict
from smartbatch.shared.errors import UnknownModel
from smartbatch.shared.keys import ROUTES, check_model_name
from smartbatch.shared.routing import RoutingTable


async def tables(connection: MultiplexedConnection) -> dict[str, RoutingTable]:
    """Return the routing table of each model that has one, without invalid ones. `connection` is that of ROUTES."""
    found = {}
    for name, text in to_dict(await connection.execute("HGETALL", ROUTES)).items():
        try:
            found[check_model_name(name.decode())] = routing.decode(text)
        except (ValueError, UnknownModel):  # msgspec's errors and UnicodeDecodeError are ValueErrors
            continue
    return found
