"""Long lists of numbers, read a piece at a time.

msgspec holds the interpreter for as long as it decodes, which for 16 MB of JSON is half a second and more, and in
which no other request is served, whatever thread decodes. In pieces of 128 KiB others have their turn after a few
milliseconds each. And what can't fit the model, however its lists are nested, is refused by counting commas.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from itertools import islice

from smartbatch.shared.errors import InvalidInput, MalformedBody, TooManyRows
from smartbatch.shared.model_info import ModelInfo

PIECE_BYTES = 128 * 1024
MAX_MSGPACK_BYTES = 1024 * 1024

Read = Callable[[bytes, int], tuple[bytes, tuple[int, ...]]]  # (JSON, depth) to (numbers as bytes, shape)

_INDEX = re.compile(r"`data\[(\d+)\](.*)", re.DOTALL)
_NEXT_TEXT = re.compile(rb'"\s*,\s*"')


def check_count(data: bytes, info: ModelInfo | None, max_rows: int) -> None:
    """Refuse more numbers than the model takes in one request, as far as it says how large its rows are."""
    row = info.input.shape if info is not None else None
    if row is None or -1 in row:
        return
    most = max_rows * math.prod(row)
    if (count := data.count(b",") + 1) > most:
        raise TooManyRows(
            f"one request holds at most {max_rows} rows (MAX_BATCH_SIZE) of shape {list(row)}, "
            f"which is {most} numbers, not {count}"
        )


def check_texts(data: bytes, max_rows: int) -> None:
    """Refuse a list of certainly too many texts. What looks like the next text may be the end of one that ends in an
    escaped quote and a comma, so twice as many are let pass."""
    if sum(1 for _ in islice(_NEXT_TEXT.finditer(data), 2 * max_rows)) == 2 * max_rows:
        raise TooManyRows(f"one request holds at most {max_rows} rows (MAX_BATCH_SIZE); more texts came")


def check_msgpack(size: int) -> None:
    """Lists in MessagePack can't be cut without reading them."""
    if size > MAX_MSGPACK_BYTES:
        raise InvalidInput(
            f"in MessagePack, lists of numbers are taken up to {MAX_MSGPACK_BYTES} bytes, not {size}; "
            "send data as bytes, with shape and dtype"
        )


def most_rows(depth: int, info: ModelInfo | None, max_rows: int) -> int | None:
    """Return how long the outermost list may be, where that is known before the rest is."""
    row = info.input.shape if info is not None else None
    return max_rows if row is None and depth > 1 else None


def read_in_pieces(data: bytes, depth: int, read: Read, most: int | None = None) -> tuple[bytes, tuple[int, ...]]:
    """Return the numbers of well-formed JSON lists as bytes, and their shape. Raises InvalidInput, or TooManyRows for
    a list of more than `most`."""
    data = data.strip()
    if len(data) <= PIECE_BYTES or not (data.startswith(b"[") and data.endswith(b"]")):
        return read(data, depth)
    parts: list[bytes] = []
    length, inner = 0, None
    for piece, alone in _pieces(data, depth):
        try:
            if alone:
                numbers, shape = read_in_pieces(piece, depth - 1, read)
                shape = (1, *shape)
            else:
                numbers, shape = read(piece, depth)
        except InvalidInput as error:
            raise InvalidInput(_shifted(str(error), length, alone)) from None
        except MalformedBody:  # well-formed as a whole, but not lists of numbers, so it was cut in a wrong place
            raise InvalidInput(f"data is not lists of numbers, nested alike, at element {length} or after") from None
        if inner is not None and shape[1:] != inner:
            raise InvalidInput(f"data is ragged: lists of shape {list(inner)} and of {list(shape[1:])}")
        parts.append(numbers)
        length, inner = length + shape[0], shape[1:]
        if most is not None and length > most:
            raise TooManyRows(f"one request holds at most {most} rows (MAX_BATCH_SIZE), and more came")
    return b"".join(parts), (length, *(inner or ()))


def _pieces(data: bytes, depth: int) -> Iterator[tuple[bytes, bool]]:
    """Cut a list between its elements, which end in as many brackets as they are deep: (JSON, alone).

    Each piece is a list of the same depth, or one element that is long, alone, to be cut in its turn.
    """
    start, end = data.index(b"[") + 1, data.rindex(b"]")
    # a bracket first, and written out: so it is searched for as fast as a byte is
    after_element = re.compile(rb"\]" + rb"\s*\]" * (depth - 2) + rb"\s*," if depth > 1 else rb",")
    while start < end:
        cut = end
        if end - start > PIECE_BYTES:
            cut = _last(after_element, data, start, start + PIECE_BYTES)
        if cut < 0:  # the first element is longer than a piece
            found = after_element.search(data, start, end)
            cut = found.end() - 1 if found else end
            if depth > 1:
                yield data[start:cut], True
                start = cut + 1
                continue
        yield b"[" + data[start:cut] + b"]", False
        start = cut + 1


def _last(pattern: re.Pattern[bytes], data: bytes, start: int, end: int) -> int:
    """Return where the comma of the last match is, or -1."""
    at = data.rfind(b",", start, end)
    while at >= 0:
        window = max(start, at - 4096)
        ends = [found.end() for found in pattern.finditer(data, window, at + 1)]
        if ends:
            return ends[-1] - 1
        if window == start:
            return -1
        at = window
    return -1


def _shifted(text: str, by: int, alone: bool) -> str:
    """Let an error name the element as it is counted from the start of the data, not of its piece."""

    def shift(found: re.Match[str]) -> str:
        first, rest = found[1], found[2]
        return f"`data[{by}][{first}]{rest}" if alone else f"`data[{int(first) + by}]{rest}"

    return _INDEX.sub(shift, text, count=1)
