"""application/x-npz: numpy's .npz file, a zip of .npy files, one for each input of a model with several."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib

from smartbatch.gateway.formats import npy_body
from smartbatch.gateway.formats.named_inputs import inputs_payload
from smartbatch.shared.errors import BodyTooLarge, InvalidInput, MalformedBody
from smartbatch.shared.model_info import ModelInfo
from smartbatch.shared.wire import MAX_INPUTS, Payload

MAGIC = b"PK\x03\x04"
# Limit for all arrays of a file together, unless the body itself is longer. Inflating so much takes 40 ms.
MAX_INFLATED_BYTES = 16 * 1024 * 1024

_DIRECTORY_ENTRY = b"PK\x01\x02"
# What zipfile raises for a broken archive; NotImplementedError for a compression method that it doesn't know.
_BROKEN = (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError, zlib.error, struct.error)


def read(body: bytes, content_type: str, info: ModelInfo | None, max_rows: int) -> Payload:
    return inputs_payload(_files(body), info, lambda file, one: npy_body.read(file, content_type, one, max_rows))


def _files(body: bytes) -> dict[str, bytes]:
    # Checked before zipfile reads the directory, which takes 10 us per entry.
    if body.count(_DIRECTORY_ENTRY) > MAX_INPUTS:
        raise InvalidInput(f"a .npz file may have at most {MAX_INPUTS} arrays")
    files: dict[str, bytes] = {}
    left = most = max(MAX_INFLATED_BYTES, len(body))
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            for entry in archive.infolist():
                name = entry.filename.removesuffix(".npy")
                if name in files:
                    raise InvalidInput(f"the .npz file has the array {name!r:.60} twice")
                if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise InvalidInput("the arrays of a .npz file must be stored, or compressed as numpy does")
                with archive.open(entry) as file:
                    files[name] = file.read(left + 1)
                left -= len(files[name])
                if left < 0:
                    raise BodyTooLarge(f"the arrays of the .npz file have more than {most} bytes in total")
    except _BROKEN as error:
        raise MalformedBody(f"not a .npz file: {error!s:.200}") from None
    return files
