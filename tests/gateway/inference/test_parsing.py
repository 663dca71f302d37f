"""Compressed bodies inflate to at most MAX_BODY_BYTES, however small that is."""

from __future__ import annotations

import asyncio
import gzip
from typing import Any, cast

import pytest

from smartbatch.gateway.inference.parsing import LARGE_BYTES, parse_body
from smartbatch.gateway.inference.predict import PredictCodec
from smartbatch.gateway.services import GatewayServices
from smartbatch.shared.errors import BodyTooLarge
from smartbatch.shared.settings import from_environment


class AnyBody:
    """Stands in for an InferenceRequest and accepts any body."""

    bytes = 0
    codec = PredictCodec()

    def __init__(self) -> None:
        self.deadline_at = asyncio.get_running_loop().time() + 10

    def parse_body(self, body: bytes) -> None:
        self.bytes = len(body)


@pytest.mark.parametrize("most", [1000, 2 * LARGE_BYTES])
@pytest.mark.parametrize("over", [0, 1])
async def test_decompressed_size_is_bounded(most: int, over: int) -> None:
    gateway = GatewayServices(from_environment({"MAX_BODY_BYTES": str(most), "REDIS_URL": "redis://127.0.0.1:1/0"}))
    body = gzip.compress(b"x" * (most + over))
    request = AnyBody()
    parsing = parse_body(gateway, cast(Any, request), body, "gzip")
    if over:
        with pytest.raises(BodyTooLarge):
            await parsing
    else:
        await parsing
        assert request.bytes == most
