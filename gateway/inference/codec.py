"""What an inference request needs of its protocol. Each protocol implements a Codec."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

from smartbatch.gateway.core.problems import problem
from smartbatch.shared.errors import BodyTimeout
from smartbatch.shared.model_info import ModelInfo
from smartbatch.shared.telemetry import trace_context
from smartbatch.shared.wire import Payload, Reply

Headers = list[tuple[bytes, bytes]]

# Read by InferenceRequest, whatever the protocol.
COMMON_HEADERS = frozenset((b"x-request-id", b"x-request-timeout", *trace_context.HEADERS))


class Response(NamedTuple):
    """`headers` are without Content-Length, which is the length of `content`."""

    status: int
    headers: Headers
    content: bytes


class Codec(ABC):
    """Reads one request and renders its response. The methods are called in the order of their definition."""

    header_names: ClassVar[frozenset[bytes]]  # the headers that `parse_head` gets, COMMON_HEADERS among them

    # Set by `parse_head`.
    model: str | None = None  # None: the default model
    timeout_s: float | None = None  # asked for otherwise than by X-Request-Timeout; `parse_body` may set it too
    content_coding = ""  # with which the client accepts the content compressed; empty for none

    @abstractmethod
    def parse_head(self, headers: Mapping[bytes, str], query: bytes) -> None:
        """Read headers and query. Raises ClientError."""

    @abstractmethod
    def check_head(self) -> None:
        """Refuse what the head asks for and the server doesn't offer. Called once the client is authorized."""

    @abstractmethod
    def parse_body(self, body: bytes, info: ModelInfo | None, max_rows: int) -> Payload:
        """Check the body against the model's input. May be called in another thread. Raises ClientError."""

    @abstractmethod
    def render_reply(
        self, reply: Reply, timing_ms: dict[str, float], *, model: str, request_id: str, client_id: str
    ) -> Response:
        """Render a reply that holds a result. `client_id` is the request's id as the client named it."""

    def render_error(self, error: Exception, *, request_id: str, client_id: str) -> Response:
        """Render an error as RFC 9457 problem details."""
        status, headers, content = problem(error, request_id)
        headers["x-request-id"] = client_id
        if isinstance(error, BodyTimeout):
            headers["connection"] = "close"
        return Response(
            status, [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()], content
        )

    # --- only if the request is traced

    @abstractmethod
    def span(self) -> tuple[str, Mapping[str, Any]]:
        """Return the span's name and attributes, by OpenTelemetry's semantic conventions."""

    def response_attributes(self, status: int) -> Mapping[str, Any]:
        """Return further attributes, for a response with this HTTP status."""
        return {"http.response.status_code": status}
