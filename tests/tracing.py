"""Record which functions of a package are entered."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).parents[1]


class CallTrace:
    """Records the functions of a package, as `path/of/file.py:Class.function`, in the order of their first entry.

    It traces the creating thread and threads that start later.
    """

    def __init__(self, package: str) -> None:
        self._folder = f"{ROOT / package}/"
        self._entered: dict[str, None] | None = None
        sys.setprofile(self._on_event)
        threading.setprofile(self._on_event)

    def close(self) -> None:
        sys.setprofile(None)
        threading.setprofile(None)

    @contextmanager
    def record(self) -> Iterator[dict[str, None]]:
        """Record until the end of the block."""
        self._entered = entered = {}
        try:
            yield entered
        finally:
            self._entered = None

    def _on_event(self, frame: FrameType, event: str, arg: object) -> None:
        entered = self._entered
        if event != "call" or entered is None:
            return
        code = frame.f_code
        if code.co_filename.startswith(self._folder) and not code.co_name.startswith("<"):
            path = Path(code.co_filename).relative_to(ROOT)
            entered.setdefault(f"{path}:{code.co_qualname.replace('.<locals>', '')}")
