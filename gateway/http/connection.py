"""One client connection: parses requests, starts a cycle for each, and ends what is too large or takes too long.

Built on uvicorn's httptools protocol, which limits neither the size of a head nor the time for one to come, and stops
reading at an Upgrade. The invariant: memory held for a connection that hasn't sent a complete request is bounded by
MAX_HEAD_BYTES, the size of one read (256 KiB) and what the application has received of the body; each complete request
is answered, in order.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import Any, Protocol

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from smartbatch.gateway.http import fast_path
from smartbatch.gateway.http.asgi_cycle import AsgiRequestCycle
from smartbatch.gateway.http.connection_registry import ConnectionRegistry
from smartbatch.gateway.http.fast_path import FastPathCycle
from smartbatch.gateway.http.heads import (
    MAX_HEAD_BYTES,
    Head,
    Headers,
    check_head,
    error_response,
    head_bytes,
    serialize_response,
    target,
    too_large,
    without_upgrade,
)
from smartbatch.gateway.http.timeouts import HEAD_TIMEOUT_S, Awaited, ConnectionTimeouts
from smartbatch.gateway.inference.request_services import RequestServices
from smartbatch.shared.errors import HeadTimeout, MalformedRequest, SmartBatchError, TooManyConnections

log = logging.getLogger(__name__)

# How long bytes that still come are read and discarded after a response that was sent early. Closing at once would make
# the kernel send a reset, and many clients then never see the response.
LINGER_S = 5.0
DRAIN_LINGER_S = 0.25  # during a drain
# An idle connection is closed so long after the drain began: what the kernel holds already is read and answered first.
LAST_READ_S = 0.05
# Requests that may wait on one connection for those before them. Each takes a hundred times the memory of its bytes.
MAX_PIPELINED = 64


class Cycle(Protocol):
    """One request and its response: an AsgiRequestCycle or a FastPathCycle."""

    keep_alive: bool
    started: bool
    response_complete: bool

    @property
    def persistent(self) -> bool: ...
    def receive_body(self, chunk: bytes) -> None: ...
    def body_complete(self, *, keep_alive: bool) -> None: ...
    def body_incomplete(self, *, keep_alive: bool) -> None: ...
    def start(self) -> None: ...
    def fail(self, error: Exception) -> None: ...
    def disconnect(self) -> None: ...


class Connection(HttpToolsProtocol):
    """Created by uvicorn for each connection, and checked by the process's ConnectionRegistry. Event loop only."""

    # uvicorn declares these more narrowly than they are used here.
    app: Any
    parser: Any
    cycle: Any  # the newest Cycle, or None
    pipeline: deque[Any]  # Cycles that wait for the running one, the newest first

    def __init__(self, config, server_state, app_state, _loop=None) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._registry: ConnectionRegistry = app_state["connection_registry"]
        self._services: RequestServices | None = app_state.get("services")  # None: without the fast path
        self._running: Cycle | None = None  # the oldest without a complete response
        self._receiving = False  # a request's head is complete, and its body isn't
        self._unparsed_bytes = 0  # read since the parser last completed a head, a chunk or a body
        self._discarding = False  # what comes is discarded
        self._final_response = b""  # sent after the responses still owed, before closing
        self.url = b""
        self.last_used = server_state.total_requests
        self._timeouts = ConnectionTimeouts(time.monotonic())

    # --- called by asyncio

    def connection_made(self, transport) -> None:
        super().connection_made(transport)
        if self._services and self.server and self.server[1] == self._services.settings.management_port:
            self._services = None
        self.write = transport.write
        self.is_closing = transport.is_closing
        if not self._registry.admit(self):
            self._discarding = True
            error = TooManyConnections("too many connections are open (MAX_CONNECTIONS)")
            self._registry.record_error(error)
            self.write(self._error_response(error))
            if self._registry.reject(self):
                self._linger()
            else:
                transport.close()

    def connection_lost(self, exc) -> None:
        self.connections.discard(self)
        self._registry.release(self)
        for cycle in (self._running, self.cycle, *self.pipeline):
            if cycle is not None:
                cycle.disconnect()
        self.pipeline.clear()
        self.flow.resume_writing()  # wakes writers, which then notice the disconnect
        if exc is None:
            self.transport.close()
        self.parser = None

    def data_received(self, data: bytes) -> None:
        if self._discarding:
            return
        self._unparsed_bytes += len(data)
        self._parse(data)
        if self._receiving and not self._discarding:
            self.cycle.body_incomplete(keep_alive=self._may_keep_alive())
        if self._running is not None and not self._running.started:
            self._running.start()
        if self._unparsed_bytes > MAX_HEAD_BYTES and not self._discarding:
            self._refuse(too_large(self.url))

    def _parse(self, data: bytes) -> None:
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                rest = data[upgrade.args[0] :]
                if self.parser.get_method() == b"CONNECT":
                    self._refuse(MalformedRequest("CONNECT is not supported: this server is not a proxy"))
                    return
                # A server may ignore Upgrade (RFC 9110, section 7.8), but the parser can't: it gets the head again.
                data = without_upgrade(self.parser, self.url, self.headers) + rest
                continue
            except httptools.HttpParserError as error:
                self._on_parser_error(error)
            return

    # --- called by the parser

    def on_message_begin(self) -> None:
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._unparsed_bytes = self._unparsed_bytes or 1  # a head has begun, also one that follows a complete request

    def on_headers_complete(self) -> None:
        parser = self.parser
        if parser.should_upgrade():
            return
        headers = self.headers
        if self._unparsed_bytes > MAX_HEAD_BYTES and head_bytes(self.url, headers) > MAX_HEAD_BYTES:
            raise too_large(self.url)
        if len(self.pipeline) >= MAX_PIPELINED:
            self.cycle.keep_alive = False
            self._discarding = True
            raise _StopParsing
        self._unparsed_bytes = 0
        version = parser.get_http_version()
        expects_100 = self.expect_100_continue and version == "1.1"
        head = Head(parser.get_method(), version, *target(self.url), headers, expects_100)
        check_head(head)
        self.headers = []  # trailers go there, not among the headers that the application reads meanwhile
        if self._services and fast_path.is_eligible(head):
            self.cycle = FastPathCycle(self, self._services, head)
        else:
            self.cycle = AsgiRequestCycle(self, head)
        self._receiving = True
        if self._running is None:
            self._running = self.cycle  # started at the end of this read
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft(self.cycle)

    def on_chunk_header(self) -> None:
        self._unparsed_bytes = 0

    def on_body(self, body: bytes) -> None:
        self._unparsed_bytes = 0
        if not self.cycle.response_complete:
            self.cycle.receive_body(body)

    def on_message_complete(self) -> None:
        if not self._receiving:
            return  # the head of an upgrade, which the parser gets again
        self._receiving = False
        self._unparsed_bytes = 0
        cycle = self.cycle
        cycle.body_complete(keep_alive=self._may_keep_alive() and cycle.persistent)

    # --- called by cycles

    def on_response_complete(self) -> None:
        """The running cycle has sent its response, and called `close` before if that was the last."""
        self.server_state.total_requests += 1
        self.last_used = self.server_state.total_requests
        self._timeouts.since = self._registry.now
        self._running = None
        if self.transport.is_closing():
            return
        if self.pipeline:
            self._running = cycle = self.pipeline.pop()
            cycle.start()
        elif self._final_response:
            self._send_final_response()
        if not self.pipeline:
            self.flow.resume_reading()

    def run_in_task(self, cycle: AsgiRequestCycle) -> None:
        self._start_asgi_task(cycle, self.app)

    def hand_over(self, cycle: FastPathCycle) -> AsgiRequestCycle:
        """Replace a request of the fast path by one for ASGI. It is the running one, or the newest."""
        asgi_cycle = AsgiRequestCycle(self, cycle.head)
        asgi_cycle.keep_alive, asgi_cycle.more_body, asgi_cycle.error = cycle.keep_alive, cycle.more_body, cycle.error
        asgi_cycle.receive_body(b"".join(cycle.chunks))
        if self._running is cycle:
            self._running = asgi_cycle
        else:
            self.pipeline[0] = asgi_cycle
        if self.cycle is cycle:
            self.cycle = asgi_cycle
        return asgi_cycle

    def close(self) -> None:
        """Close after the last response, or in place of one."""
        if self._receiving or self._discarding:
            self._linger()  # the rest isn't read
        else:
            self.transport.close()

    def abort(self) -> None:
        self.transport.abort()

    def send(self, status: int, headers: Headers, content: bytes, *, keep_alive: bool) -> None:
        data = serialize_response(status, self.server_state.default_headers, headers, content, keep_alive=keep_alive)
        if not self.transport.is_closing():
            self.write(data)

    # --- called by the registry, and by uvicorn

    @property
    def idle(self) -> bool:
        """No request is being answered, nor received by the application, and nothing waits to be sent."""
        return self._running is None and not self.transport.get_write_buffer_size()

    def check_timeouts(self, now: float) -> None:
        """Close the connection if it has taken too long. Called once a second."""
        awaited, unsent = self._awaited(), self.transport.get_write_buffer_size()
        if not self._timeouts.expired(awaited, unsent, now):
            return
        if unsent:
            self._registry.count("write_timeout")
            self.abort()
        elif awaited == "head" and self._unparsed_bytes:
            self._refuse(HeadTimeout(f"the request head did not arrive within {HEAD_TIMEOUT_S:g} s"))
        else:
            self.transport.close()

    def _awaited(self) -> Awaited:
        if self._running is not None or self._discarding:
            return "nothing"  # it is the application's turn, or `_linger` closes the connection
        return "rest" if self._receiving else "head" if self.cycle is None or self._unparsed_bytes else "request"

    def shutdown(self) -> None:
        """Drain: the newest request is the last. Without one the connection closes after a last read."""
        self._registry.drain()
        if self._running is None:
            self.loop.call_later(LAST_READ_S, self._close_if_idle)
        else:
            self.cycle.keep_alive = False

    def end_incomplete(self, error: SmartBatchError) -> None:
        """Refuse a request that isn't complete."""
        if self._discarding:
            if self._running is None:
                self.abort()  # its response has been sent
        elif self._receiving or self._unparsed_bytes:
            self._refuse(error)

    def end(self, error: SmartBatchError) -> None:
        """Answer all requests with an error, and close."""
        if self._running is None or self.flow.write_paused:
            self.abort()
            return
        self._discarding = True
        self.cycle.keep_alive = False
        for cycle in (*self.pipeline, self._running):  # the running one last, since it may start the next at once
            cycle.fail(error)

    # --- within

    def _may_keep_alive(self) -> bool:
        return not self._registry.draining and self.parser.should_keep_alive()

    def _on_parser_error(self, error: httptools.HttpParserError) -> None:
        match error.__context__ if isinstance(error, httptools.HttpParserCallbackError) else None:
            case SmartBatchError() as refusal:
                self._refuse(refusal)
            case _StopParsing():
                pass
            case None:
                self._refuse(MalformedRequest(f"the request is not valid HTTP: {error}"))
            case unexpected:
                log.error("reading a request failed with an unexpected error", exc_info=unexpected)
                self.abort()

    def _refuse(self, error: SmartBatchError) -> None:
        """Answer what came with an error, after the responses owed for what came before, and close."""
        self._discarding = True
        if self._receiving:  # a request, which is counted and logged as one
            self._registry.count(error.code)
            self.cycle.keep_alive = False
            self.cycle.fail(error)
            return
        self._registry.record_error(error)
        self._final_response = self._error_response(error)
        if self._running is None:
            self._send_final_response()
        else:
            self.flow.pause_reading()

    def _error_response(self, error: SmartBatchError) -> bytes:
        return error_response(error, self.server_state.default_headers)

    def _send_final_response(self) -> None:
        if not self.transport.is_closing():
            self.write(self._final_response)
            self._linger()

    def _linger(self) -> None:
        """Half-close, and discard what still comes until the client closes too."""
        self._discarding, self._receiving, self._final_response = True, False, b""
        self.pipeline.clear()  # what waits there could not be answered any more
        if not self.transport.is_closing():
            self.transport.write_eof()
            self.flow.resume_reading()
            self.loop.call_later(DRAIN_LINGER_S if self._registry.draining else LINGER_S, self.abort)

    def _close_if_idle(self) -> None:
        if self._awaited() != "nothing" and not self._unparsed_bytes:
            self.transport.close()


class _StopParsing(Exception):
    """Raised by a callback of the parser to make it stop where it is."""
