"""multipart/form-data, as browsers and `curl -F image=@cat.jpg` send it: each file is an image, one row.

A single .npy file is taken as a tensor. The names of the parts don't matter, their order does. Only several inputs of
a model have the parts' names: each comes as files, or as plain fields that hold texts or JSON.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

import msgspec
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from smartbatch.gateway.formats import npy_body
from smartbatch.gateway.formats.image_body import images_payload
from smartbatch.gateway.formats.json_body import input_payload
from smartbatch.gateway.formats.named_inputs import file_payload, inputs_payload
from smartbatch.shared.errors import InvalidInput, MalformedBody, TooManyRows
from smartbatch.shared.model_info import ModelInfo
from smartbatch.shared.wire import Payload

logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # it warns of what it raises, a line for each body


def read(body: bytes, content_type: str, info: ModelInfo | None, max_rows: int) -> Payload:
    boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
    if not boundary:
        raise MalformedBody("multipart/form-data needs a boundary in its Content-Type")
    if info is not None and info.inputs:
        return _named(_parts(body, boundary, max_rows * len(info.inputs), fields=True), info, max_rows)
    files = [part.content for part in _parts(body, boundary, max_rows)]
    if len(files) == 1 and files[0].startswith(npy_body.MAGIC):
        return npy_body.read(files[0], content_type, info, max_rows)
    if any(file.startswith(npy_body.MAGIC) for file in files):
        raise InvalidInput("a .npy file must be the only file in the body")
    return images_payload(files, max_rows)


class Part(NamedTuple):
    name: str
    is_file: bool
    content: bytes


def _named(parts: list[Part], info: ModelInfo, max_rows: int) -> Payload:
    by_name: dict[str, list[Part]] = {}
    for part in parts:
        by_name.setdefault(part.name, []).append(part)

    def read(parts: list[Part], info: ModelInfo) -> Payload:
        if "tensor" in info.input.kinds and "text" not in info.input.kinds and not parts[0].is_file:
            if len(parts) > 1:
                raise InvalidInput("a field with numbers must be there once, with all rows")
            return input_payload(msgspec.Raw(parts[0].content.strip()), info, max_rows)
        return file_payload([part.content for part in parts], info, max_rows)

    return inputs_payload(by_name, info, read)


def _parts(body: bytes, boundary: bytes, max_parts: int, *, fields: bool = False) -> list[Part]:
    parts = _Parts(max_parts, fields=fields)
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": parts.begin,
                "on_header_field": parts.header_field,
                "on_header_value": parts.header_value,
                "on_headers_finished": parts.headers_finished,
                "on_part_data": parts.data,
                "on_part_end": parts.end_part,
                "on_end": parts.end,
            },
        )
        parser.write(body)
    except FormParserError as error:
        raise MalformedBody(f"the body is not multipart/form-data: {error!s:.200}") from None
    if not parts.ended:
        raise MalformedBody("the multipart body ends without its closing boundary")
    return parts.found


class _Parts:
    """Gathers the parts of one body; the parser calls it in the order of the bytes."""

    def __init__(self, max_parts: int, *, fields: bool) -> None:
        self.found: list[Part] = []
        self.ended = False
        self._max_parts = max_parts
        self._takes_fields = fields
        self._name, self._is_file = "", False
        self._field = b""
        self._disposition = b""
        self._chunks: list[bytes] = []

    def begin(self) -> None:
        if len(self.found) == self._max_parts:
            raise TooManyRows(f"a request may have at most {self._max_parts} rows (MAX_REQUEST_ROWS), got more files")
        self._disposition = b""
        self._name, self._is_file = "", False
        self._chunks = []

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._field = data[start:end].lower()

    def header_value(self, data: bytes, start: int, end: int) -> None:
        if self._field == b"content-disposition":
            self._disposition = data[start:end]

    def headers_finished(self) -> None:
        parameters = parse_options_header(self._disposition.decode("latin-1"))[1]
        self._name = parameters.get(b"name", b"").decode("utf-8", "replace")
        self._is_file = b"filename" in parameters
        if not (self._is_file or self._takes_fields):
            raise InvalidInput(f"every part must be a file (with a filename), but {self._name[:60]!r} is a plain field")

    def data(self, data: bytes, start: int, end: int) -> None:
        self._chunks.append(data[start:end])

    def end_part(self) -> None:
        self.found.append(Part(self._name, self._is_file, b"".join(self._chunks)))

    def end(self) -> None:
        self.ended = True
