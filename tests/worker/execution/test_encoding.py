"""The replies of a batch: results, errors, and entries without a reply."""

from __future__ import annotations

import time
from typing import Any, cast

from smartbatch.shared.broker.queue.claims import Entry
from smartbatch.shared.errors import InvalidInput, ModelFailed
from smartbatch.shared.wire import Result, unpack_reply
from smartbatch.worker.core.batch import Batch, ClaimedEntry
from smartbatch.worker.execution.encoding import ReplyEncoder
from smartbatch.worker.observability.model_error_log import ModelErrorLog


class Encoder:
    """Stands for a model whose outputs are results already."""

    def encode(self, outputs: list[Any], options: dict[str, Any]) -> Any:
        return Result(values=outputs)


def _claimed(number: int) -> ClaimedEntry:
    return ClaimedEntry(
        Entry(f"{number}-0", f"r{number}", "g", 1000, 10_000, 1, 1, "raw", "", b"x"), 1000, time.monotonic()
    )


def test_text_that_is_not_utf8_costs_no_reply() -> None:
    quotes, surrogate, fine = claimed_entries = [_claimed(n) for n in range(3)]
    quotes.error = InvalidInput("unknown label '\ud800'")
    surrogate.outputs = [{"label": "\ud800"}]
    fine.error = InvalidInput("unknown label 'é'")
    maker = ReplyEncoder(cast(Any, Encoder()), "w", ModelErrorLog())
    outcomes, counts = maker.encode(Batch("b", claimed_entries, "full"))
    assert [outcome.entry for outcome in outcomes] == [claimed.entry for claimed in claimed_entries]
    errors = [unpack_reply(outcome.reply).error for outcome in outcomes]
    assert [type(error) for error in errors] == [InvalidInput, ModelFailed, InvalidInput]
    assert str(errors[0]) == r"unknown label '\ud800'"
    assert str(errors[2]) == "unknown label 'é'"
    assert counts == {"invalid": 2, "error": 1}


def test_an_output_that_is_no_result_is_the_models_failure() -> None:
    class Careless(Encoder):
        def encode(self, outputs: list[Any], options: dict[str, Any]) -> Any:
            return {"label": 1}

    claimed = _claimed(1)
    claimed.outputs = [1]
    (outcome,), _ = ReplyEncoder(cast(Any, Careless()), "w", ModelErrorLog()).encode(Batch("b", [claimed], "full"))
    assert isinstance(unpack_reply(outcome.reply).error, ModelFailed)


def test_positions_count_entries_with_a_result() -> None:
    claimed_entries = [_claimed(n) for n in range(4)]
    claimed_entries[0].error = InvalidInput("no")
    claimed_entries[2].cancelled = True
    for claimed in claimed_entries[1:]:
        claimed.outputs = [{"fine": True}]
    outcomes, counts = ReplyEncoder(cast(Any, Encoder()), "w", ModelErrorLog()).encode(
        Batch("b", claimed_entries, "full")
    )
    infos = [unpack_reply(outcome.reply).batch for outcome in outcomes]
    assert [info and info.position for info in infos] == [0, 1, 2]
    assert counts == {"invalid": 1, "ok": 2, "cancelled": 1}
