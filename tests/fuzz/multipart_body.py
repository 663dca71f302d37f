"""multipart/form-data. The input's first line is the content type, which clients choose as well."""

from __future__ import annotations

from tests.fuzz.bodies import read
from tests.fuzz.harness import fuzz

FORM = b"multipart/form-data; boundary=b\n"


def part(disposition: bytes, body: bytes) -> bytes:
    return b"--b\r\nContent-Disposition: form-data; " + disposition + b"\r\n\r\n" + body + b"\r\n"


def seeds() -> list[bytes]:
    image = part(b'name="a"; filename="a.jpg"', b"\xff\xd8\xff\xe0")
    return [
        FORM + image + b"--b--\r\n",
        FORM + image * 2 + part(b'name="top_k"', b"5") + b"--b--\r\n",
        FORM + image * 9 + b"--b--\r\n",
        FORM + image + part(b'name="b"', b"[1, 2]") + b"--b--\r\n",
        FORM + part(b"name=x; filename*=UTF-8''%e2%82", b"\x93NUMPY\x01\0") + b"--b--",
        b'multipart/form-data; boundary="\xff"; charset=x\n--\xff\r\n\r\n--\xff--',
        FORM + b"--b\r\n" + b"A: B\r\n" * 100,
    ]


def one(data: bytes) -> None:
    content_type, _, body = data.partition(b"\n")
    read(body, content_type.decode("latin-1"))


if __name__ == "__main__":
    fuzz(one, seeds())
