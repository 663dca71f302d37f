"""Headers and query of /predict: numbers are strict, unknown parameters rejected, client text kept out of keys."""

from __future__ import annotations

import logging
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartbatch.gateway.inference.predict import PredictCodec
from smartbatch.gateway.inference.request import printable, read_headers, read_timeout
from smartbatch.shared.errors import ClientError, UnknownModel
from smartbatch.shared.keys import Keys
from smartbatch.shared.telemetry.logs import set_up


def parsed(query: str = "", **headers: str | list[str]) -> PredictCodec:
    pairs = [
        (name.replace("_", "-").encode(), value.encode("latin-1"))
        for name, values in headers.items()
        for value in ([values] if isinstance(values, str) else values)
    ]
    codec = PredictCodec()
    codec.parse_head(read_headers(pairs, codec.header_names), query.encode("latin-1"))
    return codec


@pytest.mark.parametrize(("text", "seconds"), [("10", 10), ("0.5", 0.5), (".5", 0.5), ("1.", 1), ("86400", 86400)])
def test_a_timeout_is_a_decimal_number(text: str, seconds: float) -> None:
    assert read_timeout(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "1,5",
        "10s",
        "1" * 5000,
        "1\x00",
        "³",
        "",
        " ",
        "1_0",
        "1e3",
        "nan",
        "inf",
        "-1",
        "+1",
        "0",
        "0.0001",
        "86401",
        "١٠".encode().decode("latin-1"),
        "0x10",
    ],
)
def test_invalid_timeout_is_rejected_with_expected_and_actual_value(text: str) -> None:
    with pytest.raises(ClientError) as caught:
        read_timeout(text)
    assert str(caught.value) == (
        f"X-Request-Timeout: expected a number of seconds from 0.001 to 86400, got {text[:40]!r}"
    )


def test_a_repeated_header_is_one_list() -> None:
    headers = [(b"x-request-timeout", b"10"), (b"accept", b"application/x-npy"), (b"x-request-timeout", b"20")]
    found = read_headers(headers, PredictCodec.header_names)
    assert found == {b"x-request-timeout": "10, 20", b"accept": "application/x-npy"}
    codec = parsed(accept=["application/x-npy", "*/*;q=0.1"], content_type=["application/json", "image/png"])
    assert codec._accept == "application/x-npy, */*;q=0.1"
    assert codec._content_type == "application/json, image/png"


@pytest.mark.parametrize(("text", "count"), [("0", 0), ("5", 5), ("007", 7), ("1000", 1000)])
def test_top_k_is_a_whole_number(text: str, count: int) -> None:
    assert parsed(f"top_k={text}")._top_k == count


@pytest.mark.parametrize(
    "text", ["", "1.9", "1.0", "1e2", "-1", "%2B1", "1_0", "1001", "five", "%20", "%D9%A1", "9" * 99]
)
def test_invalid_top_k_is_rejected(text: str) -> None:
    with pytest.raises(ClientError, match="top_k: expected a whole number from 0 to 1000, got '"):
        parsed(f"top_k={text}")


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ("topk=3", "unknown query parameter 'topk'; did you mean top_k?"),
        ("Top-K=3", "unknown query parameter 'Top-K'; did you mean top_k?"),
        ("models=x", "unknown query parameter 'models'; did you mean model?"),
        ("top_k%0a=3", r"unknown query parameter 'top_k\\n'; did you mean top_k?"),
        ("top_k", "top_k: expected a whole number"),
        ("top_k=1&top_k=1", "the query parameter top_k is given twice"),
        ("model=a&model=b", "given twice"),
        ("&".join(["top_k=1"] * 17), "at most 16 parameters"),
    ],
)
def test_a_misspelled_or_repeated_parameter_is_rejected(query: str, detail: str) -> None:
    with pytest.raises(ClientError, match=detail):
        parsed(query)


def test_unrelated_parameters_are_ignored() -> None:
    assert parsed("n=1&n=2&_=%0a&top_k=3&utm_source=x")._top_k == 3


@given(st.text(max_size=200))
def test_a_model_name_that_is_invalid_in_a_key_is_rejected(name: str) -> None:
    try:
        model = parsed(f"model={quote(name)}").model
    except UnknownModel:
        return
    assert model is not None
    assert Keys(model).requests == f"smartbatch:{{{name}}}:requests"
    assert set(model) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")
    assert 1 <= len(model) <= 128


@pytest.mark.parametrize("name", ["", "a}:b", "{x}", "a b", "a\n", "..%2F", "*", "a\x00", "ä", "a" * 129, "a:requests"])
def test_a_model_name_that_would_change_the_key_is_unknown(name: str) -> None:
    with pytest.raises(UnknownModel, match="a model name must be 1 to 128 characters"):
        parsed(f"model={quote(name)}")


@given(st.text(st.characters(max_codepoint=255), max_size=200))
def test_a_clients_request_id_is_echoed_only_if_it_is_printable(text: str) -> None:
    plain = len(text) <= 128 and all(" " <= character <= "~" for character in text)
    assert printable(text) == (text if plain else "")


def test_a_log_line_stays_one_line_whatever_it_quotes(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        for form in ("human", "json"):
            set_up(form, "info", "test")
            logging.getLogger("x").info("refused: %s", "a\nFAKE\r\x1b[2J\u2028b", extra={"request_id": "r\n1"})
    finally:
        root.handlers[:], _ = before
        root.setLevel(before[1])
    human, json_line, *rest = capsys.readouterr().err.splitlines()
    assert human.endswith(r"refused: a\nFAKE\r\x1b[2J\u2028b  [request_id=r\n1]")
    assert r"a\nFAKE\r\u001b[2J\u2028b" in json_line
    assert rest == []
