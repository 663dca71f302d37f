"""Heads of requests: limits, checks and the target. And responses serialized without an application."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

import httptools
import msgspec

from smartbatch.gateway.core.problems import problem
from smartbatch.shared.errors import HeadTooLarge, MalformedRequest, SmartBatchError, UrlTooLong

# Request line and headers together. Browsers and proxies stay below 16 KiB.
MAX_HEAD_BYTES = 64 * 1024
MAX_URL_BYTES = 8 * 1024
# Reading so much costs less than a new connection.
MAX_SKIPPED_BYTES = 64 * 1024

_VERSIONS = ("1.1", "1.0")

# Headers of an upgrade, which don't belong to the request itself.
_UPGRADE_HEADERS = (b"upgrade", b"http2-settings")

_STATUS_LINES = {int(status): f"HTTP/1.1 {status} {status.phrase}\r\n".encode() for status in HTTPStatus}

Headers = Iterable[tuple[bytes, bytes]]


class Head(msgspec.Struct):
    """The head of a request. `path` is unquoted; header names are in lower case."""

    method: bytes
    version: str
    path: str
    raw_path: bytes
    query: bytes
    headers: list[tuple[bytes, bytes]]
    expects_100: bool


def head_bytes(url: bytes, headers: Headers) -> int:
    return len(url) + sum(len(name) + len(value) + 4 for name, value in headers)


def check_head(head: Head) -> None:
    """Raise MalformedRequest unless the version is supported and there is exactly one Host header (RFC 9112, section
    3.2); in HTTP/1.0 it may be missing."""
    if head.version not in _VERSIONS:
        raise MalformedRequest(f"HTTP version {head.version} is not supported; 1.1 and 1.0 are")
    hosts = [name for name, _ in head.headers].count(b"host")
    if hosts > 1:
        raise MalformedRequest(f"the request has {hosts} Host headers; only one is allowed")
    if not hosts and head.version == "1.1":
        raise MalformedRequest("the Host header is missing")


def without_upgrade(parser: Any, url: bytes, headers: Headers) -> bytes:
    """Return the head as the client sent it, without the request for another protocol."""
    version = parser.get_http_version().encode()
    lines = [b"%s %s HTTP/%s\r\n" % (parser.get_method(), url, version)]
    for name, value in headers:
        if name in _UPGRADE_HEADERS:
            continue
        if name == b"connection":
            options = [option.strip() for option in value.split(b",")]
            value = b", ".join(option for option in options if option.lower() not in _UPGRADE_HEADERS)
        lines.append(b"%s: %s\r\n" % (name, value))
    return b"".join([*lines, b"\r\n"])


def may_be_skipped(scope: Mapping[str, Any]) -> bool:
    """Return whether the rest of a body may be read and discarded, so that its connection can be used again: not if it
    is large, of unknown length, or sent only after a 100."""
    if scope["http_version"] != "1.1":
        return False
    headers = dict(scope["headers"])
    length = headers.get(b"content-length", b"")
    return len(length) < 9 and length.isdigit() and int(length) <= MAX_SKIPPED_BYTES and b"expect" not in headers


@lru_cache(maxsize=64)  # clients send few different URLs
def target(url: bytes) -> tuple[str, bytes, bytes]:
    """Return path, quoted path and query. Raises UrlTooLong or MalformedRequest."""
    if len(url) > MAX_URL_BYTES:
        raise too_large(url)
    if url == b"*":  # OPTIONS of the server as a whole
        return "*", url, b""
    try:
        parsed = httptools.parse_url(url)
        raw_path = parsed.path or b"/"
        path = raw_path.decode("ascii")
    except (httptools.HttpParserInvalidURLError, UnicodeDecodeError):
        raise MalformedRequest(f"invalid request target: {url[:100].decode('latin-1')!r}") from None
    return unquote(path) if "%" in path else path, raw_path, parsed.query or b""


def too_large(url: bytes) -> SmartBatchError:
    if len(url) > MAX_URL_BYTES:
        return UrlTooLong(f"the URL is longer than {MAX_URL_BYTES} bytes")
    return HeadTooLarge(f"the request head is larger than {MAX_HEAD_BYTES} bytes")


def error_response(error: SmartBatchError, default_headers: Headers) -> bytes:
    """Return the response to bytes that are no valid request. The connection closes after it."""
    status, texts, content = problem(error, None)
    headers = [(name.encode(), value.encode()) for name, value in texts.items()]
    return serialize_response(status, default_headers, headers, content, keep_alive=False)


def serialize_response(
    status: int,
    default_headers: Headers,
    headers: Headers,
    content: bytes,
    *,
    keep_alive: bool,
) -> bytes:
    """Return an HTTP/1.1 response. Raises ValueError for a header that holds a line break."""
    lines = [*map(b": ".join, default_headers), *map(b": ".join, headers)]
    if not keep_alive:
        lines.append(b"connection: close")
    head = b"\r\n".join(lines)
    if head.count(b"\n") != len(lines) - 1 or head.count(b"\r") != len(lines) - 1:
        raise ValueError("a header holds a line break")
    return b"%b%b\r\ncontent-length: %d\r\n\r\n%b" % (_STATUS_LINES[status], head, len(content), content)
