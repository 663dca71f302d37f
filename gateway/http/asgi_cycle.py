"""One request and its response on a connection, as an ASGI application sees it."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from smartbatch.gateway.core.problems import problem
from smartbatch.gateway.http.heads import Head, may_be_skipped

log = logging.getLogger(__name__)


class AsgiRequestCycle(RequestResponseCycle):
    """uvicorn's, and it can fail: then the application's `receive` raises, so that the application renders the error.

    `keep_alive` is False until the body is complete. A response sent earlier therefore says `Connection: close`, and
    the rest of the request isn't awaited.
    """

    started = False
    error: Exception | None = None
    _keep_alive_decided = False

    def __init__(self, connection: Any, head: Head) -> None:
        """`connection` is a Connection, in the place of a transport: write, close and is_closing are used."""
        super().__init__(
            scope=_scope(connection, head),
            transport=connection,
            flow=connection.flow,
            logger=connection.logger,
            access_logger=connection.access_logger,
            access_log=False,
            default_headers=connection.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=head.expects_100,
            keep_alive=False,
            on_response=connection.on_response_complete,
        )
        self._chunks: list[bytes] = []  # of the body, not received by the application yet; `body` is unused
        self._chunk_bytes = 0

    # --- called by the connection

    @property
    def persistent(self) -> bool:
        """Whether the HTTP version allows for another request on the connection."""
        return self.scope["http_version"] == "1.1"

    def receive_body(self, chunk: bytes) -> None:
        self._chunks.append(chunk)
        self._chunk_bytes += len(chunk)
        if self._chunk_bytes > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        self.message_event.set()

    def body_complete(self, *, keep_alive: bool) -> None:
        self.more_body = False
        self.keep_alive = keep_alive
        self.message_event.set()

    def body_incomplete(self, *, keep_alive: bool) -> None:
        """The read has ended, and more of the body is to come. The first time, decide whether the rest is worth reading
        if the response is sent early."""
        if not self._keep_alive_decided:
            self._keep_alive_decided = True
            self.keep_alive = keep_alive and may_be_skipped(self.scope)

    def fail(self, error: Exception) -> None:
        """Have `receive` raise `error` from now on: the rest of the request won't come, or is refused."""
        self.error = error
        self.message_event.set()

    def disconnect(self) -> None:
        if not self.response_complete:
            self.disconnected = True
        self.message_event.set()

    def start(self) -> None:
        self.started = True
        self.transport.run_in_task(self)  # type: ignore[attr-defined] # it is a Connection

    # --- called by the application

    async def receive(self) -> Any:
        if self.waiting_for_100_continue and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.waiting_for_100_continue = False
        if not (self.disconnected or self.response_complete or self.error):
            self.flow.resume_reading()
            await self.message_event.wait()
            self.message_event.clear()
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        if self.error is not None:
            raise self.error
        body = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks, self._chunk_bytes = [], 0
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    async def run_asgi(self, app) -> None:
        try:
            await app(self.scope, self.receive, self.send)
        except asyncio.CancelledError:
            self.transport.close()  # only at the end of a shutdown: a second signal came, or the time is up
            raise
        except Exception as error:
            log.exception("a request failed with an unexpected error")
            await self._send_error(error)
        else:
            if not (self.response_complete or self.disconnected):
                log.error("a request to %s ended without a response", self.scope["path"])
                await self._send_error(RuntimeError("no response"))
        finally:
            self.on_response = _ignore

    async def _send_error(self, error: Exception) -> None:
        if self.response_started:
            if not self.response_complete:
                self.transport.close()
            return
        status, texts, content = problem(error, None)
        headers = [(name.encode(), value.encode()) for name, value in texts.items()]
        headers += [(b"content-length", b"%d" % len(content)), (b"connection", b"close")]
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": content, "more_body": False})


def _scope(connection: Any, head: Head) -> Any:
    return {
        "type": "http",
        "asgi": {"version": connection.asgi_version, "spec_version": "2.3"},
        "http_version": head.version,
        "server": connection.server,
        "client": connection.client,
        "scheme": connection.scheme,
        "root_path": connection.root_path,
        "method": head.method.decode("ascii"),
        "path": head.path,
        "raw_path": head.raw_path,
        "query_string": head.query,
        "headers": head.headers,
        "state": connection.app_state.copy(),
    }


def _ignore() -> None:
    pass
