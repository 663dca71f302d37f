"""Bodies, the check of responses, and load shapes."""

from __future__ import annotations

import io
import json
import math
from collections import Counter
from pathlib import Path

import msgpack
import numpy as np
import pytest
from PIL import Image

from loadtest.workload import bodies, verify
from loadtest.workload.scenario import NoScenario, choose
from loadtest.workload.shapes import users_at


def test_photos_are_of_several_sizes_and_formats_and_each_is_named_in_the_notice() -> None:
    photos = bodies.photos()
    sizes = {Image.open(io.BytesIO(photo.content)).size for photo in photos}
    assert len(sizes) == len(photos) == 6
    assert {photo.content_type for photo in photos} == {"image/jpeg", "image/png", "image/webp"}
    assert sum(len(photo.content) for photo in photos) < 500_000
    notice = (bodies.DATA / "NOTICE").read_text()
    assert all(photo.name in notice for photo in photos)


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8", "int64"])
def test_tensors_hold_the_same_numbers_in_every_format(dtype: str) -> None:
    shape = (2, 3)
    makers = (bodies.json_tensors, bodies.npy_tensors, bodies.msgpack_tensors)
    made = zip(*(make(shape, dtype) for make in makers), strict=True)
    for as_json, as_npy, as_msgpack in made:
        numbers = np.load(io.BytesIO(as_npy.content))
        assert numbers.shape == (1, 2, 3) and numbers.dtype == dtype
        document = json.loads(as_json.content)
        assert document["shape"] == [1, 2, 3] and np.array(document["data"], dtype).tolist() == numbers.ravel().tolist()
        packed = msgpack.unpackb(as_msgpack.content)
        assert packed["shape"] == [1, 2, 3] and packed["data"] == numbers.tobytes()


def test_all_bodies_are_different_and_the_same_in_each_run() -> None:
    every = [*bodies.photos(), *bodies.npy_tensors((4,), "float32"), *bodies.plain_bytes(), *bodies.texts()]
    assert len({body.content for body in every}) == len({body.name for body in every}) == len(every)
    assert bodies.plain_bytes() == bodies.plain_bytes()


def test_a_files_suffix_decides_its_content_type(tmp_path: Path) -> None:
    file = tmp_path / "ask.json"
    file.write_text('{"data": [1]}')
    assert bodies.from_file(file) == ("ask.json", "json", b'{"data": [1]}', "application/json")
    with pytest.raises(ValueError, match=r"expected a file ending in .*\.json.*, got '\.exe'"):
        bodies.from_file(tmp_path / "ask.exe")
    with pytest.raises(ValueError, match="No such file"):
        bodies.from_file(tmp_path / "none.json")


def ranking(*pairs: tuple[int, float]) -> list[list[dict]]:
    return [[{"label": str(number), "class_id": number, "probability": share} for number, share in pairs]]


@pytest.mark.parametrize(
    ("expected", "got"),
    [
        ([1.0, 100.0], [1.9, 100.0]),  # within 1 % of the largest
        (ranking((1, 0.5), (2, 0.300), (3, 0.299)), ranking((1, 0.501), (3, 0.3), (2, 0.299))),  # changed places
        ({"output": {"dtype": "float32", "data": [[0.5]]}}, {"output": {"dtype": "float32", "data": [[0.5]]}}),
        ([{"species": "setosa", "probability": 0.9}], [{"species": "setosa", "probability": 0.901}]),
        (["NaN"], ["NaN"]),
        ([], []),
    ],
)
def test_results_that_agree(expected, got) -> None:
    assert verify.difference(expected, got) <= 1


@pytest.mark.parametrize(
    ("expected", "got"),
    [
        ([1.0, 100.0], [2.1, 100.0]),
        ([1.0], [1.0, 1.0]),
        ([1.0], ["NaN"]),
        (ranking((1, 0.5), (2, 0.3)), ranking((7, 0.5), (2, 0.3))),
        (ranking((1, 0.5)), ranking((1, 0.6))),
        ({"a": [1.0]}, {"b": [1.0]}),
        ([{"species": "setosa"}], [{"species": "virginica"}]),
        ([True], [1.5]),
    ],
)
def test_results_that_do_not(expected, got) -> None:
    assert verify.difference(expected, got) > 1


def test_a_result_is_read_from_a_response() -> None:
    assert verify.result(b'{"model": "m", "values": [3], "timing_ms": {"total": 1}}') == [3]
    for unreadable in (b"", b"[1]", b"<html>", b'{"error": "no"}'):
        with pytest.raises(verify.Unreadable, match="expected JSON with one of predictions"):
            verify.result(unreadable)


def users(shape: str, run_s: float | None = 100.0) -> list[int]:
    """Return the number of users, of 100, at some times of a run."""
    times = (0.0, 15.0, 35.0, 50.0, 75.0, 99.0)
    return [now[0] for at_s in times if (now := users_at(shape, at_s, 100, 10, run_s))]


def test_shapes() -> None:
    assert users("steady") == [100] * 6
    assert users("ramp") == [1, 15, 35, 50, 75, 99]
    assert users("steps") == [20, 20, 40, 60, 80, 100]
    assert users("spike") == [10, 10, 10, 100, 10, 10]


def test_a_shape_ends_with_its_time_and_only_a_steady_one_may_have_none() -> None:
    assert all(users_at(shape, 100.0, 100, 10, 100.0) is None for shape in ("steady", "ramp", "steps", "spike"))
    assert users_at("steady", 1e6, 100, 10, None) == (100, 10)
    assert users_at("ramp", 150.0, 100, 10, None) == (50, 100)  # of five minutes
    assert users_at("ramp", math.nextafter(300.0, 0), 100, 10, None) is not None
    assert users_at("ramp", 300.0, 100, 10, None) is None


def info(*kinds: str, shape: list[int] | None = None) -> dict:
    return {"input": {"kinds": list(kinds), "dtype": "float32", "shape": shape}}


def test_the_scenario_follows_from_what_the_model_accepts() -> None:
    assert choose("auto", [], info("image", "tensor", shape=[3, 8, 8]))[0] == "photos"
    assert choose("auto", [], info("tensor", shape=[4]))[0] == "npy"
    assert choose("auto", [], info("text"))[0] == "texts"
    assert choose("auto", [], info("raw"))[0] == "bytes"
    name, mixed = choose("mixed", [], info("image", "tensor", shape=[4]))
    shares = Counter(body.kind for body in mixed)
    assert name == "mixed" and shares["photo"] == 6 * shares["json"] == 3 * shares["npy"]
    with pytest.raises(NoScenario, match="the model accepts tensor: choose --scenario json, npy, msgpack"):
        choose("photos", [], info("tensor", shape=[4]))
    with pytest.raises(NoScenario, match=r"of unknown shape.*files of your own"):
        choose("auto", [], info("tensor"))
