"""Modules of a user's own over HTTP: several inputs and outputs by name, and faults that concern one request alone."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
import torch
import tritonclient.http as triton

from tests.system.own_network import NAN, OTHER_DTYPE, OTHER_SHAPE, RAISES, TOO_FEW, TOO_MANY, Scaled
from tests.system.stack import Stack

PATH = "tests.system.own_network"
IMAGE = np.random.default_rng(0).random((2, 3, 8, 8), np.float32)
SCALE = np.array([[2], [3]], np.float32)


@pytest.fixture(scope="module")
def scaled(shared: Callable[..., Stack]) -> Stack:
    return shared(MODEL_PATH=f"{PATH}:Scaled", MODEL_NAME="Scaled", MAX_BATCH_SIZE=4, OPTIMIZE="auto")


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    with torch.inference_mode():
        outputs = Scaled()(torch.from_numpy(IMAGE), torch.from_numpy(SCALE))
    return {name: output.numpy() for name, output in outputs.items()}


def same(outputs: dict[str, Any], expected: dict[str, np.ndarray]) -> bool:
    return outputs.keys() == expected.keys() and all(
        np.allclose(outputs[name], expected[name], atol=1e-5) for name in expected
    )


def test_inputs_and_outputs_go_by_name_in_json(scaled: Stack, expected: dict[str, np.ndarray]) -> None:
    body = {"inputs": {"image": IMAGE.tolist(), "scale": SCALE.tolist()}}
    response = scaled.client.post(f"{scaled.url}/predict", json=body)
    assert response.status_code == 200, response.text
    outputs = {name: np.array(output["data"]) for name, output in response.json()["outputs"].items()}
    assert same(outputs, expected)


def test_inputs_and_outputs_go_by_name_in_npz(scaled: Stack, expected: dict[str, np.ndarray]) -> None:
    out = io.BytesIO()
    np.savez(out, scale=SCALE, image=IMAGE)
    response = scaled.client.post(
        f"{scaled.url}/predict", content=out.getvalue(), headers={"Content-Type": "application/x-npz"}
    )
    assert response.status_code == 200, response.text
    outputs = {name: np.array(output["data"]) for name, output in response.json()["outputs"].items()}
    assert same(outputs, expected)


def test_inputs_and_outputs_go_by_name_over_v2(scaled: Stack, expected: dict[str, np.ndarray]) -> None:
    with triton.InferenceServerClient(scaled.url.removeprefix("http://")) as client:
        inputs = [triton.InferInput("image", IMAGE.shape, "FP32"), triton.InferInput("scale", SCALE.shape, "FP32")]
        inputs[0].set_data_from_numpy(IMAGE)
        inputs[1].set_data_from_numpy(SCALE)
        result = client.infer("Scaled", inputs)
    assert same({name: result.as_numpy(name) for name in expected}, expected)


@pytest.mark.parametrize(
    ("fault", "status", "detail"),
    [
        (NAN, 200, ""),
        (RAISES, 500, "ValueError: unlucky"),
        (TOO_FEW, 500, "forward returned 0 outputs for 1 rows"),
        (TOO_MANY, 500, "forward returned 2 outputs for 1 rows"),
        (OTHER_DTYPE, 500, "the output 'output' is float64 [2] per row; the model announced float32 [2]"),
        (OTHER_SHAPE, 500, "the output 'output' is float32 [1] per row; the model announced float32 [2]"),
    ],
)
async def test_a_fault_of_one_row_is_the_error_of_its_request_alone(
    shared: Callable[..., Stack], fault: int, status: int, detail: str
) -> None:
    system = shared(
        MODEL_PATH=f"{PATH}:Faulty",
        MODEL_NAME="Faulty",
        MAX_BATCH_SIZE=8,
        MAX_WAIT_TIME=0.3,
        WINDOW="fixed",
        DEBUG_ERRORS="true",
    )
    rows = [0, fault, 0, 0]
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        responses = await asyncio.gather(
            *(client.post(f"{system.url}/predict", json={"data": [[row, 9 + at]]}) for at, row in enumerate(rows))
        )
    bad = responses.pop(1)
    for at, response in zip((0, 2, 3), responses, strict=True):
        assert response.status_code == 200, response.text
        assert response.json()["outputs"]["output"]["data"] == [[0, 2 * (9 + at)]]
    assert bad.status_code == status
    if status == 200:
        assert bad.json()["outputs"]["output"]["data"] == [["NaN", "NaN"]]
    else:
        assert bad.json()["code"] == "model_failed" and detail in bad.json()["detail"]
