"""What is known of one entry, as lines that people read."""

from __future__ import annotations

import json
import time
from typing import Any

import click


def print_fields(told: dict[str, Any]) -> None:
    """Print a line for each fact, and for each of those of its `payload`."""
    payload = told.pop("payload")
    facts = payload if isinstance(payload, dict) else {"": payload}
    for fact, value in {**told, **{f"input {fact}".rstrip(): value for fact, value in facts.items()}}.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        click.echo(f"{fact:<18}  {printable(text)}".rstrip())


def when(ms: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(ms / 1000))


def printable(text: str) -> str:
    """What clients sent may hold control sequences; a terminal gets none."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
