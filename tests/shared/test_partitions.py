"""A model's partitions lie on different primaries, also after a resharding."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from smartbatch.shared.keys import SLOTS, Keys, partition_tag, slot
from smartbatch.shared.partitions import SlotRange, partitions_of

MODELS = ["m", "resnet18", "minilm", "efficientnet_lite0", "a.b-c_d"]


def even(primaries: int) -> list[list[SlotRange]]:
    bounds = [SLOTS * n // primaries for n in range(primaries + 1)]
    return [[(start, end - 1)] for start, end in itertools.pairwise(bounds)]


def primary_of(primaries: list[list[SlotRange]], model: str, partition: int) -> int:
    number = slot(Keys(partition_tag(model, partition)).requests)
    return next(i for i, ranges in enumerate(primaries) if any(start <= number <= end for start, end in ranges))


def test_elsewhere_than_on_a_cluster_there_is_one_unless_more_are_wanted() -> None:
    assert partitions_of("m", []) == [0]
    assert partitions_of("m", [], 3) == [0, 1, 2]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("primaries", "count"), [(3, 0), (3, 3), (3, 7), (8, 0), (8, 5), (32, 0), (32, 64)])
def test_partitions_are_spread_evenly(model: str, primaries: int, count: int) -> None:
    slots = even(primaries)
    numbers = partitions_of(model, slots, count)
    assert numbers[0] == 0
    assert len(set(numbers)) == len(numbers) == (count or primaries)
    each = Counter(primary_of(slots, model, number) for number in numbers)
    assert max(each.values()) - (min(each.values()) if len(each) == primaries else 0) <= 1


@pytest.mark.parametrize("model", MODELS)
def test_a_new_primary_gets_a_partition_and_most_of_the_others_stay(model: str) -> None:
    before = even(3)
    # The new one took a fourth of each of the others' slots, as `redis-cli --cluster rebalance` does it.
    taken: list[SlotRange] = []
    after: list[list[SlotRange]] = []
    for [(start, end)] in before:
        kept = start + (end - start + 1) // 4
        taken.append((start, kept - 1))
        after.append([(kept, end)])
    after.insert(0, taken)
    numbers = partitions_of(model, after)
    assert {primary_of(after, model, number) for number in numbers} == {0, 1, 2, 3}
    assert 0 in set(numbers) & set(partitions_of(model, before))


def test_a_failover_changes_nothing() -> None:
    assert partitions_of("m", even(3)) == partitions_of("m", [list(ranges) for ranges in even(3)])
