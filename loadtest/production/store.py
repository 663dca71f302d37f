"""What a run has on disk, so that it may be broken off at any moment and taken up again.

run.json                     the plan, the machine, what was found out on the way
phases/NAME.jsonl            a line for each event: piece (a start of the server), begin, second, end
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from loadtest.production.plan import Phase, Plan


class OtherRun(Exception):
    """The folder holds a run of another plan."""


class Store:
    """One folder. `facts` are kept with `remember`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._run = folder / "run.json"
        self.facts: dict[str, Any] = {}

    def open(self, plan: Plan, *, fresh: bool) -> bool:
        """Make the folder, or take up what it holds (then return True). Raises OtherRun."""
        if fresh:
            shutil.rmtree(self.folder / "phases", ignore_errors=True)
            self._run.unlink(missing_ok=True)
        (self.folder / "phases").mkdir(parents=True, exist_ok=True)
        if not self._run.exists():
            self.remember(plan=plan.as_json())
            return False
        self.facts = json.loads(self._run.read_text())
        asked, held = plan.as_json(), self.facts["plan"]
        if other := [f"{key} {held.get(key)!r}, not {asked[key]!r}" for key in asked if held.get(key) != asked[key]]:
            raise OtherRun(
                f"{self.folder} holds a run with {'; '.join(other)}. To resume it, ask for the same; "
                "otherwise name another --out, or --fresh to throw it away"
            )
        return True

    def remember(self, **facts: Any) -> None:
        self.facts |= facts
        draft = self._run.with_suffix(".new")
        draft.write_text(json.dumps(self.facts, indent=1) + "\n")
        draft.replace(self._run)

    def append(self, phase: Phase, event: str, counted: dict[str, Any]) -> None:
        with self._path(phase).open("a") as file:
            file.write(json.dumps({event: counted}) + "\n")

    def events(self, phase: Phase) -> list[tuple[str, dict[str, Any]]]:
        """A line that was cut off by a crash is left out."""
        path = self._path(phase)
        events = []
        for line in path.read_text().splitlines() if path.exists() else ():
            try:
                ((event, counted),) = json.loads(line).items()
            except ValueError:
                continue
            events.append((event, counted))
        return events

    def seconds_done(self, phase: Phase) -> int:
        return sum(event == "second" for event, _ in self.events(phase))

    def _path(self, phase: Phase) -> Path:
        return self.folder / "phases" / f"{phase.name}.jsonl"
