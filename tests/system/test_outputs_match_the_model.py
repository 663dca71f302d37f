"""Served outputs equal the model's own: real photos over HTTP, concurrently, against direct forwards."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from typing import Any

import aiohttp
import numpy as np
import pytest
import torch

from smartbatch.shared.wire import Payload
from smartbatch.worker.models import LoadContext, resolve
from tests.system.stack import Stack
from tests.worker.images.photos import encoded, pixels

PHOTOS = 120
ALONE = 72  # are sent one by one, the others in requests that fill a batch
ROWS = 16  # MAX_BATCH_SIZE
TOLERANCE = 1e-4


def jpegs() -> list[bytes]:
    """Different views of real photos, so that no two outputs are alike."""
    sources = [pixels(name) for name in ("chelsea", "coffee", "astronaut", "rocket")]
    views = []
    for number in range(PHOTOS):
        image = sources[number % len(sources)]
        height, width = image.shape[:2]
        top, left = number % 40, (number * 7) % 60
        view = image[top : height - (number * 3) % 50, left : width - (number * 5) % 70]
        views.append(encoded(np.ascontiguousarray(view), "JPEG", quality=90))
    return views


def direct(views: list[bytes]) -> list[np.ndarray]:
    """The same model called directly, one row at a time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model = resolve("efficientnet_lite0")
    model.load(LoadContext(device="cpu"))
    logits = []
    for view in views:
        [row] = model.decode(Payload("image", [view]))
        logits.append(model.separate(model.forward(model.collate([row])), 1)[0])
    torch.set_num_threads(threads)
    return logits


@pytest.mark.timeout(180)
async def test_every_photo_gets_its_own_correct_response(stack: Callable[..., Stack]) -> None:
    system = stack(MODEL_PATH="efficientnet_lite0", TORCH_THREADS=1, MAX_BATCH_SIZE=ROWS, OPTIMIZE="auto")
    system.up()
    views = jpegs()
    headers = {"accept": "application/x-npy"}
    responses: dict[int, np.ndarray] = {}
    rows: list[int] = []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=40)) as client:

        async def send(numbers: range) -> None:
            """Send one photo as it is, several as a form."""
            photos = [views[number] for number in numbers]
            body: Any = photos[0]
            if len(photos) > 1:
                body = aiohttp.FormData()
                for photo in photos:
                    body.add_field("photo", photo, filename="photo.jpg", content_type="image/jpeg")
            async with client.post(f"{system.url}/predict", data=body, headers=headers) as response:
                assert response.status == 200, await response.text()
                responses.update(zip(numbers, np.load(io.BytesIO(await response.read())), strict=True))
                rows.append(int(response.headers["x-batch-rows"]))

        await asyncio.gather(*(send(range(number, number + 1)) for number in range(ALONE)))
        assert max(rows) > 1  # they did share batches, as large ones as pay
        rows.clear()
        await asyncio.gather(*(send(range(first, first + ROWS)) for first in range(ALONE, PHOTOS, ROWS)))
    assert rows == [ROWS] * ((PHOTOS - ALONE) // ROWS)
    expected = direct(views)
    worst = max(float(np.abs(responses[n] - expected[n]).max()) for n in range(PHOTOS))
    assert worst < TOLERANCE
    apart = min(float(np.abs(expected[a] - expected[b]).max()) for a in range(PHOTOS) for b in range(a))
    assert apart > 100 * TOLERANCE  # so a mix-up would be detected


def test_cat_photo_is_classified_with_default_settings(stack: Callable[..., Stack]) -> None:
    system = stack(MODEL_PATH="efficientnet_lite0", TORCH_THREADS=1, MAX_BATCH_SIZE=4)
    system.up()
    cat = encoded(pixels("chelsea"))
    curl = {"content-type": "application/x-www-form-urlencoded"}  # what `curl --data-binary` sends
    response = system.predict(cat, headers=curl).json()
    best = response["predictions"][0][0]
    assert (best["label"], best["class_id"]) == ("Egyptian cat", 285)
    assert best["probability"] == pytest.approx(0.75, abs=0.02)
    two = {"cat": ("cat.png", cat), "again": ("cat.png", cat)}
    response = system.client.post(f"{system.url}/predict?top_k=2", files=two).json()
    assert [[score["class_id"] for score in row] for row in response["predictions"]] == [[285, 282]] * 2
    half = system.predict(cat[:20000])
    assert half.status_code == 422
    assert half.json()["code"] == "invalid_input"
