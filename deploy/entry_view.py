"""Entries and dead letters as text for a terminal."""

from __future__ import annotations

import json
import time
from typing import Any

import click


def print_fields(fields: dict[str, Any]) -> None:
    """Print one line per field; fields of `payload` are printed as "payload NAME"."""
    payload = fields.pop("payload")
    inner = payload if isinstance(payload, dict) else {"": payload}
    for name, value in {**fields, **{f"payload {name}".rstrip(): value for name, value in inner.items()}}.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        click.echo(f"{name:<20}  {printable(text)}".rstrip())


def when(ms: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(ms / 1000))


def printable(text: str) -> str:
    """Escape control characters, which may be in anything that a client sent."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
