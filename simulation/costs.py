"""Costs in seconds: the parameters of a simulation. docs/scale.md says how each default was measured."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

Curve = Callable[[int], float]
"""Rows → seconds of a forward."""


def affine(base_ms: float, row_ms: float) -> Curve:
    """base + rows × row, as the `simulated` model takes."""
    return lambda rows: (base_ms + rows * row_ms) / 1000


def measured(points: dict[int, float]) -> Curve:
    """Linear interpolation of measured points (rows → ms), extrapolated from the last two."""
    known = sorted(points.items())
    if len(known) < 2:
        raise ValueError("a curve needs at least two points")

    def seconds(rows: int) -> float:
        upper = next((n for n, (at, _) in enumerate(known) if at >= rows and n), len(known) - 1)
        (x0, y0), (x1, y1) = known[upper - 1], known[upper]
        return max(0.0, y0 + (y1 - y0) * (rows - x0) / (x1 - x0)) / 1000

    return seconds


class CommandCost(msgspec.Struct, frozen=True):
    """Of one command, on the broker's single thread."""

    command_s: float
    entry_s: float = 0.0

    def of(self, entries: int) -> float:
        return self.command_s + entries * self.entry_s


class BrokerCosts(msgspec.Struct, frozen=True):
    """Of the broker's commands, and of one way on the network."""

    admit: CommandCost = CommandCost(52e-6, 4.1e-6)
    claim: CommandCost = CommandCost(42e-6, 4.2e-6)
    wait: CommandCost = CommandCost(3e-6)  # BLPOP or XREAD before a claim, CLIENT UNBLOCK
    release: CommandCost = CommandCost(24e-6)
    finish: CommandCost = CommandCost(33e-6, 4.7e-6)
    pop: CommandCost = CommandCost(14e-6, 0.55e-6)  # UNLINK and BLMPOP
    hop_s: float = 50e-6


class Costs(msgspec.Struct, frozen=True):
    """Everything but the device."""

    broker: BrokerCosts = BrokerCosts()
    gateway_in_s: float = 25e-6  # on a gateway's one thread, per request: from its arrival until it may be submitted
    gateway_out_s: float = 25e-6  # and from its reply to the response
    gateway_refuse_s: float = 25e-6  # for a request refused by the gateway
    worker_s: float = 300e-6  # from the end of a forward until its replies are sent
    worker_row_s: float = 0.0  # and for each of them; the same from a claim to the forward
    device_gap_s: float = 300e-6  # around each forward: wake-up, collate, separate
    client_s: float = 100e-6  # on a client, between a response and the next request
    cores: int = 0  # shared by all of this; 0: one per process


FREE = Costs(BrokerCosts(*[CommandCost(0.0)] * 6, hop_s=0.0), 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
"""Nothing but the device takes time."""

BROKER_REQUEST_S = 0.02e-3  # of the defaults, per request in full batches, with the usual empty claims


def as_measured(gateway_s: float, broker_s: float, worker_s: float, client_s: float, cores: int) -> Costs:
    """Costs by the CPU time per request that each process took under load on a machine.

    Half of a gateway's time is before the queue, half after; half of a worker's before the forward, half after.
    """
    slower = broker_s / BROKER_REQUEST_S
    usual = BrokerCosts()
    commands = {
        name: CommandCost(cost.command_s * slower, cost.entry_s * slower)
        for name, cost in msgspec.structs.asdict(usual).items()
        if isinstance(cost, CommandCost)
    }
    broker = BrokerCosts(**commands, hop_s=usual.hop_s * slower)
    half = gateway_s / 2
    return Costs(
        broker,
        gateway_in_s=half,
        gateway_out_s=half,
        worker_s=0.0,
        worker_row_s=worker_s / 2,
        client_s=client_s,
        cores=cores,
    )
