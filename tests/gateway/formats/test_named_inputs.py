"""Bodies that hold several inputs by name, in each format."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import time
import zipfile
from typing import Any

import msgpack
import numpy as np
import pytest

from smartbatch.gateway.formats import parse
from smartbatch.gateway.formats.npz_body import MAX_INFLATED_BYTES
from smartbatch.shared.errors import (
    BodyTooLarge,
    InvalidInput,
    MalformedBody,
    TooManyRows,
    Unavailable,
    UnsupportedMedia,
)
from smartbatch.shared.model_info import InputSpec, ModelInfo
from smartbatch.shared.wire import Payload, Raw, Tensor
from tests.gateway.formats.test_parse import JPEG, PNG, file_part, multipart

FORM = "multipart/form-data; boundary=b"
BASE64 = base64.b64encode(JPEG).decode()


def takes(**inputs: InputSpec) -> ModelInfo:
    specs = tuple(InputSpec(spec.kinds, spec.dtype, spec.shape, name) for name, spec in inputs.items())
    return ModelInfo("m", "m", InputSpec(("inputs",)), 8, inputs=specs)


MIXED = takes(image=InputSpec(("image",)), numbers=InputSpec(("tensor",), "float32", (3,)))
TEXTS = takes(words=InputSpec(("text",)), blob=InputSpec(("raw",)))
ARRAYS = takes(a=InputSpec(("tensor",), "float32", (2,)), b=InputSpec(("tensor",), "int64", (-1,)))


def read(body: bytes, content_type: str = "", info: ModelInfo | None = MIXED) -> Payload:
    return parse(body, content_type, info, max_rows=4)


def in_json(**inputs: Any) -> bytes:
    return json.dumps({"inputs": inputs}, indent=1).encode()


def in_msgpack(**inputs: Any) -> bytes:
    return msgpack.packb({"inputs": inputs}) or b""


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npz(*, compressed: bool = False, **arrays: Any) -> bytes:
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, **arrays)
    return file.getvalue()


def floats(*rows: list[float]) -> Payload:
    array = np.array(rows, np.float32)
    return Payload("tensor", Tensor("float32", array.shape, array.tobytes()))


ONE_ROW = Payload("inputs", {"image": Payload("image", [JPEG]), "numbers": floats([1, 2, 3])})
TWO_ROWS = Payload("inputs", {"image": Payload("image", [JPEG, PNG]), "numbers": floats([1, 2, 3], [4, 5, 6])})


def field(name: str, content: bytes) -> tuple[str, bytes]:
    return f'name="{name}"', content


@pytest.mark.parametrize(
    ("body", "content_type", "expected"),
    [
        (in_json(numbers=[1, 2, 3], image=BASE64), "application/json", ONE_ROW),
        (in_json(numbers={"data": [[1, 2, 3]], "dtype": "float32"}, image=[BASE64]), "", ONE_ROW),
        (
            in_json(image=[BASE64, base64.b64encode(PNG).decode()], numbers={"data": [1, 2, 3, 4, 5, 6]}),
            "",
            TWO_ROWS,
        ),
        (in_msgpack(numbers=[1, 2, 3], image=JPEG), "", ONE_ROW),
        (in_msgpack(numbers=[[1.0, 2.0, 3.0]], image={"image": JPEG}), "application/msgpack", ONE_ROW),
        (
            in_msgpack(
                numbers={"data": np.array([1, 2, 3], np.float32).tobytes(), "shape": [3], "dtype": "float32"},
                image=[JPEG],
            ),
            "",
            ONE_ROW,
        ),
        (in_msgpack(numbers=npy(np.arange(1, 7, dtype=np.float32).reshape(2, 3)), image=[JPEG, PNG]), "", TWO_ROWS),
        (multipart(file_part(JPEG, "image"), field("numbers", b" [1, 2, 3]\n")), FORM, ONE_ROW),
        (multipart(field("numbers", b'{"data": [[1, 2, 3]]}'), file_part(JPEG, "image")), FORM, ONE_ROW),
        (
            multipart(
                file_part(JPEG, "image"),
                file_part(npy(np.array([[1, 2, 3], [4, 5, 6]], np.float32)), "numbers"),
                file_part(PNG, "image"),
            ),
            FORM,
            TWO_ROWS,
        ),
    ],
)
def test_inputs_are_read_by_name_and_come_in_the_models_order(
    body: bytes, content_type: str, expected: Payload
) -> None:
    payload = read(body, content_type)
    assert isinstance(payload.content, dict) and list(payload.content) == ["image", "numbers"]
    tensor = payload.content["numbers"].content
    assert isinstance(tensor, Tensor)
    tensor.data = bytes(tensor.data)
    assert payload == expected


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (in_json(words="a: b", blob=base64.b64encode(b"\0x").decode()), "application/json"),
        (in_msgpack(words=["a: b"], blob=b"\0x"), "application/msgpack"),
        (multipart(field("words", b"a: b"), file_part(b"\0x", "blob")), FORM),
    ],
)
def test_texts_and_any_bytes_are_inputs_too(body: bytes, content_type: str) -> None:
    assert read(body, content_type, TEXTS).content == {
        "words": Payload("text", ["a: b"]),
        "blob": Payload("raw", Raw(b"\0x", "application/octet-stream")),
    }


@pytest.mark.parametrize("content_type", ["", "application/x-npz", "application/zip"])
@pytest.mark.parametrize("compressed", [True, False])
def test_npz_has_an_array_for_each_input(content_type: str, compressed: bool) -> None:
    body = npz(b=np.zeros((2, 5), np.int64), a=np.ones((2, 2), np.float32), compressed=compressed)
    content = read(body, content_type, ARRAYS).content
    assert isinstance(content, dict)
    shapes = [(n, p.content.dtype, p.content.shape) for n, p in content.items() if isinstance(p.content, Tensor)]
    assert shapes == [("a", "float32", (2, 2)), ("b", "int64", (2, 5))]


@pytest.mark.parametrize(
    ("body", "content_type", "error", "text"),
    [
        (in_json(numbers=[[1, 2, 3]] * 2, image=BASE64), "", InvalidInput, "'image' has 1 and 'numbers' has 2"),
        (in_json(numbers=[1, 2, 3]), "", InvalidInput, "missing required field `image`"),
        (in_json(numbers=[1, 2, 3], image=BASE64, more=1), "", InvalidInput, "unknown field `more`.*image, numbers"),
        (in_json(), "", InvalidInput, "missing required field `image`"),
        (b'{"inputs": [1]}', "", InvalidInput, "Expected `object`, got `array`"),
        (b'{"input": {}}', "", InvalidInput, "unknown field `input`; known fields are inputs: image, numbers"),
        (b'{"inputs": {"image": "', "", MalformedBody, "truncated"),
        (in_json(numbers=[1, 2], image=BASE64), "", InvalidInput, r"input 'numbers': the model takes 3 numbers"),
        (in_json(numbers=["1"], image=BASE64), "", InvalidInput, "input 'numbers': the model takes tensor, got text"),
        (in_json(numbers=[1, 2, 3], image="é"), "", InvalidInput, "input 'image': it is not base64"),
        (in_json(numbers=[1, 2, 3], image="QUJD"), "", InvalidInput, "input 'image': image 0 is not JPEG"),
        (in_json(numbers=[1, 2, 3], image=[]), "", InvalidInput, "input 'image': "),
        (in_json(numbers=[[1, 2, 3]] * 5, image=[BASE64] * 5), "", TooManyRows, "input 'image': .*at most 4 rows"),
        (in_json(numbers={"data": [1, 2, 3], "x": 1}, image=BASE64), "", InvalidInput, "input 'numbers': .*`x`"),
        (in_msgpack(numbers=b"123", image=JPEG), "", InvalidInput, "input 'numbers': expected a .npy file"),
        (in_msgpack(image=JPEG), "", InvalidInput, "the input 'numbers' is missing; the model takes image, numbers"),
        (in_msgpack(numbers=[1, 2, 3], image={"inputs": {}}), "", InvalidInput, "inputs can't be nested"),
        (in_msgpack(**{str(n): 1 for n in range(65)}), "", InvalidInput, "length <= 64"),
        (msgpack.packb({"inputs": {}, "data": [1]}), "application/msgpack", InvalidInput, "can't be combined"),
        (multipart(file_part(JPEG, "image"), field("numbers", b"x")), FORM, InvalidInput, "input 'numbers'"),
        (multipart(file_part(JPEG, "image"), field("numbers", b"")), FORM, InvalidInput, "input 'numbers'"),
        (multipart(*[field("numbers", b"[1,2,3]")] * 2, file_part(JPEG, "image")), FORM, InvalidInput, "there once"),
        (multipart(file_part(JPEG, "image"), file_part(JPEG, "x")), FORM, InvalidInput, "unknown input 'x'"),
        (multipart(*[file_part(JPEG, "image")] * 9), FORM, TooManyRows, "got more files"),
        (npz(numbers=np.ones(3)), "", InvalidInput, "the input 'image' is missing"),
        (JPEG, "", UnsupportedMedia, r"several inputs by name \(image, numbers\): expected application/json"),
        (b'{"data": [1, 2, 3]}', "", UnsupportedMedia, "several inputs by name"),
        (npy(np.ones(3)), "", UnsupportedMedia, "several inputs by name"),
    ],
)
def test_wrong_inputs_are_refused_with_their_names(
    body: bytes, content_type: str, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        read(body, content_type)


def test_model_of_one_input_takes_no_names() -> None:
    one = ModelInfo("m", "m", InputSpec(("tensor",), "float32", (3,)), 8)
    with pytest.raises(InvalidInput, match="unknown field `inputs`; known fields are data, shape, dtype"):
        read(in_json(a=[1, 2, 3]), "application/json", one)
    with pytest.raises(InvalidInput, match=r"takes one input \(tensor\), not several by name"):
        read(in_msgpack(a=[1, 2, 3]), "application/msgpack", one)
    with pytest.raises(UnsupportedMedia):
        read(npz(a=np.ones(3)), "", one)


@pytest.mark.parametrize("body", [in_json(a=[1]), in_msgpack(a=[1]), npz(a=np.ones(1))])
def test_several_inputs_wait_for_the_models_announcement(body: bytes) -> None:
    with pytest.raises(Unavailable, match="no worker has announced the model's inputs yet"):
        read(body, "", None)


# --- npz


def test_pickles_are_refused() -> None:
    body = npz(a=np.array([object()], dtype=object), b=np.zeros(1, np.int64))
    with pytest.raises(InvalidInput, match="input 'a': object arrays contain pickles and are never loaded"):
        read(body, "", ARRAYS)


@pytest.mark.parametrize("arrays", [1, 20])
def test_zip_bomb_is_refused_before_it_is_inflated(arrays: int) -> None:
    zeros = np.zeros(50 * 1024 * 1024 // arrays, np.uint8)
    body = npz(compressed=True, **{f"a{n}": zeros for n in range(arrays)})
    assert len(body) < 100_000
    started = time.process_time()
    with pytest.raises(BodyTooLarge, match=f"more than {MAX_INFLATED_BYTES} bytes together"):
        read(body, "", ARRAYS)
    assert time.process_time() - started < 0.5


def test_stored_arrays_may_be_as_large_as_a_body() -> None:
    array = np.zeros((1, MAX_INFLATED_BYTES // 8 + 1), np.int64)
    assert read(npz(a=np.ones((1, 2), np.float32), b=array), "", ARRAYS).rows == 1


def test_zip_of_too_many_files_is_refused_at_once() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number in range(65):
            archive.writestr(f"{number}.npy", b"")
    with pytest.raises(InvalidInput, match="at most 64 arrays"):
        read(file.getvalue(), "", ARRAYS)


def test_same_array_twice_and_other_compressions_are_refused() -> None:
    for names, method, text in (
        (["a.npy", "a"], zipfile.ZIP_STORED, "the array 'a' twice"),
        (["a.npy"], zipfile.ZIP_LZMA, "must be stored, or compressed as numpy does"),
    ):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", method) as archive:
            for name in names:
                archive.writestr(name, npy(np.ones(2, np.float32)))
        with pytest.raises(InvalidInput, match=text):
            read(file.getvalue(), "", ARRAYS)


def test_broken_zip_is_malformed_or_invalid_wherever_it_is_cut_or_changed() -> None:
    whole = npz(compressed=True, a=np.ones((1, 2), np.float32), b=np.zeros((1, 3), np.int64))
    random = np.random.default_rng(0)
    for _ in range(500):
        broken = bytearray(whole)
        for at in random.integers(len(whole), size=3):
            broken[at] = random.integers(256)
        for body in (bytes(broken), whole[: random.integers(4, len(whole))]):
            with contextlib.suppress(InvalidInput, MalformedBody, BodyTooLarge):
                read(body, "application/x-npz", ARRAYS)
    with pytest.raises(MalformedBody, match=r"not a \.npz file"):
        read(whole[:-10], "", ARRAYS)
