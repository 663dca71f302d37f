"""Store a run on disk, so that it can be interrupted at any moment and resumed.

run.json                     the plan, the machine, the model's metadata
phases/NAME.jsonl            a line per event: piece (a start of the server), begin, second, end
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from loadtest.benchmark.plan import Phase, Plan
from loadtest.cli import check_same
from loadtest.generator.counters import Event


class Store:
    """The folder of a run. `metadata` is the content of run.json; `update` changes both."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._run = folder / "run.json"
        self.metadata: dict[str, Any] = {}

    def open(self, plan: Plan, *, fresh: bool) -> bool:
        """Create the folder, or load its run and return True. Raises DifferentRun."""
        if fresh:
            shutil.rmtree(self.folder / "phases", ignore_errors=True)
            self._run.unlink(missing_ok=True)
        (self.folder / "phases").mkdir(parents=True, exist_ok=True)
        if not self._run.exists():
            self.update(plan=plan.as_json())
            return False
        self.metadata = json.loads(self._run.read_text())
        check_same(self.folder, self.metadata["plan"], plan.as_json())
        return True

    def update(self, **metadata: Any) -> None:
        self.metadata |= metadata
        draft = self._run.with_suffix(".new")
        draft.write_text(json.dumps(self.metadata, indent=1) + "\n")
        draft.replace(self._run)

    def append(self, phase: Phase, event: str, counts: dict[str, Any]) -> None:
        with self._path(phase).open("a") as file:
            file.write(json.dumps({event: counts}) + "\n")

    def events(self, phase: Phase) -> list[Event]:
        """Return the events of a phase, without a line that a crash has cut off."""
        path = self._path(phase)
        events = []
        for line in path.read_text().splitlines() if path.exists() else ():
            try:
                ((event, counts),) = json.loads(line).items()
            except ValueError:
                continue
            events.append((event, counts))
        return events

    def seconds_done(self, phase: Phase) -> int:
        return sum(event == "second" for event, _ in self.events(phase))

    def _path(self, phase: Phase) -> Path:
        return self.folder / "phases" / f"{phase.name}.jsonl"
