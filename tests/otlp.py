"""An OTLP/HTTP collector for the tests. It decodes the protocol's messages and stores the spans."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.brokers import eventually


class Span(msgspec.Struct):
    """Ids in hexadecimal, times in nanoseconds."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    state: str
    start: int
    end: int
    kind: int
    attributes: dict[str, Any]
    links: list[tuple[str, str]]  # (trace id, span id)
    events: list[str]
    failed: bool
    resource: dict[str, Any]

    @property
    def ms(self) -> float:
        return (self.end - self.start) / 1e6

    @property
    def id(self) -> tuple[str, str]:
        return self.trace_id, self.span_id


class Collector:
    """Use as `with`. `url` is the value for OTEL_EXPORTER_OTLP_ENDPOINT."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.path == "/v1/traces"
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.spans += _spans(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Collector:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def named(self, name: str) -> list[Span]:
        return [span for span in list(self.spans) if span.name == name]

    def of(self, trace_id: str) -> list[Span]:
        return sorted((span for span in list(self.spans) if span.trace_id == trace_id), key=lambda span: span.start)

    def trace(self, trace_id: str, names: Iterable[str]) -> dict[str, Span]:
        """Wait until a trace has exactly one span of each of these names; return them by name."""
        wanted = sorted(names)
        with contextlib.suppress(AssertionError):
            eventually(lambda: sorted(span.name for span in self.of(trace_id)) == wanted, 20, 0.05)
        found = sorted(span.name for span in self.of(trace_id))
        assert found == wanted, f"expected {wanted}, got {found}"
        return {span.name: span for span in self.of(trace_id)}


def _spans(request: ExportTraceServiceRequest) -> list[Span]:
    found = []
    for resource_spans in request.resource_spans:
        resource = _values(resource_spans.resource.attributes)
        for scope_spans in resource_spans.scope_spans:
            assert scope_spans.scope.name == "smartbatch"
            for span in scope_spans.spans:
                found.append(
                    Span(
                        span.name,
                        span.trace_id.hex(),
                        span.span_id.hex(),
                        span.parent_span_id.hex(),
                        span.trace_state,
                        span.start_time_unix_nano,
                        span.end_time_unix_nano,
                        span.kind,
                        _values(span.attributes),
                        [(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
                        [event.name for event in span.events],
                        span.status.code == 2,
                        resource,
                    )
                )
    return found


def _values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}
