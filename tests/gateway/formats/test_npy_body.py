from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from smartbatch.gateway.formats import npy_body, parse
from smartbatch.shared.errors import InvalidInput, MalformedBody, TooManyRows
from smartbatch.shared.model_info import InputSpec, ModelInfo
from smartbatch.shared.wire import Payload, Tensor

DTYPES = [
    "bool",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "int8",
    "int16",
    "int32",
    "int64",
    "float16",
    "float32",
    "float64",
]


def saved(array: np.ndarray, version: tuple[int, int] | None = None) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version=version)
    return file.getvalue()


def file_with(header: str, data: bytes = b"\0" * 8) -> bytes:
    return npy_body.MAGIC + b"\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + data


def read(body: bytes, info: ModelInfo | None = None, max_rows: int = 64) -> Tensor:
    payload = parse(body, "application/x-npy", info, max_rows=max_rows)
    assert isinstance(payload.content, Tensor)
    return payload.content


def model(*shape: int) -> ModelInfo:
    return ModelInfo("m", "m", InputSpec(("tensor",), "float32", shape), 8)


def arrays(min_dims: int = 0):
    shapes = npst.array_shapes(min_dims=min_dims, max_dims=4, max_side=4)
    return st.sampled_from(DTYPES).flatmap(lambda dtype: npst.arrays(np.dtype(dtype), shapes))


@given(arrays(), st.booleans(), st.sampled_from([(1, 0), (2, 0), (3, 0)]))
def test_files_saved_by_numpy_are_read_exactly(array, fortran, version):
    array = np.asfortranarray(array) if fortran else array
    got = read(saved(array, version))
    expected_shape = array.shape if array.ndim > 1 else (1, *array.shape)
    assert got.shape == expected_shape
    assert got.dtype == array.dtype.name
    back = np.frombuffer(got.data, array.dtype).reshape(got.shape, order=got.order)
    assert back.tobytes() == array.tobytes()


@given(arrays())
def test_written_files_equal_numpys(array):
    tensor = Tensor(array.dtype.name, array.shape, array.tobytes())
    assert npy_body.write(tensor) == saved(np.ascontiguousarray(array).reshape(array.shape), (1, 0))


def test_bfloat16_is_written_as_float32():
    written = np.load(io.BytesIO(npy_body.write(Tensor("bfloat16", (2,), b"\x80\x3f\x00\xc0"))))
    assert written.dtype == np.float32
    assert written.tolist() == [1.0, -2.0]


def test_the_data_is_a_view_of_the_body():
    body = saved(np.zeros((2, 2), np.float32))
    data = read(body).data
    assert isinstance(data, memoryview)
    assert data.obj is body


def test_row_shape_is_checked():
    assert read(saved(np.zeros((2, 3), np.float32)), model(2, 3)).shape == (1, 2, 3)
    assert read(saved(np.zeros((5, 2, 3), np.float32)), model(2, 3)).shape == (5, 2, 3)
    with pytest.raises(InvalidInput, match=r"\[2, 3\] or \[rows, 2, 3\], got \[6\]"):
        read(saved(np.zeros(6, np.float32)), model(2, 3))
    with pytest.raises(TooManyRows, match="at most 4 rows"):
        read(saved(np.zeros((5, 2, 3), np.float32)), model(2, 3), max_rows=4)


def test_fortran_order_is_kept_only_where_it_matters():
    assert read(saved(np.asfortranarray(np.zeros((2, 3))))).order == "F"
    assert read(file_with("{'descr': '<f8', 'fortran_order': True, 'shape': (1, 1), }")).order == "C"


def test_object_arrays_are_rejected_and_never_unpickled():
    file = io.BytesIO()
    np.save(file, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InvalidInput, match="pickle"):
        read(file.getvalue())


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.zeros(2, ">f4"), "big-endian"),
        (np.zeros(2, [("a", "<f4"), ("b", "<i4")]), "structured"),
        (np.zeros(2, "<c8"), "unknown .npy dtype"),
        (np.zeros(2, "<U3"), "unknown .npy dtype"),
        (np.zeros(2, "<M8[s]"), "unknown .npy dtype"),
        (np.zeros((0, 3), "<f4"), "empty"),
        (np.zeros((3, 0), "<f4"), "empty"),
    ],
)
def test_unsupported_dtypes_are_rejected_by_name(array, text):
    with pytest.raises(InvalidInput, match=text):
        read(saved(array))


def test_a_bool_other_than_zero_or_one_is_rejected():
    with pytest.raises(InvalidInput, match="0 or 1"):
        read(saved(np.array([True, False]))[:-1] + b"\x02")


@pytest.mark.parametrize(
    "body",
    [
        b"x",
        b"\x93NUMPY",
        b"\x93NUMPY\x01\x00",
        b"\x93NUMPY\x04\x00\x00\x00",
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff",
        saved(np.zeros(4))[:-1],
        saved(np.zeros(4)) + b"x",
        saved(np.zeros(4))[:40],
        file_with("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }"),
        file_with("{'descr': '<f8', 'fortran_order': False, 'shape': (1 1,), }"),
        file_with("{'descr': '<f8', 'fortran_order': False, 'shape': (,), }"),
        file_with("{'descr': '<f8', 'fortran_order': 0, 'shape': (1,), }"),
        file_with("{'descr': '<f8', 'fortran_order': False, }"),
        file_with("{'descr': '<f8', 'descr': '<f8', 'fortran_order': False, 'shape': (1,), }"),
        file_with("{'descr': '<f8', 'fortran_order': False, 'shape': (1,), 'x': 1}"),
        file_with("{'descr': __import__('os'), 'fortran_order': False, 'shape': (1,)}"),
        file_with("{'descr': '<f8', 'fortran_order': False, 'shape': (" + "9" * 400 + ",)}"),
        file_with("{'descr': '<f8', 'fortran_order': False, 'shape': (" + "1," * 33 + ")}"),
        file_with("{" + "(" * 9000 + "}"),
        file_with("{" + " " * 9990 + "}"),
    ],
)
def test_broken_files_are_malformed(body):
    with pytest.raises(MalformedBody):
        read(body)


@pytest.mark.parametrize(
    "header",
    [
        '{"shape": (1,), "fortran_order": False, "descr": "<f8"}\n',
        "{'descr':'<f8','fortran_order':False,'shape':(1,)}",
        "{'descr': '=f8', 'fortran_order': False, 'shape': (1), }      \n",
    ],
)
def test_headers_of_other_writers_are_accepted(header):
    assert read(file_with(header)) == Tensor("float64", (1, 1), b"\0" * 8)


@given(st.data())
def test_a_damaged_file_is_parsed_or_rejected_as_a_client_error(data):
    body = bytearray(saved(np.arange(6, dtype=np.float32).reshape(2, 3)))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        payload = parse(bytes(body[: data.draw(st.integers(0, len(body)))]), "application/x-npy", None, max_rows=8)
    except (InvalidInput, MalformedBody, TooManyRows):
        return
    assert isinstance(payload, Payload)
