"""Parse one body for every kind of model: it is rejected as a client error, or its payload is complete."""

from __future__ import annotations

from tests.fuzz.harness import guided_by

with guided_by("smartbatch.gateway.formats", "python_multipart"):
    from smartbatch.gateway import formats
from smartbatch.shared.errors import ClientError, Unavailable
from smartbatch.shared.model_info import InputSpec, ModelInfo
from smartbatch.shared.wire import pack_payload, unpack_payload

MAX_ROWS = 8

# the input specs on which the parsing of a body depends most
INFOS = (
    None,
    ModelInfo("m", "m", InputSpec(("image", "tensor"), "float32", (3, 4, 4)), MAX_ROWS),
    ModelInfo("m", "m", InputSpec(("tensor",), "int64", (-1,)), MAX_ROWS),
    ModelInfo("m", "m", InputSpec(("tensor", "text", "raw")), MAX_ROWS),
    ModelInfo(
        *("m", "m", InputSpec(("inputs",)), MAX_ROWS),
        inputs=(InputSpec(("image", "tensor"), name="a"), InputSpec(("tensor",), "float32", (2,), "b")),
    ),
    ModelInfo("m", "m", InputSpec(("inputs",)), MAX_ROWS, inputs=(InputSpec(("text", "raw"), name="a"),)),
)


def read(body: bytes, content_type: str) -> None:
    for info in INFOS:
        try:
            payload = formats.parse(body, content_type, info, max_rows=MAX_ROWS)
        except (ClientError, Unavailable) as error:
            str(error).encode("utf-8", "replace")
            continue
        assert 1 <= payload.rows <= MAX_ROWS
        assert info is None or payload.kind in info.input.kinds
        assert unpack_payload(pack_payload(payload)).rows == payload.rows  # a worker can read the payload
