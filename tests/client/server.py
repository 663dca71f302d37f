"""A server that answers the client as a test says."""

from __future__ import annotations

import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec

Answer = tuple[int, dict[str, str], bytes]


class Server(ThreadingHTTPServer):
    """Answers each request by `answer(body)`; None breaks the connection. `headers` are those of every request."""

    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.answer: Callable[[bytes], Answer | None] = echo

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that gives up a request breaks its connection."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.headers.append({name.lower(): value for name, value in self.headers.items()})
        self.server.paths.append(self.path)
        answer = self.server.answer(body)
        if answer is None:
            self.close_connection = True
            return
        status, headers, content = answer
        self.send_response(status)
        for name, value in {**headers, "content-length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


def echo(body: bytes) -> Answer:
    """Answer as the gateway does for a model that returns its input."""
    tensor = msgspec.msgpack.decode(body)
    answer = {"model": "echo", "request_id": "r-1", "outputs": {"output": tensor}, "timing_ms": {"total": 1.0}}
    return 200, {"content-type": "application/msgpack"}, msgspec.msgpack.encode(answer)


def problem(status: int, code: str, **headers: str) -> Answer:
    body = {"status": status, "code": code, "detail": f"the detail of {code}", "request_id": "r-9"}
    return status, {"content-type": "application/problem+json", **headers}, json.dumps(body).encode()


def in_turn(*answers: Answer | Callable[[bytes], Answer] | None) -> Callable[[bytes], Answer | None]:
    """Give each request the next answer, and the last one to all that follow."""
    left = list(answers)

    def answer(body: bytes) -> Answer | None:
        following = left.pop(0) if len(left) > 1 else left[0]
        return following(body) if callable(following) else following

    return answer
