"""A client of POST /predict, for threads (`Client`) and for asyncio (`AsyncClient`). Needs the extra `client`.

Arrays travel as MessagePack: it took less time than .npy at every size measured, and holds several outputs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import sys
import threading
import time
from pathlib import Path
from typing import Any, TypedDict, Unpack

import httpx
import msgspec
import numpy as np

from smartbatch.prediction import Prediction, join
from smartbatch.shared import errors

__all__ = ["AsyncClient", "Client", "Options", "Prediction", "errors"]
log = logging.getLogger(__name__)
Data = np.ndarray | str | bytes | Path | list[Any] | dict[str, Any]
CONNECTIONS = 8  # that send parts of one `predict` at once
PART_BYTES = 8 * 1024 * 1024  # of input in one request: half of a gateway's default MAX_BODY_BYTES
JITTER = 0.5  # at most this share of Retry-After is added to it, so that refused clients don't come back together
BROKEN_S = (0.1, 0.5)  # pauses before a request without a connection is sent again; after them it is an error
_MSGPACK, _now = "application/msgpack", time.monotonic  # the event loop's clock, too
_BY_STATUS = {429: errors.LimitReached, 503: errors.Unavailable, 504: errors.DeadlineExceeded}  # of a proxy's errors


class Options(TypedDict, total=False):
    model: str  # m, or m@2 for its version 2; default: the client's, else the server's
    top_k: int  # classes per row of a classifier; 0: its outputs in place of classes
    partial: bool  # rows that fail don't fail the others; see Prediction.failed
    timeout: float  # seconds for everything, pauses included; default: the client's
    request_id: str  # sent as X-Request-Id
    traceparent: str  # default: the current span of OpenTelemetry, if there is one


class AsyncClient(contextlib.AbstractAsyncContextManager["AsyncClient"]):
    """For asyncio; close it, or use it in `async with`. The variable SMARTBATCH_API_KEY is the default of `api_key`;
    `timeout` is in seconds. The variables of httpx (SSL_CERT_FILE, HTTPS_PROXY) apply."""

    def __init__(
        self, url: str = "http://localhost:8000", *, api_key: str | None = None, model: str = "", timeout: float = 30.0
    ) -> None:
        key = os.environ.get("SMARTBATCH_API_KEY") if api_key is None else api_key
        self._headers = {"accept": _MSGPACK} | ({"authorization": f"Bearer {key}"} if key else {})
        self._url, self._model, self._timeout = f"{url.rstrip('/')}/predict", model, timeout
        self._http = httpx.AsyncClient(timeout=None)  # `predict` has one timeout for everything
        self._most_rows: dict[str, int] = {}  # of a request, by model; known once the server refused more

    async def predict(self, data: Data, **options: Unpack[Options]) -> Prediction:
        """Run the model on an array of shape (rows, …), a text or a list of texts, an image (bytes or Path) or a list
        of images, a list of rows that JSON can express, or a dict: the whole JSON body.

        More rows than the server takes are sent in parts. What it refuses for now (429, 503) is sent again after
        Retry-After, while the timeout lasts. Raises the error of the response's `code`, a SmartBatchError, with its
        `request_id`; errors.Unavailable without a connection, errors.DeadlineExceeded after the timeout."""
        model, until = options.get("model", self._model), _now() + options.get("timeout", self._timeout)
        ids = {"x-request-id": options.get("request_id"), "traceparent": options.get("traceparent")}
        headers = self._headers | {name: value for name, value in ids.items() if value}
        if "traceparent" not in headers and "opentelemetry.trace" in sys.modules:  # otherwise there is no current span
            from opentelemetry.propagate import inject

            inject(headers)
        partial = "true" if options.get("partial") else ""
        fields = (("model", model), ("top_k", options.get("top_k", "")), ("partial", partial))
        query = {name: str(value) for name, value in fields if value != ""}
        free = asyncio.Semaphore(CONNECTIONS)
        try:
            async with asyncio.timeout_at(until):
                while True:
                    parts = self._split(data, model)
                    tasks = [asyncio.create_task(self._send(part, query, headers, until, free)) for part in parts]
                    try:
                        return join(await asyncio.gather(*tasks))
                    except (errors.TooManyRows, errors.BodyTooLarge):
                        if not isinstance(data, np.ndarray | list) or len(parts[0]) < 2:
                            raise
                        self._most_rows[model] = (len(parts[0]) + 1) // 2
                    finally:
                        for task in tasks:
                            task.cancel()
        except TimeoutError:
            raise errors.DeadlineExceeded(f"no response from {self._url} within the timeout") from None

    def _split(self, data: Data, model: str) -> list[Any]:
        """Cut rows into parts that the server takes, as far as is known."""
        if not isinstance(data, np.ndarray | list) or len(data) < 2:
            return [data]
        size = data.nbytes if isinstance(data, np.ndarray) else sum(len(x) for x in data if isinstance(x, bytes))
        rows = max(1, min(self._most_rows.get(model, len(data)), PART_BYTES * len(data) // max(size, 1)))
        return [data[start : start + rows] for start in range(0, len(data), rows)]

    async def _send(self, part: Any, query: dict, headers: dict, until: float, free: asyncio.Semaphore) -> dict:
        broken = iter(BROKEN_S)
        async with free:
            media, body = _encode(part)
            while True:
                own = {"content-type": media, "x-request-timeout": f"{min(max(until - _now(), 0.001), 86400):.3f}"}
                try:
                    got = await self._http.post(self._url, content=body, params=query, headers=headers | own)
                    if got.status_code == 200 and got.headers.get("content-type") == _MSGPACK:
                        return msgspec.msgpack.decode(got.content)
                    error = _error(got)
                except httpx.TransportError as failure:
                    error = errors.Unavailable(f"no response from {self._url}: {failure}", next(broken, float("inf")))
                pause = getattr(error, "retry_after_s", float("inf")) * (1 + JITTER * random.random())
                if _now() + pause >= until:
                    raise error
                log.info("%s: %s; sending again in %.2f s", error.code, error, pause)
                await asyncio.sleep(pause)

    async def close(self) -> None:
        await self._http.aclose()

    async def __aexit__(self, *exception: object) -> None:
        await self.close()


class Client(contextlib.AbstractContextManager["Client"]):
    """For threads, which may share it. Arguments and `predict` are AsyncClient's; close it, or use it in `with`."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._client = AsyncClient(*args, **options)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._run, name="smartbatch client", daemon=True).start()

    def _run(self) -> None:
        self._loop.run_forever()
        self._loop.close()

    def predict(self, data: Data, **options: Unpack[Options]) -> Prediction:
        """As AsyncClient.predict."""
        return asyncio.run_coroutine_threadsafe(self._client.predict(data, **options), self._loop).result()

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._client.close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)

    def __exit__(self, *exception: object) -> None:
        self.close()


