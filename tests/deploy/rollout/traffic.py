"""Two versions in virtual time: what gateways would have counted of them, second by second."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np

from smartbatch.deploy.rollout.conditions import Counted
from smartbatch.gateway.core.latency_window import Summary

BUCKETS_PER_DOUBLING = 8
LOWEST, COUNT = 0, 128  # latency buckets: from 1 ms to 65 s


class Version(msgspec.Struct):
    """Requests arrive at random, `rate` per second. Latencies are log-normal around `median_ms`; every `stall_every_s`
    on average, the version stands still for `stall_s`."""

    rate: float
    errors: float = 0.0
    median_ms: float = 20.0
    stall_every_s: float = 0.0
    stall_s: float = 0.3

    def seconds(self, random: np.random.Generator, seconds: int) -> Iterator[Summary]:
        """Yield what has been counted so far, once per second."""
        at_s = np.sort(random.uniform(0, seconds, random.poisson(self.rate * seconds)))
        ms = random.lognormal(np.log(self.median_ms), 0.3, len(at_s))
        if self.stall_every_s:
            for begin in random.uniform(0, seconds, random.poisson(seconds / self.stall_every_s)):
                stalled = (at_s >= begin) & (at_s < begin + self.stall_s)
                ms[stalled] += (begin + self.stall_s - at_s[stalled]) * 1000
        good = random.uniform(size=len(at_s)) >= self.errors
        buckets = np.floor(np.log2(ms) * BUCKETS_PER_DOUBLING).astype(int)
        counts = np.zeros((seconds, COUNT), int)
        np.add.at(counts, (at_s[good].astype(int), buckets[good] - LOWEST), 1)
        failed = np.bincount(at_s[~good].astype(int), minlength=seconds).cumsum()
        for ok, bad in zip(counts.cumsum(axis=0), failed, strict=True):
            outcomes = {"ok": int(ok.sum()), "error": int(bad)}
            buckets_of = {bucket + LOWEST: int(ok[bucket]) for bucket in np.flatnonzero(ok).tolist()}
            yield Summary(
                {k: n for k, n in outcomes.items() if n}, {"model_failed": int(bad)} if bad else {}, buckets_of
            )


def compare(new: Version, old: Version, seconds: int, seed: int) -> Iterator[Counted]:
    random = np.random.default_rng(seed)
    for each in zip(new.seconds(random, seconds), old.seconds(random, seconds), strict=True):
        yield Counted(*each)
