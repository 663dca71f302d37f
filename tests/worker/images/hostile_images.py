"""Small images with headers that are crafted to cost a reader much time or memory."""

import struct
import zlib

from PIL import Image

from tests.worker.images.photos import encoded

GRAY = Image.new("RGB", (8, 8), (9, 9, 9))


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_with(what: tuple[bytes, bytes], times: int = 1) -> bytes:
    """Return a PNG with so many of these chunks before its pixels."""
    whole = encoded(GRAY)
    pixels_at = whole.index(b"IDAT") - 4
    return whole[:pixels_at] + chunk(*what) * times + whole[pixels_at:]


def segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def jpeg_with(header: bytes, scans: int = 0) -> bytes:
    """Return a JPEG with this before its own header, and its last scan so many times more."""
    whole = encoded(GRAY, "JPEG", progressive=bool(scans))
    last = whole.rindex(b"\xff\xda")
    return whole[:2] + header + whole[2:-2] + whole[last:-2] * scans + whole[-2:]


def exif(tags: int, size: int) -> bytes:
    """Return EXIF whose tags all claim the same bytes."""
    entries = b"".join(struct.pack("<HHII", 0x8000 + tag, 7, size, 10 + 12 * tags + 4) for tag in range(tags))
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, tags) + entries + bytes(4 + size)
