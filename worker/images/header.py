"""Parse the header of an encoded image, and reduce the file to the bytes that PIL needs for its pixels.

PIL parses headers in Python, and a crafted header of a few megabytes can cost it minutes or gigabytes: thousands of ICC
profiles that inflate to 1 MB each, EXIF tags that all point to the same megabytes, fill bytes read one by one, Exif
segments joined one by one. This parser limits the number of segments and passes on only what the pixels need. Of the
metadata it reads only the orientation.

Sources: ITU-T T.81 B (JPEG), the PNG specification 5 and 11, RFC 9649 (WebP), TIFF 6.0 (EXIF).
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable
from typing import NamedTuple

MAX_SIDE = 65_500  # libjpeg's limit; a PNG 1 pixel wide and 50,000,000 high would cost PIL 50 bytes a pixel

_MAX_SEGMENTS = 1000  # of a JPEG's header; a 16 MB color profile takes 250
_MAX_SCANS = 100  # of a progressive JPEG, which usually has about 10; each pass covers the whole image
_MAX_CHUNKS = 1000  # of a PNG, plus one per KiB: encoders write chunks of 8 KiB or more
_MAX_TAGS = 1000  # of an EXIF directory; cameras write about 50

_FILL = re.compile(rb"\xff{1,64}([^\xff])", re.DOTALL)
_START_OF_SCAN, _APP0, _APP1, _APP14 = 0xDA, 0xE0, 0xE1, 0xEE
_BARE = frozenset({0x00, 0x01, *range(0xD0, 0xD8)})  # markers without data; libjpeg skips them too
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# the segments that libjpeg needs: frames, tables, and the two segments that distinguish YCbCr, RGB and CMYK
_JPEG_KEPT = _FRAMES | {0xC4, 0xCC, 0xDB, 0xDD, _APP0, _APP14}

_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by color type


class BrokenImage(Exception):
    """The header is broken; the message says how."""


class Header(NamedTuple):
    """`data` is the file for the decoder. `decode_bytes` is the approximate peak memory of decoding it."""

    format: str
    width: int
    height: int
    orientation: int  # EXIF's, 1 to 8
    data: bytes
    decode_bytes: int
    plain: bool = False  # a complete JPEG with one scan of 8-bit YCbCr, as nearly all are: every decoder accepts it


def read_header(data: bytes) -> Header | None:
    """Return the header, or None if the data is neither JPEG nor PNG nor WebP. Raises BrokenImage."""
    reader = next((reader for magic, reader in _READERS.items() if data.startswith(magic)), None)
    if reader is None:
        return None
    try:
        header = reader(data)
    except (struct.error, IndexError):
        raise BrokenImage("it ends in its header") from None
    if not (header.width and header.height):
        raise BrokenImage(f"it is {header.width}x{header.height}")
    return header


# --- JPEG


def _jpeg(data: bytes) -> Header:
    kept = [data[:2]]
    at, exif, frame, marker = 2, b"", None, 0
    for _ in range(_MAX_SEGMENTS):
        at = data.find(b"\xff", at)
        found = _FILL.match(data, at) if at > 0 else None
        if found is None:
            raise BrokenImage("no scan follows its header")
        marker, start = found[1][0], found.end()
        at = start
        if marker in _BARE:
            continue
        end = start + int.from_bytes(data[start : start + 2], "big")
        if marker == _START_OF_SCAN:
            break
        if end < start + 2 or end > len(data):
            raise BrokenImage("a segment of its header is cut short")
        if marker in _JPEG_KEPT:
            kept.append(data[start - 2 : end])
        elif marker == _APP1 and not exif and data.startswith(b"Exif\0\0", start + 2):
            exif = data[start + 2 : end]
        if marker in _FRAMES:
            if frame is not None:
                raise BrokenImage("it holds two frames")
            frame = marker, *struct.unpack(">BHHB", data[start + 2 : start + 8])
        at = end
    if marker != _START_OF_SCAN:
        raise BrokenImage(f"its header has more than {_MAX_SEGMENTS} segments")
    if frame is None:
        raise BrokenImage("no frame comes before its first scan")
    if (scans := 1 + data.count(b"\xff\xda", start)) > _MAX_SCANS:
        raise BrokenImage(f"it has {scans} scans, more than {_MAX_SCANS}")
    kept.append(data[start - 2 :])
    marker, depth, height, width, components = frame
    # One scan is decoded while reading; several need a 16-bit coefficient per sample. The pixels have reduced size.
    whole = 2 * components * width * height if scans > 1 or marker == 0xC2 else 0
    adobe = any(segment[1] == _APP14 for segment in kept[1:])  # which may declare another color space
    whole_file = data.endswith(b"\xff\xd9")
    plain = (marker, scans, depth, components) == (0xC0, 1, 8, 3) and whole_file and not adobe
    return Header("JPEG", width, height, _orientation(exif), b"".join(kept), whole + width * height, plain)


# --- PNG


def _png(data: bytes) -> Header:
    """Keep the first picture; drop animation, color profiles and comments."""
    width, height, depth, color = struct.unpack_from(">IIBB", data, 16)
    if data[12:16] != b"IHDR" or color not in _PNG_CHANNELS:
        raise BrokenImage("it doesn't begin with a header chunk")
    kept: list[bytes] = []
    pixels: list[bytes] = []
    exif = b""
    at = 8
    for _ in range(_MAX_CHUNKS + len(data) // 1024):
        if len(data) - at < 12:
            break  # the pixels need no IEND
        length, name = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if name == b"IEND":
            break
        if end > len(data):
            raise BrokenImage("it is cut short")
        if name == b"IDAT":
            pixels.append(data[at + 8 : end - 4])
        elif name in (b"IHDR", b"PLTE", b"tRNS") and not pixels:
            kept.append(data[at:end])
        elif name == b"eXIf":
            exif = data[at + 8 : end - 4]
        at = end
    else:
        raise BrokenImage(f"it has more chunks than {_MAX_CHUNKS} and one per KiB")
    if not pixels:
        raise BrokenImage("it holds no pixels")
    whole = b"".join((data[:8], *kept, _chunk(b"IDAT", b"".join(pixels)), _chunk(b"IEND", b"")))
    channels = _PNG_CHANNELS[color]
    sample = 4 if channels > 1 else 2 if depth == 16 else 1  # PIL keeps two to four channels in 4 bytes
    return Header("PNG", width, height, _orientation(exif), whole, sample * width * height)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(name)))


# --- WebP


def _webp(data: bytes) -> Header:
    """Read the size here: PIL would make libwebp allocate canvases of the full size first."""
    kind = data[12:16]
    if data[8:12] != b"WEBP":
        raise BrokenImage("it is a RIFF file of another kind")
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    elif kind == b"VP8L" and data[20] == 0x2F:
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8X":
        width, height = int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    else:
        raise BrokenImage("its first chunk is none of VP8, VP8L and VP8X")
    # two canvases of libwebp, a copy of one, and PIL's image, 4 bytes a pixel each; lossless may take two more
    cost = 16 if kind == b"VP8 " else 24
    return Header("WEBP", width, height, _orientation(_riff_chunk(data, b"EXIF")), data, cost * width * height)


def _riff_chunk(data: bytes, name: bytes) -> bytes:
    """Return the chunk's data; empty if none of the first _MAX_SEGMENTS chunks has this name."""
    at = 12
    for _ in range(_MAX_SEGMENTS):
        if len(data) - at < 8:
            break
        found, length = struct.unpack_from("<4sI", data, at)
        if found == name:
            return data[at + 8 : at + 8 + length]
        at += 8 + length + (length & 1)
    return b""


# --- EXIF


def _orientation(exif: bytes) -> int:
    """Return the orientation; 1 (upright) if it is missing or damaged: the image is accepted anyway."""
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(order + "I", tiff, 4)
        (tags,) = struct.unpack_from(order + "H", tiff, directory)
        for at in range(directory + 2, directory + 2 + 12 * min(tags, _MAX_TAGS), 12):
            tag, kind, count = struct.unpack_from(order + "HHI", tiff, at)
            if tag == 0x0112 and kind == 3 and count == 1:
                (value,) = struct.unpack_from(order + "H", tiff, at + 8)
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


_READERS: dict[bytes, Callable[[bytes], Header]] = {b"\xff\xd8\xff": _jpeg, b"\x89PNG\r\n\x1a\n": _png, b"RIFF": _webp}
