"""W3C Trace Context: reads a client's traceparent and tracestate, and the `trace` field of an entry's header.

Values that do not follow the standard are ignored, so everything propagated is hexadecimal or printable. This needs no
library, because log lines have trace IDs whether or not tracing is on.

Source: https://www.w3.org/TR/trace-context/
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from typing import NamedTuple

HEADERS = (b"traceparent", b"tracestate")
MAX_STATE_CHARS = 512  # the length that the standard requires everyone to propagate; a longer one is dropped
MAX_STATE_MEMBERS = 32

_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.A)
_KEY = r"[a-z0-9][a-z0-9_\-*/]{0,240}(?:@[a-z][a-z0-9_\-*/]{0,13})?"
_MEMBER = re.compile(rf"{_KEY}=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{{0,255}}[\x21-\x2b\x2d-\x3c\x3e-\x7e]")
_SAMPLED = 1


class TraceContext(NamedTuple):
    """The identity of a span. `sent_us` is the gateway's wall clock when it admitted the request, 0 if not sampled."""

    trace_id: str  # 32 hexadecimal digits
    span_id: str  # 16 hexadecimal digits
    sampled: bool
    state: str = ""
    sent_us: int = 0


def read_headers(headers: Mapping[bytes, str]) -> TraceContext | None:
    """Read the context that a client sent. Returns None for a missing or invalid one."""
    parent = headers.get(b"traceparent")
    return None if parent is None else _read(parent, headers.get(b"tracestate", ""))


def read_field(field: str) -> TraceContext | None:
    """Read the `trace` field of an entry's header. Returns None if it is empty or invalid."""
    if not field:
        return None
    parent, _, rest = field.partition(" ")
    sent, _, state = rest.partition(" ")
    context = _read(parent, state)
    if context is None or not (sent.isascii() and sent.isdigit() and len(sent) < 18):
        return context
    return context._replace(sent_us=int(sent))


def write_field(context: TraceContext | None) -> str:
    """Return `traceparent sent_us tracestate`, without empty parts at the end."""
    if context is None:
        return ""
    parent = f"00-{context.trace_id}-{context.span_id}-{context.sampled:02x}"
    if context.state:
        return f"{parent} {context.sent_us} {context.state}"
    return f"{parent} {context.sent_us}" if context.sent_us else parent


def trace_id_of(field: str) -> str:
    """Return the trace ID in the `trace` field of an entry, empty if there is none."""
    context = read_field(field)
    return context.trace_id if context else ""


def new_trace_id() -> str:
    return f"{random.getrandbits(128) or 1:032x}"


def new_span_id() -> str:
    return f"{random.getrandbits(64) or 1:016x}"


def _read(parent: str, state: str) -> TraceContext | None:
    match = _PARENT.fullmatch(parent.strip(" \t"))
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    if version == "ff" or (version == "00" and more) or not trace_id.strip("0") or not span_id.strip("0"):
        return None
    return TraceContext(trace_id, span_id, bool(int(flags, 16) & _SAMPLED), _checked_state(state) if state else "")


def _checked_state(state: str) -> str:
    """Return `state` without its empty members, or "" if it is otherwise invalid."""
    members = [member for part in state.split(",") if (member := part.strip(" \t"))]
    keys = {member.partition("=")[0] for member in members}
    joined = ",".join(members)
    if len(joined) > MAX_STATE_CHARS or len(members) > MAX_STATE_MEMBERS or len(keys) < len(members):
        return ""
    return joined if all(map(_MEMBER.fullmatch, members)) else ""
