"""text/plain: one text, one row."""

from __future__ import annotations

from python_multipart.multipart import parse_options_header

from smartbatch.shared.errors import MalformedBody, UnsupportedMedia
from smartbatch.shared.model_info import ModelInfo
from smartbatch.shared.wire import Payload


def read(body: bytes, content_type: str, info: ModelInfo | None, max_rows: int) -> Payload:
    charset = parse_options_header(content_type)[1].get(b"charset", b"utf-8").decode("latin-1").lower()
    if charset not in ("utf-8", "utf8", "us-ascii", "ascii"):
        raise UnsupportedMedia(f"text must be UTF-8, got {charset[:40]!r}")
    try:
        return Payload("text", [body.decode()])
    except UnicodeDecodeError as error:
        raise MalformedBody(f"the text is not UTF-8: {error.reason} at byte {error.start}") from None
