"""Writes log records to standard error, for humans or as JSON, one line per record."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from typing import Any

# C0 and C1 controls, Unicode line separators, and marks that change the writing direction
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_extras(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class _Human(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        extras = " ".join(f"{name}={value}" for name, value in _extras(record).items())
        return f"{line}  [{_one_line(extras)}]" if extras else line

    def formatMessage(self, record: logging.LogRecord) -> str:
        return _one_line(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        """Indent a traceback, so that text which an exception quotes from a client can't pass for a log line."""
        return "\n".join("  | " + _one_line(line) for line in super().formatException(ei).split("\n"))


def _one_line(text: str) -> str:
    """Escape line breaks and terminal control characters, because log texts may quote what a client sent."""
    return text if text.isprintable() else _CONTROL.sub(lambda match: ascii(match[0])[1:-1], text)


def _extras(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


def set_up(log_format: str, level: str, process: str) -> None:
    """Send this process's log to standard error. Human-readable lines name the `process`."""
    handler = logging.StreamHandler(sys.stderr)
    if log_format == "json":
        handler.setFormatter(_Json())
        logging.captureWarnings(True)  # otherwise the lines of `warnings` are text
    else:
        handler.setFormatter(_Human(f"%(asctime)s {process} %(levelname)s %(message)s", "%H:%M:%S"))
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)


def is_json() -> bool:
    """Whether this process's log was set up as JSON."""
    return any(isinstance(handler.formatter, _Json) for handler in logging.getLogger().handlers)
