"""Random values of the wire format, for property tests."""

from __future__ import annotations

import math
from typing import Any

import msgpack
from hypothesis import strategies as st

from smartbatch.shared.wire import DTYPE_BYTES, INPUT_NAME, BatchInfo, Payload, Raw, Result, Tensor

names = st.text(max_size=20)
input_names = st.from_regex(INPUT_NAME)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | names | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=10,
)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    dtype = draw(st.sampled_from(sorted(DTYPE_BYTES)))
    shape = tuple(draw(st.lists(st.integers(0, 4), min_size=1, max_size=4)))
    size = math.prod(shape) * DTYPE_BYTES[dtype]
    order: Any = draw(st.sampled_from(["C", "F"]))
    data = draw(st.binary(min_size=size, max_size=size))
    if dtype == "bool":
        data = bytes(byte & 1 for byte in data)
    return Tensor(dtype, shape, data, order)


single = st.one_of(
    st.builds(Payload, st.just("image"), st.lists(st.binary(), min_size=1, max_size=4), st.dictionaries(names, plain)),
    st.builds(Payload, st.just("text"), st.lists(names, min_size=1, max_size=4), st.dictionaries(names, plain)),
    st.builds(Payload, st.just("tensor"), tensors(), st.dictionaries(names, plain)),
    st.builds(Payload, st.just("raw"), st.builds(Raw, st.binary(), names), st.dictionaries(names, plain)),
)


@st.composite
def several(draw: st.DrawFn) -> Payload:
    """Several inputs with as many rows each."""
    first = draw(single)
    alike = single.filter(lambda payload: payload.rows == first.rows)
    others = draw(st.dictionaries(input_names, st.just(first) | alike, min_size=1, max_size=3))
    return Payload("inputs", others, draw(st.dictionaries(names, plain)))


payloads = st.one_of(single, several())
guesses = st.lists(st.tuples(st.integers(0, 999), names, st.floats(0, 1)), max_size=3)
results = st.one_of(
    st.builds(lambda rows: Result(classes=rows), st.lists(guesses, min_size=1, max_size=3)),
    st.builds(lambda outputs: Result(outputs=outputs), st.dictionaries(names, tensors(), max_size=3)),
    st.builds(lambda rows: Result(values=rows), st.lists(plain, min_size=1, max_size=3)),
)
batches = st.none() | st.builds(BatchInfo, names, *[st.integers(1, 65536)] * 2, names, names, st.integers(1, 100))
parts = st.dictionaries(st.sampled_from(["queue", "decode", "batch_wait", "forward"]), st.floats(0, 1e6))


def packed(wire: dict) -> bytes:
    data = msgpack.packb(wire)
    assert data is not None
    return data
