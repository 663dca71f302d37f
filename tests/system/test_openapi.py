"""Responses conform to /openapi.json, checked by schemathesis."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.system.stack import Stack

# A client may set a timeout of a millisecond, and then a 504 is correct. What the schema allows and the
# model doesn't take (another number of columns, text) is rejected with the codes here.
EXPECTATIONS = """
hooks = "hooks.py"

[checks]
not_a_server_error.expected-statuses = ["2xx", "4xx", 504]
positive_data_acceptance.expected-statuses = ["2xx", 404, 413, 415, 422, 504]

# That a header says where the JSON ends, and that the rest is as long as the JSON says, is beyond any schema.
[[operations]]
include-path-regex = "/v2/.*/infer"
[operations.checks]
positive_data_acceptance.expected-statuses = ["2xx", 400, 404, 413, 422, 504]
[operations.generation]
allow-extra-parameters = false  # unknown headers are no error in HTTP, nor unknown parameters in this protocol

# Without API keys only MANAGEMENT_PORT loads and unloads.
[[operations]]
include-path-regex = "/v2/repository/models/.*"
[operations.checks]
positive_data_acceptance.expected-statuses = [400, 403, 404]

[[operations]]
include-path-regex = "/v1/.*"
[operations.generation]
allow-extra-parameters = false  # as above
"""

# With a length of 0 the body is the data of the input, whatever its Content-Type. So it isn't wrong as JSON.
HOOKS = """
import schemathesis

@schemathesis.hook
def before_call(context, case, kwargs):
    if case.media_type == "application/json" and (case.headers or {}).get("Inference-Header-Content-Length") == "0":
        del case.headers["Inference-Header-Content-Length"]
"""


def explore(system: Stack, folder: Path, *options: str) -> None:
    """Have schemathesis send valid and invalid requests; every response must conform to the document."""
    (folder / "schemathesis.toml").write_text(EXPECTATIONS)
    (folder / "hooks.py").write_text(HOOKS)
    phases = ["--phases", "examples,coverage,fuzzing", "--max-examples", "30", "--seed", "1", "--continue-on-failure"]
    command = ["-m", "schemathesis.cli", "--config-file", "schemathesis.toml", "run", f"{system.url}/openapi.json"]
    run = subprocess.run(
        [sys.executable, *command, *phases, *options], cwd=folder, capture_output=True, text=True, timeout=100
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Tested: 26" in run.stdout  # all but the document itself
    assert "Traceback" not in system.processes[0].log.read_text()


@pytest.mark.extended
def test_responses_conform_to_the_openapi_document(stack: Callable[..., Stack], tmp_path: Path) -> None:
    system = stack(MODEL_PATH="examples.tabular:Iris", MODEL_NAME="iris")
    system.up()
    explore(system, tmp_path)


@pytest.mark.extended
def test_responses_of_a_text_model_conform_to_the_openapi_document(stack: Callable[..., Stack], tmp_path: Path) -> None:
    system = stack(MODEL_PATH="minilm")
    system.up()
    explore(system, tmp_path)


@pytest.mark.extended
def test_responses_of_a_raw_model_conform_to_the_openapi_document(stack: Callable[..., Stack], tmp_path: Path) -> None:
    system = stack(MODEL_PATH="simulated:base_ms=1,row_ms=0")
    system.up()
    explore(system, tmp_path, "--exclude-checks", "negative_data_rejection")  # it takes bodies that no document allows


def test_the_document_names_limits_media_types_and_every_error(stack: Callable[..., Stack]) -> None:
    system = stack(MODEL_PATH="simulated", MAX_BODY_BYTES=12345)
    system.gateway()
    document = system.client.get(f"{system.url}/openapi.json").json()
    predict = document["paths"]["/predict"]["post"]
    assert document["openapi"] == "3.1.0"
    assert "12345 bytes" in predict["requestBody"]["description"]
    assert list(predict["requestBody"]["content"]) == [
        "application/json",
        "image/jpeg",
        "image/png",
        "image/webp",
        "application/x-npy",
        "application/x-npz",
        "application/msgpack",
        "multipart/form-data",
        "text/plain",
    ]
    assert list(predict["responses"]["200"]["content"]) == [
        "application/json",
        "application/msgpack",
        "application/x-npy",
    ]
    assert {parameter["name"] for parameter in predict["parameters"]} == {
        "model",
        "version",
        "top_k",
        "partial",
        "X-Request-Timeout",
        "X-Request-Id",
        "Traceparent",
    }
    assert set(predict["responses"]) >= {"200", "400", "404", "406", "408", "413", "414", "415", "422", "431"}
    assert set(predict["responses"]) >= {"500", "502", "503", "504"}
    assert "499" not in predict["responses"]  # the client has disconnected
    assert "queue_full" in predict["responses"]["503"]["description"]
    assert "Retry-After" in predict["responses"]["503"]["headers"]


def bodies(operation: dict, model: str) -> Iterator[tuple[str, dict]]:
    """Yield the content type and the example of each body that the document gives for a model."""
    for media, described in operation["requestBody"]["content"].items():
        if example := described.get("examples", {}).get(model):
            yield media, example
        if media == "multipart/form-data" and (fields := described["schema"].get("properties")):
            yield media, fields


@pytest.mark.parametrize(
    ("path", "medias"),
    [
        ("examples.text_embedding:TextEmbedding", ["application/json", "text/plain"]),
        ("examples.tabular:Iris", ["application/json"]),
        ("efficientnet_lite0", ["image/png", "multipart/form-data"]),
        ("examples.photo_and_numbers:PhotoAndNumbers", ["application/json", "multipart/form-data"]),
        ("simulated:base_ms=0,row_ms=0", ["text/plain"]),
    ],
)
def test_each_example_is_a_body_that_the_served_model_takes(
    stack: Callable[..., Stack], path: str, medias: list[str]
) -> None:
    system = stack(MODEL_PATH=path, MODEL_NAME="mine", MAX_BATCH_SIZE=2)
    system.up()
    document = system.client.get(f"{system.url}/openapi.json").json()
    tried = []
    image = system.client.get(f"{system.url}/docs/example.png").content
    for media, example in bodies(document["paths"]["/predict"]["post"], "mine"):
        headers = {"content-type": media}
        if media == "multipart/form-data":
            fields = [(name, field.get("examples", [image])[0]) for name, field in example.items()]
            files = [(name, (None if isinstance(value, str) else name, value)) for name, value in fields]
            if "rows.npy" in example:  # whose content no text can show
                continue
            response = system.client.post(f"{system.url}/predict", files=files)
        elif "externalValue" in example:
            content = system.client.get(f"{system.url}{example['externalValue']}").content
            response = system.predict(content, headers=headers)
        elif media == "application/json":
            response = system.client.post(f"{system.url}/predict", json=example["value"])
        else:
            response = system.predict(example["value"].encode(), headers=headers)
        assert response.status_code == 200, (media, response.text)
        tried.append(media)
    assert tried == medias
    for base in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        infer = document["paths"][f"{base}/infer"]["post"]
        where = {each["name"]: each["example"] for each in infer["parameters"] if each["in"] == "path"}
        example = infer["requestBody"]["content"]["application/json"]["examples"]["mine"]
        response = system.client.post(f"{system.url}{base}/infer".format(**where), json=example["value"])
        assert response.status_code == 200, response.text
    index = document["paths"]["/v2/repository/index"]["post"]["requestBody"]["content"]["application/json"]
    response = system.client.post(f"{system.url}/v2/repository/index", json=index["example"])
    assert [model["name"] for model in response.json()] == ["mine"]
