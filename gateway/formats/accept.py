"""Which format a client wants its answer in (RFC 9110, section 12.5.1)."""

from __future__ import annotations

import enum

from smartbatch.shared.errors import NotAcceptable


class Format(enum.Enum):
    """The formats of an answer, in the order that decides between equals; the values are their media types, and
    `header` says them."""

    JSON = "application/json"
    NPY = "application/x-npy"
    MSGPACK = "application/msgpack"

    def __init__(self, media_type: str) -> None:
        self.header = (b"content-type", media_type.encode())


_NAMES = {
    "application/json": Format.JSON,
    "application/x-npy": Format.NPY,
    "application/msgpack": Format.MSGPACK,
    "application/x-msgpack": Format.MSGPACK,
    "application/vnd.msgpack": Format.MSGPACK,
}
# What nearly every client sends.
_PLAIN = ("", "*/*", "application/json")


def negotiate(accept: str) -> Format:
    """Choose the format before the request is admitted. Raises NotAcceptable.

    The highest q wins. Between equals a format that is named goes before one that a wildcard lets in, so that
    `application/x-npy, */*` gets npy.
    """
    if accept in _PLAIN:
        return Format.JSON
    # Each format takes the q of the most specific range it falls under: (specificity, q).
    found: dict[Format, tuple[int, float]] = {}
    for media_range in accept.split(","):
        name, *parameters = (part.strip().lower() for part in media_range.split(";"))
        if name in _NAMES:
            specificity, formats = 2, [_NAMES[name]]
        elif name in ("application/*", "*/*"):
            specificity, formats = int(name != "*/*"), list(Format)
        else:
            continue
        quality = _quality(parameters)
        for each in formats:
            found[each] = max(found.get(each, (0, 0.0)), (specificity, quality))
    wanted = [each for each in Format if found.get(each, (0, 0.0))[1] > 0]
    if not wanted:
        there_is = ", ".join(each.value for each in Format)
        raise NotAcceptable(f"Accept: expected {there_is}, got {accept[:100]!r}")
    return max(wanted, key=lambda each: (found[each][1], found[each][0]))


def wants_outputs(chosen: Format) -> bool:
    """Whether the format holds only a tensor, so that the worker must be asked for outputs, not for classes."""
    return chosen is Format.NPY


def _quality(parameters: list[str]) -> float:
    """Return q from 0 to 1; one that is no such number counts as absent."""
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                quality = float(value)
            except ValueError:
                return 1.0
            return quality if 0 <= quality <= 1 else 1.0
    return 1.0
