"""shared/wire.py: payloads as workers read them, replies as gateways do. What was read survives a round trip."""

from __future__ import annotations

from tests.fuzz.harness import fuzz, guided_by

with guided_by("smartbatch.shared.wire"):
    from smartbatch.shared.wire import (
        BatchInfo,
        Payload,
        Raw,
        Reply,
        Result,
        Tensor,
        pack_payload,
        pack_reply,
        unpack_payload,
        unpack_reply,
    )
from smartbatch.shared.errors import InvalidInput, WireError


def seeds() -> list[bytes]:
    tensor = Tensor("float32", (2, 2), bytes(16), "F")
    batch = BatchInfo("w-1", 8, 3, "window", "w")
    return [
        pack_payload(Payload("image", [b"\xff\xd8\xff", b""], {"top_k": 5})),
        pack_payload(Payload("text", ["text", ""], {})),
        pack_payload(Payload("tensor", tensor, {"a": [1, None, {"b": b"x"}]})),
        pack_payload(Payload("raw", Raw(b"x", "text/plain"))),
        pack_payload(Payload("inputs", {"a": Payload("tensor", tensor), "b": Payload("text", ["x", "y"])})),
        pack_reply(Reply(Result(classes=[[(281, "tabby", 0.5)]]), None, batch, {"queue": 0.25})),
        pack_reply(Reply(Result(outputs={"a": tensor}), None, None, {})),
        pack_reply(Reply(Result(values=[1, "a", {"b": None}]), None, batch, {})),
        pack_reply(Reply(error=InvalidInput("text"))),
        b"\x84\xa1v\x01\xa4kind\xa4text\xa7content\xdd\xff\xff\xff\xff",
        b"\x84\xa1v\x01\xa4kind\xa4text\xa7content\x91\xa1a\xa7options\x81\xa1a" + b"\x91" * 2000,
        b"\x84\xa1v\x01\xa4kind\xa4text\xa7content\x91\xa1a\xa7options\x81\xa1a\xd6\xff\0\0\0\1",
    ]


def one(data: bytes) -> None:
    try:
        payload = unpack_payload(data)
    except WireError:
        pass
    else:
        assert payload.rows >= 0
    try:
        reply = unpack_reply(data)
    except WireError:
        return
    assert (reply.result is None) != (reply.error is None)


if __name__ == "__main__":
    fuzz(one, seeds())
