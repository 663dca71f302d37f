"""What a request says besides its body: the headers and the query of POST /predict, read strictly."""

from __future__ import annotations

import difflib
import re
from collections.abc import Container, Iterable, Mapping
from typing import NamedTuple
from urllib.parse import parse_qsl

from smartbatch.shared.errors import ClientError
from smartbatch.shared.keys import check_model_name

MAX_TOP_K = 1000
MAX_ID_CHARS = 128
MAX_QUERY_FIELDS = 16
KNOWN_QUERY = ("model", "top_k")
MIN_TIMEOUT_S, MAX_TIMEOUT_S = 0.001, 86400.0  # what X-Request-Timeout may say

# float() and int() take more: 1_0, nan, 1e3, blanks and the digits of every script
_DECIMAL = re.compile(r"[0-9]{1,9}(?:\.[0-9]{0,20})?|\.[0-9]{1,20}")
_WHOLE = re.compile(r"[0-9]{1,9}")


READ_HEADERS = frozenset({b"content-type", b"accept", b"x-request-id", b"x-request-timeout"})


class RequestParams(NamedTuple):
    """Texts as they came, or empty; numbers checked, or None where the client said nothing."""

    content_type: str
    accept: str
    timeout_s: float | None
    model: str | None
    top_k: int | None


def read_params(found: Mapping[bytes, str], query_string: bytes) -> RequestParams:
    """Read headers (those of READ) and query. Raises ClientError for a number that isn't one, and for what isn't
    known."""
    query = _query(query_string) if query_string else {}
    return RequestParams(
        found.get(b"content-type", ""),
        found.get(b"accept", ""),
        timeout_of(found),
        check_model_name(query["model"]) if "model" in query else None,
        _count("top_k", query["top_k"], MAX_TOP_K) if "top_k" in query else None,
    )


def read_headers(headers: Iterable[tuple[bytes, bytes]], names: Container[bytes]) -> dict[bytes, str]:
    """Return the headers of these names as text."""
    found: dict[bytes, str] = {}
    for name, value in headers:
        if name in names:
            text = value.decode("latin-1")
            found[name] = f"{found[name]}, {text}" if name in found else text  # one list, as RFC 9110 5.3 reads them
    return found


def _query(query: bytes) -> dict[str, str]:
    """Read the query. What isn't known is ignored (proxies, load generators and caches add such), unless it looks like
    a known one misspelt, which would be ignored to the client's harm."""
    try:
        pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS)
    except ValueError:
        raise ClientError(f"a query may have at most {MAX_QUERY_FIELDS} parameters") from None
    found: dict[str, str] = {}
    for name, value in pairs:
        if name in found:
            raise ClientError(f"the query parameter {name} is given twice")
        if name in KNOWN_QUERY:
            found[name] = value
        elif meant := difflib.get_close_matches(name[:40].lower(), KNOWN_QUERY, n=1):
            raise ClientError(f"unknown query parameter {name[:40]!r}; did you mean {meant[0]}?")
    return found


def timeout_of(headers: Mapping[bytes, str]) -> float | None:
    """Read X-Request-Timeout, in seconds; None if it didn't come."""
    text = headers.get(b"x-request-timeout")
    if text is None:
        return None
    value = float(text) if _DECIMAL.fullmatch(text.strip()) else -1.0
    if not MIN_TIMEOUT_S <= value <= MAX_TIMEOUT_S:
        least, most = f"{MIN_TIMEOUT_S:g}", f"{MAX_TIMEOUT_S:g}"
        raise ClientError(f"X-Request-Timeout: expected a number of seconds from {least} to {most}, got {text[:40]!r}")
    return value


def _count(what: str, text: str, most: int) -> int:
    if not _WHOLE.fullmatch(text) or int(text) > most:
        raise ClientError(f"{what}: expected a whole number from 0 to {most}, got {text[:40]!r}")
    return int(text)


def printable(text: str) -> str:
    """A client's text fit to be echoed and logged, or nothing."""
    return text if len(text) <= MAX_ID_CHARS and text.isascii() and text.isprintable() else ""
