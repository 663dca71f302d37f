"""The garbage collector of a process that has started."""

from __future__ import annotations

import gc


def freeze_startup_objects() -> None:
    """Call once, when a process is ready to serve: no collection looks again at what was made until now (modules,
    classes, the network), which stays until the end: while it looks everything stands still, and torch alone brings
    hundreds of thousands of objects. What is made from now on is collected as ever."""
    gc.collect()
    gc.freeze()
