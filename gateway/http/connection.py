"""One client connection: bytes in, exchanges out, and an end to everything that is too much or takes too long.

Built on uvicorn's httptools protocol, which knows no limit to a head, no time for one to come, and stops reading at an
Upgrade. The invariant: memory held for a connection that hasn't sent a whole request is bounded by MAX_HEAD_BYTES, the
size of one read (256 KiB) and what the application has taken of the body; each request that has come whole is answered,
in order.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import Any

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
    head_bytes,
    may_be_skipped,
    response,
    serialize_response,
    target,
    too_large,
    without_upgrade,
)
from smartbatch.gateway.http.timeouts import HEAD_TIMEOUT_S, Awaited, ConnectionTimeouts
from smartbatch.gateway.services import GatewayServices
from smartbatch.shared.errors import HeadTimeout, MalformedRequest, SmartBatchError, TooManyConnections

log = logging.getLogger(__name__)

# How long what still comes is read and thrown away after an answer that was given early. Closing at once would make the
# kernel send a reset, and many clients then never see the answer.
LINGER_S = 5.0
DRAIN_LINGER_S = 0.25  # during a drain
# An idle connection is closed so long after the drain began: what the kernel holds already is read and answered first.
LAST_CALL_S = 0.05
# Requests that may wait on one connection for those before them. Each costs a hundred times its bytes.
MAX_PIPELINED = 64


class Connection(HttpToolsProtocol):
    """Made by uvicorn for each connection; looked after by the process's doorman. Event loop only."""

    # Declared more narrowly by uvicorn than they are used here.
    app: Any
    parser: Any
    cycle: Any  # the newest exchange, or None
    pipeline: deque[Any]

    def __init__(self, config, server_state, app_state, _loop=None) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._connection_registry: ConnectionRegistry = app_state["doorman"]
        self._gateway: GatewayServices | None = app_state.get("gateway")  # None: nothing is asked but the application
        self._running: AsgiRequestCycle | FastPathCycle | None = None  # the oldest without its answer
        self._receiving = False  # a request's head has come whole, and its body hasn't
        self._judged: AsgiRequestCycle | None = (
            None  # whether the rest of its body is worth reading if it is answered early
        )
        self._silent_bytes = 0  # read since the parser last had anything to say for them
        self._deaf = False  # what comes is thrown away
        self._parting = b""  # sent after the answers still owed, before closing
        self.url = b""
        self._timeouts = ConnectionTimeouts(time.monotonic())

    # --- asyncio's side

    def connection_made(self, transport) -> None:
        super().connection_made(transport)
        if self._gateway and self.server and self.server[1] == self._gateway.settings.management_port:
            self._gateway = None
        self.write = transport.write
        self.is_closing = transport.is_closing
        if not self._connection_registry.admit(self):
            self._deaf = True
            error = TooManyConnections("too many connections are open (MAX_CONNECTIONS)")
            self._connection_registry.refused(error)
            self.write(self._answer(error))
            if self._connection_registry.turn_away(self):
                self._linger()
            else:
                transport.close()

    def connection_lost(self, exc) -> None:
        self.connections.discard(self)
        self._connection_registry.release(self)
        for exchange in (self._running, self.cycle, *(queued for queued, _ in self.pipeline)):
            if exchange is not None:
                exchange.hang_up()
        self.pipeline.clear()
        self.flow.resume_writing()  # who waits to write learns that there is nobody any more
        if exc is None:
            self.transport.close()
        self.parser = None

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        self._silent_bytes += len(data)
        self._parse(data)
        newest = self.cycle
        if self._receiving and isinstance(newest, FastPathCycle):  # the rest comes later
            self._hand_on(newest)
        running = self._running
        if isinstance(running, FastPathCycle) and not running.started:
            self._begin(running)
        if self._deaf:
            return
        if self._silent_bytes > MAX_HEAD_BYTES:
            self._refuse(too_large(self.url))
        elif self._receiving and self._judged is not self.cycle:
            self._judged = exchange = self.cycle
            exchange.keep_alive = self._may_go_on() and may_be_skipped(exchange.scope)

    def _parse(self, data: bytes) -> None:
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                rest = data[upgrade.args[0] :]
                if self.parser.get_method() == b"CONNECT":
                    self._refuse(MalformedRequest("CONNECT is not supported: this server is not a proxy"))
                    return
                # A server may ignore Upgrade (RFC 9110, section 7.8), but the parser can't: it is shown the head again.
                data = without_upgrade(self.parser, self.url, self.headers) + rest
                continue
            except httptools.HttpParserError as error:
                self._unparsed(error)
            return

    # --- the parser's side

    def on_message_begin(self) -> None:
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._silent_bytes = self._silent_bytes or 1  # a head has begun, also if it came behind a whole request

    def on_headers_complete(self) -> None:
        parser = self.parser
        if parser.should_upgrade():
            return
        headers = self.headers
        if self._silent_bytes > MAX_HEAD_BYTES and head_bytes(self.url, headers) > MAX_HEAD_BYTES:
            raise too_large(self.url)
        if len(self.pipeline) >= MAX_PIPELINED:
            self.cycle.keep_alive = False
            self._deaf = True
            raise _Enough
        self._silent_bytes = 0
        version = parser.get_http_version()
        expects_100 = self.expect_100_continue and version == "1.1"
        head = Head(parser.get_method(), version, *target(self.url), headers, expects_100)
        check_head(head)
        self.headers = []  # trailers go there, not among the headers that the application reads meanwhile
        if self._gateway and fast_path.is_eligible(head):
            self.cycle = FastPathCycle(self, self._gateway, head)
        else:
            self.cycle = AsgiRequestCycle(self, head)
        self._receiving = True
        if self._running is not None:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))
        elif isinstance(self.cycle, FastPathCycle):
            self._running = self.cycle  # asked at the end of this read, or handed on
        else:
            self._begin(self.cycle)

    def on_chunk_header(self) -> None:
        self._silent_bytes = 0

    def on_body(self, body: bytes) -> None:
        self._silent_bytes = 0
        if not self.cycle.response_complete:
            self.cycle.received(body)

    def on_message_complete(self) -> None:
        if not self._receiving:
            return  # the head of an upgrade, which comes again
        self._receiving = False
        self._silent_bytes = 0
        exchange = self.cycle
        exchange.came_whole(keep_alive=self._may_go_on() and exchange.persists)

    # --- the exchanges' side

    def on_response_complete(self) -> None:
        """The running exchange has its answer. If it was the last one, `close` has been called before."""
        self.server_state.total_requests += 1
        self._running = None
        self._timeouts.renew(self._connection_registry.now)
        self._connection_registry.answered(self)
        if self.transport.is_closing():
            return
        if self.pipeline:
            exchange, _ = self.pipeline.pop()
            self._begin(exchange)
        elif self._parting:
            self._part()
        if not self.pipeline:
            self.flow.resume_reading()

    def close(self) -> None:
        """After the last answer, or in place of one."""
        if self._receiving or self._deaf:
            self._linger()  # the rest isn't read
        else:
            self.transport.close()

    def abort(self) -> None:
        self.transport.abort()

    def send(self, status: int, headers: Headers, content: bytes, *, keep_alive: bool) -> None:
        data = serialize_response(status, self.server_state.default_headers, headers, content, keep_alive=keep_alive)
        if not self.transport.is_closing():
            self.write(data)

    # --- the doorman's side, and uvicorn's

    @property
    def idle(self) -> bool:
        """No request is being answered, nor read by the application, and nothing waits to be sent."""
        return self._running is None and not self.transport.get_write_buffer_size()

    def look(self, now: float) -> None:
        """Close what has taken too long. Called once a second."""
        awaited, unsent = self._awaited(), self.transport.get_write_buffer_size()
        if not self._timeouts.over(awaited, unsent, now):
            return
        if unsent:
            self._connection_registry.count("write_timeout")
            self.abort()
        elif awaited == "head" and self._silent_bytes:
            self._refuse(HeadTimeout(f"the request head did not arrive within {HEAD_TIMEOUT_S:g} s"))
        else:
            self.transport.close()

    def _awaited(self) -> Awaited:
        if self._running is not None or self._deaf:
            return "nothing"  # it is the application's turn, or `_linger` sees to the end
        return "rest" if self._receiving else "head" if self.cycle is None or self._silent_bytes else "request"

    def shutdown(self) -> None:
        """SIGTERM came: the newest request is the last, and without one the connection ends after a last look."""
        self._connection_registry.drain()
        if self._running is None:
            self.loop.call_later(LAST_CALL_S, self._close_if_idle)
        else:
            self.cycle.keep_alive = False

    def end_half_sent(self, error: SmartBatchError) -> None:
        if self._deaf:
            if self._running is None:
                self.abort()  # it has its answer
        elif self._receiving or self._silent_bytes:
            self._refuse(error)

    def end(self, error: SmartBatchError) -> None:
        """Answer everything with an error."""
        if self._running is None or self.flow.write_paused:
            self.abort()
            return
        self._deaf = True
        self.cycle.keep_alive = False
        for exchange in (*(queued for queued, _ in self.pipeline), self._running):  # which may begin the next at once
            exchange.fail(error)

    # --- within

    def _may_go_on(self) -> bool:
        return not self._connection_registry.draining and self.parser.should_keep_alive()

    def _begin(self, exchange: AsgiRequestCycle | FastPathCycle) -> None:
        self._running = exchange
        if not isinstance(exchange, FastPathCycle):
            self._start_asgi_task(exchange, self.app)
        elif exchange.small and not self.flow.write_paused:  # else its answer would wait beside an earlier one
            exchange.ask()
        else:
            self._hand_on(exchange)

    def _hand_on(self, fast_path: FastPathCycle) -> None:
        """Make an exchange of what is not prompt after all."""
        exchange = AsgiRequestCycle(self, fast_path.head)
        exchange.keep_alive, exchange.more_body, exchange.fault = (
            fast_path.keep_alive,
            fast_path.more_body,
            fast_path.fault,
        )
        exchange.received(fast_path.body)
        if self.cycle is fast_path:
            self.cycle = exchange
        if self._running is fast_path:
            self._begin(exchange)
        else:
            self.pipeline[0] = (exchange, self.app)

    def _unparsed(self, error: httptools.HttpParserError) -> None:
        match error.__context__ if isinstance(error, httptools.HttpParserCallbackError) else None:
            case SmartBatchError() as found:
                self._refuse(found)
            case _Enough():
                pass
            case None:
                self._refuse(MalformedRequest(f"the request is not valid HTTP: {error}"))
            case ours:
                log.error("reading a request failed by an error of ours", exc_info=ours)
                self.abort()

    def _refuse(self, error: SmartBatchError) -> None:
        """Answer what came with an error, after the answers that are owed for what came before, and close."""
        self._deaf = True
        if self._receiving:  # a request, which is counted and logged as one
            self._connection_registry.count(error.code)
            self.cycle.keep_alive = False
            self.cycle.fail(error)
            return
        self._connection_registry.refused(error)
        self._parting = self._answer(error)
        if self._running is None:
            self._part()
        else:
            self.flow.pause_reading()

    def _answer(self, error: SmartBatchError) -> bytes:
        return response(error, self.server_state.default_headers)

    def _part(self) -> None:
        if not self.transport.is_closing():
            self.write(self._parting)
            self._linger()

    def _linger(self) -> None:
        """Half-close, and throw away what still comes until the client closes too."""
        self._deaf, self._receiving, self._parting = True, False, b""
        self.pipeline.clear()  # what waits there could not be answered any more
        if not self.transport.is_closing():
            self.transport.write_eof()
            self.flow.resume_reading()
            self.loop.call_later(DRAIN_LINGER_S if self._connection_registry.draining else LINGER_S, self.abort)

    def _close_if_idle(self) -> None:
        if self._awaited() != "nothing" and not self._silent_bytes:
            self.transport.close()


class _Enough(Exception):
    """Raised by a callback of the parser to make it stop where it is."""
