from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartbatch.gateway.core.problems import status_of
from smartbatch.gateway.formats import parse
from smartbatch.shared.errors import InvalidInput, MalformedBody, SmartBatchError, TooManyRows, UnsupportedMedia
from smartbatch.shared.model_info import InputSpec, ModelInfo
from smartbatch.shared.wire import Payload, Raw, Tensor

JPEG = b"\xff\xd8\xff\xe0 rest"
PNG = b"\x89PNG\r\n\x1a\n rest"
WEBP = b"RIFF\x04\x00\x00\x00WEBPVP8 "
GIF = b"GIF89a rest"
JSON = b' \n{"data": [1]}'


def npy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.ones((2, 2), np.float32))
    return file.getvalue()


def accepting(*kinds) -> ModelInfo:
    return ModelInfo("m", "m", InputSpec(kinds), 8)


def read(body: bytes, content_type: str, info: ModelInfo | None = None) -> Payload:
    return parse(body, content_type, info, max_rows=4)


def multipart(*parts: tuple[str, bytes], boundary: str = "b") -> bytes:
    lines = [
        f"--{boundary}\r\nContent-Disposition: form-data; {disposition}\r\n\r\n".encode() + body + b"\r\n"
        for disposition, body in parts
    ]
    return b"".join(lines) + f"--{boundary}--\r\n".encode()


def file_part(body: bytes, name: str = "f") -> tuple[str, bytes]:
    return f'name="{name}"; filename="cat.jpg"', body


# --- images


@pytest.mark.parametrize("body", [JPEG, PNG, WEBP])
@pytest.mark.parametrize("content_type", ["image/jpeg", "image/png", "image/webp", "IMAGE/JPG; q=1"])
def test_image_is_one_row_whatever_image_type_is_declared(body, content_type):
    assert read(body, content_type, accepting("image")) == Payload("image", [body])


@pytest.mark.parametrize("body", [GIF, b"RIFF1234WAVE", b"\xff\xd8", b"{}"])
def test_bytes_of_an_unknown_image_format_are_invalid(body):
    with pytest.raises(InvalidInput, match="not JPEG, PNG or WebP"):
        read(body, "image/jpeg", accepting("image"))


@pytest.mark.parametrize("info", [None, accepting("image", "tensor")])
def test_other_images_are_unsupported_and_the_accepted_ones_named(info):
    with pytest.raises(UnsupportedMedia, match=r"image/jpeg, image/png, image/webp.*got 'image/gif'"):
        read(GIF, "image/gif", info)


# --- multipart


def test_files_are_rows_in_order_under_any_name():
    body = multipart(file_part(JPEG, "image"), file_part(PNG, "x"))
    assert read(body, "multipart/form-data; boundary=b") == Payload("image", [JPEG, PNG])
    assert read(body, 'Multipart/Form-Data; boundary="b"', accepting("image")).rows == 2


def test_a_single_npy_file_is_a_tensor():
    payload = read(multipart(file_part(npy())), "multipart/form-data; boundary=b", accepting("tensor"))
    assert isinstance(payload.content, Tensor)
    assert payload.content.shape == (2, 2)
    with pytest.raises(InvalidInput, match="the only file"):
        read(multipart(file_part(npy()), file_part(JPEG)), "multipart/form-data; boundary=b")


def test_plain_field_is_rejected_by_name():
    with pytest.raises(InvalidInput, match="'top_k' is a plain field"):
        read(multipart(file_part(JPEG), ('name="top_k"', b"5")), "multipart/form-data; boundary=b")


def test_more_files_than_rows_are_rejected():
    assert read(multipart(*[file_part(JPEG)] * 4), "multipart/form-data; boundary=b").rows == 4
    with pytest.raises(TooManyRows, match=r"MAX_REQUEST_ROWS.*got more files"):
        read(multipart(*[file_part(JPEG)] * 5), "multipart/form-data; boundary=b")


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (multipart(file_part(JPEG)), "multipart/form-data"),
        (multipart(file_part(JPEG)), "multipart/form-data; boundary=other"),
        (multipart(file_part(JPEG)), "multipart/form-data; boundary=" + "b" * 1000),
        (multipart(file_part(JPEG))[:-6], "multipart/form-data; boundary=b"),
        (b"--b\r\nno header\r\n\r\n--b--", "multipart/form-data; boundary=b"),
        (b"x", "multipart/form-data; boundary=b"),
    ],
)
def test_broken_multipart_is_malformed(body, content_type):
    with pytest.raises(MalformedBody):
        read(body, content_type)


def test_multipart_without_a_file_is_invalid():
    with pytest.raises((InvalidInput, MalformedBody)):
        read(b"--b--\r\n", "multipart/form-data; boundary=b")


