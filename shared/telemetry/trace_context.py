"""W3C Trace Context: what a client's traceparent and tracestate say, and how that travels in an entry's header.

Read strictly: what isn't of the standard's form is as if it hadn't come, so all that goes on from here is hexadecimal,
or printable. Needs no library: the ids stand in log lines whether or not anybody traces.

Source: https://www.w3.org/TR/trace-context/
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from typing import NamedTuple

HEADERS = (b"traceparent", b"tracestate")
MAX_STATE_CHARS = 512  # what the standard has everyone hand on at least; a longer one is left out as a whole
MAX_STATE_MEMBERS = 32

_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.A)
_KEY = r"[a-z0-9][a-z0-9_\-*/]{0,240}(?:@[a-z][a-z0-9_\-*/]{0,13})?"
_MEMBER = re.compile(rf"{_KEY}=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{{0,255}}[\x21-\x2b\x2d-\x3c\x3e-\x7e]")
_SAMPLED = 1


class TraceContext(NamedTuple):
    """A span as others see it. `sent_us`: when the gateway sent the request on, on its wall clock; 0 where nobody will
    make a span of it."""

    trace_id: str  # 32 hexadecimal digits
    span_id: str  # 16
    sampled: bool
    state: str = ""
    sent_us: int = 0


def read_headers(found: Mapping[bytes, str]) -> TraceContext | None:
    """Read the context that a client sent; None without one, or with one that isn't of the standard's form."""
    parent = found.get(b"traceparent")
    return None if parent is None else _read(parent, found.get(b"tracestate", ""))


def read_field(field: str) -> TraceContext | None:
    """Read the `trace` of an entry's header, whoever wrote it."""
    if not field:
        return None
    parent, _, rest = field.partition(" ")
    sent, _, state = rest.partition(" ")
    context = _read(parent, state)
    if context is None or not (sent.isascii() and sent.isdigit() and len(sent) < 18):
        return context
    return context._replace(sent_us=int(sent))


def write_field(context: TraceContext | None) -> str:
    """Return `traceparent sent_us tracestate`, each part only if there is one after it or in it."""
    if context is None:
        return ""
    parent = f"00-{context.trace_id}-{context.span_id}-{context.sampled:02x}"
    if context.state:
        return f"{parent} {context.sent_us} {context.state}"
    return f"{parent} {context.sent_us}" if context.sent_us else parent


def trace_id_of(field: str) -> str:
    """Return the trace id that the `trace` of an entry holds, for a log line; empty if there is none."""
    context = read_field(field)
    return context.trace_id if context else ""


def new_trace_id() -> str:
    return f"{random.getrandbits(128) or 1:032x}"


def new_span_id() -> str:
    return f"{random.getrandbits(64) or 1:016x}"


def _read(parent: str, state: str) -> TraceContext | None:
    found = _PARENT.fullmatch(parent.strip(" \t"))
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or not trace_id.strip("0") or not span_id.strip("0"):
        return None
    return TraceContext(trace_id, span_id, bool(int(flags, 16) & _SAMPLED), _checked_state(state) if state else "")


def _checked_state(state: str) -> str:
    """Return it without its empty members; empty if anything else is wrong with it."""
    members = [member for part in state.split(",") if (member := part.strip(" \t"))]
    keys = {member.partition("=")[0] for member in members}
    written = ",".join(members)
    if len(written) > MAX_STATE_CHARS or len(members) > MAX_STATE_MEMBERS or len(keys) < len(members):
        return ""
    return written if all(map(_MEMBER.fullmatch, members)) else ""
