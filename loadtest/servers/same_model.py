"""The product's model code for servers that are compared with it: they read the same bodies, run the same forward and
write the same responses."""

from __future__ import annotations

import time
from typing import Any

from smartbatch.gateway import formats
from smartbatch.gateway.formats import render
from smartbatch.gateway.formats.render import Format
from smartbatch.gateway.inference.predict import DEFAULT_TOP_K
from smartbatch.shared.settings import Settings
from smartbatch.shared.wire import Reply
from smartbatch.worker import models
from smartbatch.worker.models import LoadContext

OPTIONS = {"top_k": DEFAULT_TOP_K}


class SameModel:
    """Reads a worker's settings."""

    def __init__(self, settings: Settings, max_batch_size: int) -> None:
        """Load the model as a worker does, without compiling in the background. Raises SmartBatchError."""
        self.model = models.resolve(settings.model_path)
        self.model.load(LoadContext.of(settings, max_batch_size=max_batch_size))
        self.info = self.model.info(settings.model, settings.model_path, settings.max_batch_size)
        self._max_rows = settings.max_batch_size

    def rows(self, body: bytes, content_type: str) -> list[Any]:
        """Return the decoded rows of one request. Raises InvalidInput."""
        payload = formats.parse(body, content_type, self.info, max_rows=self._max_rows)
        payload.options = OPTIONS
        return self.model.decode(payload)

    def run(self, rows: list[Any]) -> list[Any]:
        """Run one batch. Returns the outputs of each row."""
        return self.model.separate(self.model.forward(self.model.collate(rows)), len(rows))

    def response(self, outputs: list[Any], started: float) -> bytes:
        """Return the response's JSON for the rows of one request, which began at `started` of time.monotonic."""
        reply = Reply(self.model.encode(outputs, OPTIONS))
        timing = {"total": round((time.monotonic() - started) * 1000, 3)}
        return render.render(Format.JSON, reply, model=self.info.name, request_id="", timing=timing)
