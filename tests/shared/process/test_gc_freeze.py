"""The garbage collector skips objects that exist when a process begins to serve, and collects later ones."""

from __future__ import annotations

import gc
import weakref

from smartbatch.shared.process.gc_freeze import freeze_startup_objects


class Ring:
    """An object that refers to itself, so that only a collection frees it."""

    def __init__(self) -> None:
        self.itself = self


def test_frozen_objects_are_skipped_and_later_ones_collected() -> None:
    gone, here = weakref.ref(Ring()), Ring()
    try:
        freeze_startup_objects()
        assert gone() is None  # garbage is not frozen
        assert not any(found is here for found in gc.get_objects())
        later = weakref.ref(Ring())
        gc.collect()
        assert later() is None
    finally:
        gc.unfreeze()
    assert any(found is here for found in gc.get_objects())
