"""The part of an inference request that depends on its protocol. Each protocol implements a Codec."""

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

# Read by InferenceRequest, for every protocol.
COMMON_HEADERS = frozenset((b"x-request-id", b"x-request-timeout", *trace_context.HEADERS))


class Response(NamedTuple):
    """`headers` don't include Content-Length."""

    status: int
    headers: Headers
    content: bytes


class Codec(ABC):
    """Parses one request and renders its response. The methods are called in the order of their definition."""

    header_names: ClassVar[frozenset[bytes]]  # the headers passed to `parse_head`, including COMMON_HEADERS

    model_in_body: ClassVar[bool] = False  # `read_body` sets `model`, not `parse_head`

    # Set by `parse_head`.
    model: str | None = None  # its name; None: the default model
    version = 0  # of the model; 0: the routing table decides
    timeout_s: float | None = None  # from the protocol, in addition to X-Request-Timeout; `parse_body` may set it too
    content_coding = ""  # "gzip" or "deflate" if the client accepts compressed content

    @abstractmethod
    def parse_head(self, headers: Mapping[bytes, str], query: bytes) -> None:
        """Parse headers and query. Raises ClientError."""

    @abstractmethod
    def check_head(self) -> None:
        """Refuse options of the head that the server doesn't support. Called after authorization."""

    def read_body(self, body: bytes) -> None:  # noqa: B027 - nothing to do where the head names the model
        """Find the model in the body, for a codec with `model_in_body`. Raises ClientError."""

    @abstractmethod
    def parse_body(self, body: bytes, info: ModelInfo | None, max_rows: int) -> Payload:
        """Check the body against the model's input. May be called in another thread. Raises ClientError."""

    @abstractmethod
    def render_reply(
        self, reply: Reply, timing_ms: dict[str, float], *, model: str, version: int, request_id: str, client_id: str
    ) -> Response:
        """Render a reply's result. `client_id` is the client's own request id, or the server's if it sent none."""

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
        """Return the span's name and attributes, according to OpenTelemetry's semantic conventions."""

    def response_attributes(self, status: int) -> Mapping[str, Any]:
        """Return additional attributes for a response with this HTTP status."""
        return {"http.response.status_code": status}
