"""One keep-alive HTTP/1.1 connection, which carries one request at a time."""

from __future__ import annotations

import socket

NO_RESPONSE = 0  # the status of a request whose connection broke


def request_bytes(port: int, body: bytes, path: str = "/predict", **headers: str) -> bytes:
    """Build a POST request. Underscores in header names become hyphens."""
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    head = [f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-length: {len(body)}", *lines, "", ""]
    return "\r\n".join(head).encode() + body


class Connection:
    """State of one connection. The load loop owns it and does all I/O on its socket."""

    __slots__ = (
        "_length",
        "body",
        "connected",
        "freed_at",
        "response",
        "sent_at",
        "socket",
        "start",
        "status",
        "unsent",
    )

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.connected = False
        self.start: float | None = None  # intended start of the request in flight; None: no request in flight
        self.sent_at = 0.0
        self.freed_at = 0.0
        self.body = 0  # index of the request in flight
        self.unsent = b""
        self.response = b""
        self.status = NO_RESPONSE
        self._length = 0  # of the whole response in bytes; 0 while its head is incomplete

    def begin(self, body: int, request: bytes, start: float, now: float) -> None:
        """Set the request in flight."""
        self.body, self.unsent, self.start, self.sent_at = body, request, start, now
        self.response, self.status, self._length = b"", NO_RESPONSE, 0

    def receive(self, data: bytes) -> bool:
        """Append received bytes; return whether the response is complete."""
        self.response = response = self.response + data if self.response else data
        if not self._length:
            end = response.find(b"\r\n\r\n")
            if end < 0:
                return False
            head = response[:end].lower()
            self.status = int(head[9:12])
            self._length = end + 4 + int(_field(head, b"content-length") or 0)
        return len(response) >= self._length

    def header(self, name: bytes) -> str:
        """Value of a response header, by its lower-case name; empty if absent."""
        return _field(self.response.partition(b"\r\n\r\n")[0].lower(), name).decode("latin-1")


def _field(head: bytes, name: bytes) -> bytes:
    at = head.find(b"\r\n" + name + b":")
    return head[at + len(name) + 3 :].partition(b"\r\n")[0].strip() if at >= 0 else b""
