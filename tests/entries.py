"""Build entries that tests write to a stream themselves."""

from __future__ import annotations


def entry_fields(**other: str | bytes) -> dict[str, str | bytes]:
    """Return the fields of an entry as `admit` writes it. `other` replaces fields and parts of the header by name."""
    header = {"gateway": "gw", "t": "1", "bytes": "3", "rows": "1", "timeout_ms": "5000", "kind": "raw", "trace": ""}
    parts = [other.pop(name, text) for name, text in header.items()]
    joined = b"|".join(part if isinstance(part, bytes) else part.encode() for part in parts)
    return {"id": "r1", "header": joined, "payload": b"abc", **other}
