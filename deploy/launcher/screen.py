"""What the launcher tells: lines for people, or a log where lines are JSON."""

from __future__ import annotations

import contextlib
import logging

from rich.status import Status
from rich.text import Text

from smartbatch.deploy.tables import console

log = logging.getLogger(__name__)

STYLES = {logging.WARNING: "yellow", logging.ERROR: "red"}


class Screen:
    """Used by all tasks of the launcher. `log_format` is the setting."""

    def __init__(self, log_format: str) -> None:
        self._json = log_format == "json"
        self._console = console(stderr=True)

    def say(self, text: str | Text, level: int = logging.INFO) -> None:
        if self._json:
            log.log(level, "%s", " ".join(str(text).split()))
        else:
            self._console.print(text, style=STYLES.get(level), soft_wrap=True)

    def warn(self, text: str) -> None:
        self.say(text, logging.WARNING)

    def error(self, text: str) -> None:
        self.say(f"smartbatch: {text}", logging.ERROR)

    def status(self) -> contextlib.AbstractContextManager[Status | None]:
        """Return the line that changes while the system starts; None where lines are read by a program."""
        interactive = self._console.is_terminal and not self._json
        return self._console.status("starting") if interactive else contextlib.nullcontext()
