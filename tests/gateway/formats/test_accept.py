from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartbatch.gateway.formats.render import Format, negotiate
from smartbatch.shared.errors import NotAcceptable


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("", Format.JSON),
        ("*/*", Format.JSON),
        ("application/*", Format.JSON),
        ("application/json", Format.JSON),
        ("Application/X-NPY", Format.NPY),
        ("application/x-npy, */*", Format.NPY),
        ("*/*, application/x-npy", Format.NPY),
        ("application/x-npy;q=0.5, application/json;q=0.4", Format.NPY),
        ("application/x-npy;q=0.5, */*;q=0.8", Format.JSON),
        ("application/json;q=0, */*", Format.NPY),
        ("application/msgpack, application/json", Format.JSON),
        ("application/vnd.msgpack", Format.MSGPACK),
        ("text/html, application/xhtml+xml, application/xml;q=0.9, */*;q=0.8", Format.JSON),
        ("application/x-npy; q = 0.1, application/msgpack;q=0.2", Format.MSGPACK),
        ("application/x-npy;q=nan", Format.NPY),
        ("application/x-npy;q=", Format.NPY),
        ("application/json;charset=utf-8", Format.JSON),
    ],
)
def test_the_highest_q_and_the_most_specific_range_win(accept, chosen):
    assert negotiate(accept) is chosen


@pytest.mark.parametrize("accept", ["text/html", "image/*", "application/json;q=0", "*/*;q=0", ",", "garbage"])
def test_unavailable_formats_are_not_acceptable_and_the_available_ones_named(accept):
    with pytest.raises(NotAcceptable, match="application/json, application/x-npy, application/msgpack"):
        negotiate(accept)


@given(st.permutations([*Format]), st.lists(st.integers(1, 1000), min_size=3, max_size=3, unique=True))
def test_the_order_of_the_ranges_does_not_matter(formats, qualities):
    ranges = [f"{each.value};q={q / 1000}" for each, q in zip(formats, qualities, strict=True)]
    assert negotiate(",".join(ranges)) is formats[qualities.index(max(qualities))]


@given(st.text(st.characters(max_codepoint=255)) | st.text(";,=q*/.0159 \tjson"))
def test_any_header_is_negotiated_or_not_acceptable(accept):
    with contextlib.suppress(NotAcceptable):
        assert negotiate(accept) in Format
