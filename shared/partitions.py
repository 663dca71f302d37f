"""Which partitions a model has: streams of their own, spread evenly over the primaries of a cluster. Pure.

Every process computes the same partitions from the same slots. After a resharding some differ: the new ones take
requests then, and the others are emptied.
"""

from __future__ import annotations

from collections.abc import Sequence

from smartbatch.shared.keys import partition_tag, slot

SlotRange = tuple[int, int]  # first and last slot


def partitions_of(model: str, primaries: Sequence[Sequence[SlotRange]], count: int = 0) -> list[int]:
    """Return the numbers of a model's partitions. The first is 0, whose keys have the model's name alone as hash tag.

    `primaries`: the slots of each primary, in the order of their lowest slots; none if the broker isn't a cluster.
    `count`: how many partitions; 0 for one per primary.
    """
    wanted = count or max(1, len(primaries))
    if len(primaries) < 2:
        return list(range(wanted))
    first = next((i for i, ranges in enumerate(primaries) if _serves(ranges, slot(model))), 0)
    numbers = [0]
    for n in range(1, wanted):
        ranges = primaries[(first + n) % len(primaries)]
        number = 1
        while number in numbers or not _serves(ranges, slot(partition_tag(model, number))):
            number += 1
        numbers.append(number)
    return numbers


def _serves(ranges: Sequence[SlotRange], number: int) -> bool:
    return any(start <= number <= end for start, end in ranges)
