"""The baseline's responses equal the product's, so that the benchmark compares only queues and batches."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from loadtest.servers import baseline
from loadtest.servers.same_model import SameModel
from smartbatch.shared.settings import from_environment
from smartbatch.worker.models.simulated import expected

ROOT = Path(__file__).parents[2]


def client(model_path: str) -> httpx.AsyncClient:
    settings = from_environment({"MODEL_PATH": model_path, "MODEL_WEIGHTS": "random"})
    app = baseline.application(SameModel(settings, 1))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://baseline")


async def test_it_responds_in_the_products_format() -> None:
    async with client("simulated:base_ms=0,row_ms=0") as http:
        response = (await http.post("/predict", content=b"hello")).json()
    assert response["outputs"]["output"]["data"] == [pytest.approx(expected(b"hello"), abs=1e-7)]
    assert response["model"] == "simulated"


async def test_it_runs_a_users_own_model() -> None:
    async with client("examples.tabular:Iris") as http:
        response = (await http.post("/predict", json={"data": [[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]]})).json()
        rejected = await http.post("/predict", content=b"\xff\xd8\xff", headers={"content-type": "image/jpeg"})
    assert [row["species"] for row in response["values"]] == ["setosa", "virginica"]
    assert rejected.status_code == 415 and "the model takes tensor" in rejected.json()["detail"]


def test_it_prints_the_models_metadata_or_why_it_cannot_load() -> None:
    def describe(model_path: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "loadtest.servers.baseline", "describe"]
        return subprocess.run(command, cwd=ROOT, env={"MODEL_PATH": model_path}, capture_output=True, text=True)

    assert json.loads(describe("simulated").stdout)["input"]["kinds"] == ["raw"]
    failed = describe("simulated:base_s=4")
    assert failed.returncode == 1 and failed.stderr.startswith("baseline: simulated takes milliseconds")
