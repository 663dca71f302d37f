"""The parameters of a simulation: costs in seconds. docs/scale.md describes how each default was measured."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

Curve = Callable[[int], float]
"""Rows → seconds of a forward."""


def affine(base_ms: float, row_ms: float) -> Curve:
    """Return the curve base + rows × row of the `simulated` model."""
    return lambda rows: (base_ms + rows * row_ms) / 1000


def measured(points: dict[int, float]) -> Curve:
    """Interpolate measured points (rows → ms) linearly; extrapolate from the last two."""
    known = sorted(points.items())
    if len(known) < 2:
        raise ValueError("a curve needs at least two points")

    def seconds(rows: int) -> float:
        upper = next((n for n, (at, _) in enumerate(known) if at >= rows and n), len(known) - 1)
        (x0, y0), (x1, y1) = known[upper - 1], known[upper]
        return max(0.0, y0 + (y1 - y0) * (rows - x0) / (x1 - x0)) / 1000

    return seconds


class CommandCost(msgspec.Struct, frozen=True):
    """Cost of one command on the broker's single thread."""

    command_s: float
    entry_s: float = 0.0

    def of(self, entries: int) -> float:
        return self.command_s + entries * self.entry_s


class BrokerCosts(msgspec.Struct, frozen=True):
    """Cost of the broker's commands, and of one way on the network."""

    admit: CommandCost = CommandCost(52e-6, 4.1e-6)
    claim: CommandCost = CommandCost(42e-6, 4.2e-6)
    wait: CommandCost = CommandCost(3e-6)  # BLPOP or XREAD before a claim, CLIENT UNBLOCK
    release: CommandCost = CommandCost(24e-6)
    finish: CommandCost = CommandCost(33e-6, 4.7e-6)
    pop: CommandCost = CommandCost(14e-6, 0.55e-6)  # UNLINK and BLMPOP
    cancel: CommandCost = CommandCost(33e-6, 4.7e-6)  # not measured: as finish
    load: CommandCost = CommandCost(16e-6)  # what a worker reads of a partition
    heartbeat: CommandCost = CommandCost(38e-6)
    report: CommandCost = CommandCost(15e-6)  # a gateway's
    snapshot: CommandCost = CommandCost(25e-6, 2.3e-6)  # what a gateway reads of a partition, by workers there
    snapshot_gateway_s: float = 1.5e-6  # and by gateways
    hop_s: float = 50e-6


class Costs(msgspec.Struct, frozen=True):
    """All costs except the device's."""

    broker: BrokerCosts = BrokerCosts()
    gateway_in_s: float = 25e-6  # per request on the gateway's thread, from arrival until it can be submitted
    gateway_out_s: float = 25e-6  # per request, from reply to response
    gateway_reject_s: float = 25e-6  # per request that the gateway rejects
    gateway_snapshot: CommandCost = CommandCost(30e-6, 10.5e-6)  # per partition read, by workers there
    gateway_snapshot_gateway_s: float = 5.7e-6  # and by gateways
    worker_s: float = 300e-6  # per batch, from the end of its forward until its replies are sent
    worker_row_s: float = 0.0  # per row before the forward, and again after it
    device_gap_s: float = 300e-6  # around each forward: wake-up, collate, separate
    client_s: float = 100e-6  # on a client, between a response and the next request
    cores: int = 0  # shared by all processes; 0: one per process


NOTHING = CommandCost(0.0)
FREE = Costs(
    BrokerCosts(
        admit=NOTHING,
        claim=NOTHING,
        wait=NOTHING,
        release=NOTHING,
        finish=NOTHING,
        pop=NOTHING,
        cancel=NOTHING,
        load=NOTHING,
        heartbeat=NOTHING,
        report=NOTHING,
        snapshot=NOTHING,
        snapshot_gateway_s=0.0,
        hop_s=0.0,
    ),
    gateway_in_s=0.0,
    gateway_out_s=0.0,
    gateway_reject_s=0.0,
    gateway_snapshot=NOTHING,
    gateway_snapshot_gateway_s=0.0,
    worker_s=0.0,
    device_gap_s=0.0,
    client_s=0.0,
)
"""Only the device takes time."""

BROKER_REQUEST_S = 0.02e-3  # the defaults' cost of a request in full batches, including the usual empty claims


def as_measured(gateway_s: float, broker_s: float, worker_s: float, client_s: float, cores: int) -> Costs:
    """Return the costs that match the measured CPU time per request of each process.

    Half of the gateway's time is spent before the queue and half after it; half of the worker's before the forward and
    half after it.
    """
    slower = broker_s / BROKER_REQUEST_S
    usual = BrokerCosts()
    commands = {
        name: CommandCost(cost.command_s * slower, cost.entry_s * slower)
        for name, cost in msgspec.structs.asdict(usual).items()
        if isinstance(cost, CommandCost)
    }
    broker = msgspec.structs.replace(usual, **commands, hop_s=usual.hop_s * slower)
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
