"""What things cost, in seconds: the parameters of a simulation. docs/scale.md says how each default was measured."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

Curve = Callable[[int], float]
"""Rows → seconds that a forward of so many takes."""


def affine(base_ms: float, row_ms: float) -> Curve:
    """base + rows × row, as the `simulated` model sleeps."""
    return lambda rows: (base_ms + rows * row_ms) / 1000


def measured(points: dict[int, float]) -> Curve:
    """Through measured points (rows → ms), straight between them, and on as between the last two."""
    known = sorted(points.items())
    if len(known) < 2:
        raise ValueError("a curve needs two points at least")

    def seconds(rows: int) -> float:
        upper = next((n for n, (at, _) in enumerate(known) if at >= rows and n), len(known) - 1)
        (x0, y0), (x1, y1) = known[upper - 1], known[upper]
        return max(0.0, y0 + (y1 - y0) * (rows - x0) / (x1 - x0)) / 1000

    return seconds


class Price(msgspec.Struct, frozen=True):
    """Of one command on the broker's one thread."""

    command_s: float
    entry_s: float = 0.0

    def of(self, entries: int) -> float:
        return self.command_s + entries * self.entry_s


class BrokerCosts(msgspec.Struct, frozen=True):
    """Single-threaded time on the broker, and one way on the network."""

    admit: Price = Price(52e-6, 4.1e-6)
    claim: Price = Price(42e-6, 4.2e-6)
    wait: Price = Price(3e-6)  # BLPOP or XREAD before a claim, CLIENT UNBLOCK
    release: Price = Price(24e-6)
    finish: Price = Price(33e-6, 4.7e-6)
    pop: Price = Price(14e-6, 0.55e-6)  # UNLINK and BLMPOP
    hop_s: float = 50e-6


class Costs(msgspec.Struct, frozen=True):
    """All that isn't the device."""

    broker: BrokerCosts = BrokerCosts()
    gateway_in_s: float = 25e-6  # of a gateway's one thread, per request: until it may leave for the broker
    gateway_out_s: float = 25e-6  # and from its reply to the response
    gateway_refuse_s: float = 25e-6  # at the door
    worker_s: float = 300e-6  # from the end of a forward until its replies leave
    worker_row_s: float = 0.0  # and for each of them; as much from a claim to the forward
    device_gap_s: float = 300e-6  # around each forward: waking up, collating, separating
    client_s: float = 100e-6  # of a client, between a response and the next request
    cores: int = 0  # that all of this shares; 0: one for each process


FREE = Costs(BrokerCosts(*[Price(0.0)] * 6, hop_s=0.0), 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
"""Nothing but the device costs anything."""

BROKER_REQUEST_S = 0.02e-3  # what the defaults come to, for a request in full batches and the usual empty claims


def as_measured(gateway_s: float, broker_s: float, worker_s: float, client_s: float, cores: int) -> Costs:
    """Costs of a machine on which a request took so much of each process's CPU time, with many at once.

    A gateway's time is half on the way in, half out; a worker's half before the forward, half after.
    """
    slower = broker_s / BROKER_REQUEST_S
    usual = BrokerCosts()
    prices = {
        name: Price(price.command_s * slower, price.entry_s * slower)
        for name, price in msgspec.structs.asdict(usual).items()
        if isinstance(price, Price)
    }
    broker = BrokerCosts(**prices, hop_s=usual.hop_s * slower)
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
