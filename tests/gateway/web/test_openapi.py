from __future__ import annotations

import json

from smartbatch.gateway.web.openapi import build
from smartbatch.shared.model_info import InputSpec, ModelInfo
from smartbatch.shared.settings import Settings


def test_endpoints_require_a_key_only_if_there_are_keys():
    document = json.loads(build.document(Settings(api_keys_file="keys.toml")))
    assert document["security"] == [{"bearer": []}, {"key": []}]
    assert set(document["components"]["securitySchemes"]) == {"bearer", "key"}
    without = [path for path, methods in document["paths"].items() if methods.get("get", {}).get("security") == []]
    assert without == ["/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"]
    assert "WWW-Authenticate" in document["paths"]["/predict"]["post"]["responses"]["401"]["headers"]
    assert "Retry-After" in document["paths"]["/predict"]["post"]["responses"]["429"]["headers"]
    assert "security" not in json.loads(build.document(Settings()))


def test_titles_are_method_and_path_and_descriptions_keep_the_words():
    paths = json.loads(build.document(Settings()))["paths"]
    for path, operations in paths.items():
        for method, operation in operations.items():
            assert operation["summary"] == f"{method.upper()} {path}"
    assert paths["/stats"]["get"]["description"] == (
        "Statistics. Rates, latencies, queue, workers and gateways of every model."
    )


def test_examples_are_those_of_the_served_models_the_default_one_first():
    images = ModelInfo("images", "x", InputSpec(("image", "tensor"), "uint8", (3, 224, 224)), 8)
    words = ModelInfo("words", "x", InputSpec(("text",)), 8)
    flags = ModelInfo("flags", "x", InputSpec(("tensor",), "bool", (-1, 2)), 8)
    document = json.loads(build.document(Settings(model_name="words"), (flags, images, words)))
    content = document["paths"]["/predict"]["post"]["requestBody"]["content"]
    assert list(content)[:3] == ["application/json", "application/msgpack", "text/plain"]
    assert content["application/json"]["examples"] == {
        "words": {"summary": "words", "value": {"data": ["a text"]}},
        "flags": {"summary": "flags (?model=flags)", "value": {"data": [[[False, False]]]}},
    }  # a row of `images` would be pages long
    assert content["image/png"]["examples"]["images"]["externalValue"] == "/docs/example.png"
    infer = document["paths"]["/v2/models/{model}/infer"]["post"]
    assert infer["parameters"][0]["example"] == "words"
    examples = infer["requestBody"]["content"]["application/json"]["examples"]
    assert list(examples) == ["words", "flags", "images"]
    assert examples["words"]["value"]["inputs"] == [
        {"name": "input", "shape": [1], "datatype": "BYTES", "data": ["a text"]}
    ]


def test_each_version_of_a_model_has_an_example_that_names_it():
    text, raw = InputSpec(("text",)), InputSpec(("raw",))
    models = (ModelInfo("m", "x", raw, 8, version=2), ModelInfo("other", "x", text, 8), ModelInfo("m", "x", text, 8))
    document = json.loads(build.document(Settings(model_name="m"), models))
    content = document["paths"]["/predict"]["post"]["requestBody"]["content"]
    summaries = {name: example["summary"] for name, example in content["text/plain"]["examples"].items()}
    assert summaries == {"m": "m (?version=1)", "m@2": "m@2 (?version=2)", "other": "other (?model=other)"}
    path, post = "/v2/models/{model}/versions/{version}/infer", "post"
    assert [each["example"] for each in document["paths"][path][post]["parameters"][:2]] == ["m", 1]
    examples = document["paths"][path][post]["requestBody"]["content"]["application/json"]["examples"]
    assert list(examples) == ["m", "m@2", "other"]


def test_json_is_left_out_if_each_example_would_be_pages_long():
    images = ModelInfo("images", "x", InputSpec(("image", "tensor"), "uint8", (3, 224, 224)), 8)
    document = json.loads(build.document(Settings(), (images,)))
    content = document["paths"]["/predict"]["post"]["requestBody"]["content"]
    assert next(iter(content)) == "image/jpeg"
    assert "application/json" not in content
