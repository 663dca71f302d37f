"""How often a promotion is aborted although the version is as good as the others, and how soon if it is worse: many
promotions in virtual time, with the conditions that hold by default."""

from __future__ import annotations

import itertools

import msgspec
import pytest

from smartbatch.deploy.rollout.conditions import DEFAULTS, Judge, parse_condition
from tests.deploy.rollout.traffic import Version, compare

CANARY = Version(rate=20.0)
STALLS = Version(rate=20.0, stall_every_s=30.0)


def aborted_after_s(new: Version, old: Version, seconds: int, seed: int) -> int | None:
    """Return after how many seconds the promotion was aborted."""
    judge = Judge([parse_condition(text) for text in DEFAULTS])
    for second, counted in enumerate(compare(new, old, seconds, seed), 1):
        if judge.broken(float(second), counted):
            return second
    return None


def more(version: Version, times: float) -> Version:
    return msgspec.structs.replace(version, rate=version.rate * times)


HEALTHY = {
    "equal shares": (CANARY, CANARY),
    "a twentieth of the requests": (CANARY, more(CANARY, 19)),
    "a request per second": (msgspec.structs.replace(CANARY, rate=1.0), CANARY),
    "errors at the limit": (Version(20.0, errors=0.01), Version(380.0, errors=0.01)),
    "both versions fail often": (Version(20.0, errors=0.05), Version(20.0, errors=0.05)),
    "both stand still now and then": (STALLS, STALLS),
}


@pytest.mark.parametrize(("new", "old"), HEALTHY.values(), ids=HEALTHY)
def test_a_healthy_version_is_not_aborted(new: Version, old: Version) -> None:
    assert [aborted_after_s(new, old, 600, seed) for seed in range(5)] == [None] * 5


@pytest.mark.extended
@pytest.mark.timeout(1200)  # a quarter of a second each
def test_a_healthy_version_is_aborted_in_fewer_than_one_of_a_hundred_promotions() -> None:
    """Three hundred promotions of ten minutes."""
    cases = itertools.islice(itertools.cycle(HEALTHY.values()), 300)
    aborted = [seed for seed, (new, old) in enumerate(cases) if aborted_after_s(new, old, 600, seed) is not None]
    assert len(aborted) < 3, aborted


@pytest.mark.parametrize(
    ("new", "old", "median_s", "most_s"),
    [
        pytest.param(Version(20.0, errors=0.05), Version(380.0, errors=0.001), 10, 25, id="5 % fail"),
        pytest.param(Version(20.0, errors=0.05), Version(20.0), 15, 25, id="5 % fail, equal shares"),
        pytest.param(Version(20.0, errors=1.0), Version(20.0), 3, 3, id="all fail"),
        pytest.param(Version(20.0, median_ms=60.0), more(CANARY, 19), 9, 9, id="3 x slower"),
        pytest.param(Version(20.0, median_ms=60.0), STALLS, 9, 20, id="3 x slower than one that stands still at times"),
        pytest.param(Version(20.0, median_ms=40.0), CANARY, 20, 35, id="2 x slower"),
    ],
)
def test_a_worse_version_is_aborted_within_seconds(new: Version, old: Version, median_s: float, most_s: float) -> None:
    """Twenty requests a second; WARM_UP_S are included. `most_s`: in nine of ten promotions."""
    after = sorted(aborted_after_s(new, old, 60, seed) or 60 for seed in range(100))
    assert (after[50] <= median_s, after[90] <= most_s) == (True, True), after
