"""image/jpeg, image/png, image/webp: one image, one row. Only its first bytes are checked; the worker decodes it."""

from __future__ import annotations

from smartbatch.gateway.formats.row_shapes import check_rows
from smartbatch.shared.errors import InvalidInput
from smartbatch.shared.model_info import ModelInfo
from smartbatch.shared.wire import Payload

MEDIA_TYPES = ("image/jpeg", "image/png", "image/webp")


def is_image(body: bytes) -> bool:
    return body.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")) or (
        body.startswith(b"RIFF") and body[8:12] == b"WEBP"
    )


def images_payload(images: list[bytes], max_rows: int) -> Payload:
    check_rows(len(images), max_rows)
    for row, image in enumerate(images):
        if not is_image(image):
            raise InvalidInput(
                f"image {row} is not JPEG, PNG or WebP; it begins with {image[:8].hex(' ') or 'nothing'}"
            )
    return Payload("image", images)


def read(body: bytes, content_type: str, info: ModelInfo | None, max_rows: int) -> Payload:
    """Accept any of the three, whatever the content type: clients often send the wrong one."""
    return images_payload([body], max_rows)