def _encode(data: Any) -> tuple[str, bytes]:
    if isinstance(data, np.ndarray):
        flat = np.ascontiguousarray(data, data.dtype.newbyteorder("<")).reshape(-1).view(np.uint8)
        return _MSGPACK, msgspec.msgpack.encode({"data": flat.data, "shape": data.shape, "dtype": data.dtype.name})
    if isinstance(data, list) and data and isinstance(data[0], bytes | Path):
        return _MSGPACK, msgspec.msgpack.encode({"image": [_encode(image)[1] for image in data]})
    if isinstance(data, bytes | Path):  # the server looks at its first bytes
        return "application/octet-stream", data if isinstance(data, bytes) else data.read_bytes()
    if isinstance(data, str):
        return "text/plain; charset=utf-8", data.encode()
    return "application/json", msgspec.json.encode(data if isinstance(data, dict) else {"data": data})


def _error(response: httpx.Response) -> errors.SmartBatchError:
    status, retry_after = response.status_code, response.headers.get("retry-after", "")
    problem = {"code": "", "detail": f"{status} {response.reason_phrase}: {response.text[:200]}", "request_id": ""}
    with contextlib.suppress(ValueError, TypeError):
        problem |= response.json()
    other = _BY_STATUS.get(status, errors.ClientError if status < 500 else errors.SmartBatchError)
    error = (errors.by_code().get(problem["code"]) or other)(problem["detail"])
    error.code, error.request_id = problem["code"] or error.code, problem["request_id"]
    if isinstance(error, errors.Unavailable | errors.LimitReached):
        error.retry_after_s = float(retry_after) if retry_after.isdigit() else 1.0
    return error
