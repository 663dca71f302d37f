"""One request and its response on a connection, as ASGI sees it."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from smartbatch.gateway.core.problems import problem
from smartbatch.gateway.http.heads import Head

log = logging.getLogger(__name__)


class AsgiRequestCycle(RequestResponseCycle):
    """uvicorn's, and it can fail: then the application's `receive` raises, so that it is the application that answers.

    `keep_alive` is False until the request has come whole. An answer given earlier therefore says `Connection: close`,
    and what still comes of the request isn't waited for.
    """

    fault: Exception | None = None

    def __init__(self, connection: Any, head: Head) -> None:
        """`connection` is a Connection: of a transport, its write, close and is_closing are all that is needed."""
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
        self._pieces: list[bytes] = []  # of the body, not yet taken by the application; `body` is unused
        self._came = 0  # bytes of them

    @property
    def persists(self) -> bool:
        """Whether its version of HTTP lets another request follow."""
        return self.scope["http_version"] == "1.1"

    def received(self, body: bytes) -> None:
        self._pieces.append(body)
        self._came += len(body)
        if self._came > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        self.message_event.set()

    def came_whole(self, *, keep_alive: bool) -> None:
        self.more_body = False
        self.keep_alive = keep_alive
        self.message_event.set()

    def fail(self, error: Exception) -> None:
        """Have `receive` raise `error` from now on: the rest of the request won't come, or isn't wanted any more."""
        self.fault = error
        self.message_event.set()

    def hang_up(self) -> None:
        """The client has gone."""
        if not self.response_complete:
            self.disconnected = True
        self.message_event.set()

    async def receive(self) -> Any:
        if self.waiting_for_100_continue and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.waiting_for_100_continue = False
        if not (self.disconnected or self.response_complete or self.fault):
            self.flow.resume_reading()
            await self.message_event.wait()
            self.message_event.clear()
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        if self.fault is not None:
            raise self.fault
        body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces, self._came = [], 0
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    async def run_asgi(self, app) -> None:
        try:
            await app(self.scope, self.receive, self.send)
        except asyncio.CancelledError:
            self.transport.close()  # at the very end only: the process was told to leave twice, or has no time left
            raise
        except Exception as error:
            log.exception("a request failed by an error of ours")
            await self._answer_with(error)
        else:
            if not (self.response_complete or self.disconnected):
                log.error("a request to %s ended without an answer", self.scope["path"])
                await self._answer_with(RuntimeError("no answer"))
        finally:
            self.on_response = _nothing

    async def _answer_with(self, error: Exception) -> None:
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


def _nothing() -> None:
    pass
