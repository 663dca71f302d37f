"""Garbage collection after startup."""

from __future__ import annotations

import gc


def freeze_startup_objects() -> None:
    """Exclude all existing objects from future garbage collections. Call once, when the process is ready to serve.

    Modules, classes and the network live until the process ends. A collection pauses the process while it scans them,
    and torch alone creates hundreds of thousands of objects. New objects are collected as usual.
    """
    gc.collect()
    gc.freeze()
