"""W3C Trace Context: strict parsing, and its form in an entry."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartbatch.shared.telemetry.trace_context import TraceContext, read_field, read_headers, trace_id_of, write_field

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GOOD = f"00-{TRACE}-{SPAN}-01"


def read(parent: str, state: str | None = None) -> TraceContext | None:
    found = {b"traceparent": parent}
    return read_headers(found if state is None else found | {b"tracestate": state})


@pytest.mark.parametrize(
    ("header", "sampled"),
    [
        (GOOD, True),
        (f" {GOOD}\t", True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-03", True),  # other flags are ignored
        (f"00-{TRACE}-{SPAN}-02", False),
        (f"cc-{TRACE}-{SPAN}-01", True),  # a later version is parsed like this one
        (f"cc-{TRACE}-{SPAN}-01-what the future brings", True),
    ],
)
def test_a_valid_traceparent_is_accepted(header: str, sampled: bool) -> None:
    assert read(header) == (TRACE, SPAN, sampled, "", 0)


@pytest.mark.parametrize(
    "header",
    [
        "",
        GOOD.upper(),
        GOOD[:-1],
        GOOD + "0",
        GOOD + "-more",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00-{TRACE[:-1]}g-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-0x",
        f"cc-{TRACE}-{SPAN}-01more",
        f"{GOOD}, {GOOD}",  # a repeated header
        GOOD + "\n",
        GOOD.replace("0", "٠"),
    ],
)
def test_an_invalid_traceparent_is_ignored(header: str) -> None:
    assert read(header) is None


@pytest.mark.parametrize(
    ("state", "kept"),
    [
        ("a=1", "a=1"),
        ("a=1,b=2", "a=1,b=2"),
        (" a=1 ,\t, b=2,", "a=1,b=2"),
        ("tenant@vendor=x y:z", "tenant@vendor=x y:z"),
        ("0a_-*/=!", "0a_-*/=!"),
        ("", ""),
        ("a", ""),
        ("A=1", ""),
        ("a=1,a=2", ""),
        ("a=1=2", ""),
        ("a=\x1b[2J", ""),
        ("a=ä", ""),
        ("a=" + "x" * 511, ""),
        (",".join(f"k{n}=1" for n in range(33)), ""),
    ],
)
def test_only_a_valid_tracestate_is_passed_on(state: str, kept: str) -> None:
    context = read(GOOD, state)
    assert context is not None
    assert context.state == kept


@given(
    st.from_regex(r"[0-9a-f]{32}", fullmatch=True).filter(lambda text: text.strip("0")),
    st.from_regex(r"[0-9a-f]{16}", fullmatch=True).filter(lambda text: text.strip("0")),
    st.booleans(),
    st.sampled_from(["", "a=1", "a=b c,d=e"]),
    st.integers(0, 10**16),
)
def test_a_written_context_reads_back_the_same(
    trace_id: str, span_id: str, sampled: bool, state: str, sent_us: int
) -> None:
    context = TraceContext(trace_id, span_id, sampled, state, sent_us)
    assert read_field(write_field(context)) == context
    assert trace_id_of(write_field(context)) == trace_id


@given(st.text(max_size=120))
def test_an_arbitrary_trace_field_never_raises(text: str) -> None:
    for field in (text, f"{GOOD} {text}"):
        context = read_field(field)
        assert context is None or (context.trace_id.isascii() and context.state.isprintable())


def test_without_a_context_the_field_is_empty() -> None:
    assert write_field(None) == ""
    assert read_field("") is None
    assert write_field(read(GOOD)) == GOOD