# --- text


def test_text_is_one_row():
    assert read("grüß".encode(), "text/plain; charset=UTF-8", accepting("text")) == Payload("text", ["grüß"])
    with pytest.raises(MalformedBody, match="at byte 1"):
        read(b"a\xff", "text/plain", accepting("text"))
    with pytest.raises(UnsupportedMedia, match="utf-16"):
        read(b"a", "text/plain; charset=utf-16", accepting("text"))


# --- sniffing


@pytest.mark.parametrize("content_type", ["", "application/octet-stream", "application/x-www-form-urlencoded"])
@pytest.mark.parametrize(
    ("body", "kind"), [(JPEG, "image"), (PNG, "image"), (WEBP, "image"), (npy(), "tensor"), (JSON, "tensor")]
)
def test_body_without_a_content_type_is_recognized_by_its_first_bytes(content_type, body, kind):
    assert read(body, content_type, accepting("image", "tensor")).kind == kind


def test_unknown_bytes_without_a_content_type_are_raw_or_unsupported():
    assert read(b"xyz", "") == Payload("raw", Raw(b"xyz", "application/octet-stream"))
    assert read(b"xyz", "", accepting("raw", "image")).kind == "raw"
    with pytest.raises(UnsupportedMedia, match=r"takes image: expected image/jpeg"):
        read(b"xyz", "", accepting("image"))


# --- kinds


@pytest.mark.parametrize("content_type", ["application/json", "image/jpeg", "multipart/form-data", "a/b", "", "%%%"])
@pytest.mark.parametrize("body", [b"", b"{", JPEG])
def test_a_raw_model_accepts_any_body_of_any_content_type(content_type, body):
    expected = Raw(body, content_type or "application/octet-stream")
    assert read(body, content_type, accepting("raw")) == Payload("raw", expected)


def test_a_raw_model_receives_unsupported_kinds_as_raw_bytes():
    assert read(JPEG, "image/jpeg", accepting("raw", "text")) == Payload("raw", Raw(JPEG, "image/jpeg"))
    assert read(GIF, "image/gif", accepting("raw", "image")) == Payload("raw", Raw(GIF, "image/gif"))
    assert read(b'{"data": "a"}', "application/json", accepting("raw", "tensor")).kind == "raw"
    assert read(JPEG, "image/jpeg", accepting("raw", "image")).kind == "image"


@pytest.mark.parametrize(
    ("body", "content_type", "kinds"),
    [
        (JPEG, "image/jpeg", ("tensor",)),
        (JSON, "application/json", ("image",)),
        (npy(), "application/x-npy", ("text", "image")),
        (b"a", "text/plain", ("image",)),
        (multipart(file_part(npy())), "multipart/form-data; boundary=b", ("image",)),
        (b"a", "video/mp4", ("image", "tensor")),
    ],
)
def test_unsupported_kinds_are_rejected_and_the_accepted_ones_named(body, content_type, kinds):
    with pytest.raises(UnsupportedMedia, match=f"takes {' or '.join(kinds)}"):
        read(body, content_type, accepting(*kinds))


@pytest.mark.parametrize("content_type", ["", "image/jpeg", "application/json", "text/plain", "a/b"])
def test_empty_body_is_malformed(content_type):
    with pytest.raises(MalformedBody, match="the body is empty"):
        read(b"", content_type, accepting("image", "tensor", "text"))


# --- arbitrary bodies

bodies = st.sampled_from([JPEG, npy(), JSON, multipart(file_part(JPEG)), b"\x81\xa4data\x91\x01", b"text"])
content_types = st.sampled_from(
    [
        "",
        "application/json",
        "application/x-npy",
        "application/msgpack",
        "image/png",
        "text/plain; charset=utf-8",
        "multipart/form-data; boundary=b",
        "a/b",
    ]
) | st.text(st.characters(max_codepoint=255), max_size=30)
kinds_accepted = [("image",), ("tensor",), ("text",), ("raw", "image"), ("image", "tensor", "text")]
infos = st.sampled_from([None, *(accepting(*kinds) for kinds in kinds_accepted)])


@given(st.data(), bodies | st.binary(max_size=60), content_types, infos)
def test_any_body_is_parsed_or_rejected_as_a_client_error(data, body, content_type, info):
    damaged = bytearray(body)
    if damaged:
        for _ in range(data.draw(st.integers(0, 3))):
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        payload = read(bytes(damaged), content_type, info)
    except SmartBatchError as rejected:
        assert 400 <= status_of(rejected) < 500
    else:
        assert 1 <= payload.rows <= 4
        assert info is None or payload.kind in info.input.kinds
