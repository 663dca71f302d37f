"""The types of response bodies, from which /openapi.json is generated."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

Number = int | float


class Problem(msgspec.Struct):
    """RFC 9457 problem details; `error` repeats `detail` for clients of the Open Inference Protocol."""

    type: str
    title: str
    status: Annotated[int, Meta(ge=400, le=599)]
    detail: str
    code: str
    error: str
    request_id: str | UnsetType = UNSET


# --- POST /predict


class ClassScore(msgspec.Struct, forbid_unknown_fields=True):
    """One class of a row, with its score. The probability is "NaN" where the logits are not finite."""

    label: str
    class_id: int
    probability: float | Literal["NaN"]


class OutputTensor(msgspec.Struct, forbid_unknown_fields=True):
    """A tensor of all rows. `data` is nested according to `shape`; NaN and infinities are the strings "NaN", "Infinity"
    and "-Infinity"."""

    dtype: str
    shape: tuple[int, ...]
    data: Any  # nested lists; bytes as MessagePack


class Batch(msgspec.Struct, forbid_unknown_fields=True):
    """The batch that contained the request. `position`: the request's position, from 1. `closed`: the close reason."""

    id: str
    rows: int
    requests: int
    position: int
    closed: str
    worker: str


class RowError(msgspec.Struct, forbid_unknown_fields=True):
    """Why one row has no result. `row` counts from 0."""

    row: int
    code: str
    detail: str


class PredictResponse(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One of `predictions` (per row, the best first), `outputs` and `values` (one per row) is present.

    With `partial`, `errors` lists the rows that failed. They are null in the results (0 in MessagePack's tensors).
    """

    model: str
    version: int
    request_id: str
    predictions: list[list[ClassScore] | None] | UnsetType = UNSET
    outputs: dict[str, OutputTensor] | UnsetType = UNSET
    values: list[Any] | UnsetType = UNSET
    errors: list[RowError] | UnsetType = UNSET
    batch: Batch | UnsetType = UNSET
    timing_ms: dict[str, Number]


# --- other endpoints


class Health(msgspec.Struct):
    status: Literal["ok"] = "ok"


class Readiness(msgspec.Struct):
    """`ready_workers`: the number of ready workers of each model."""

    ready: bool
    broker: Literal["up", "down"]
    ready_workers: dict[str, int]


class Queue(msgspec.Struct):
    waiting: int
    running: int
    open: int
    open_bytes: int
    oldest_wait_s: float
    dead_letters: int


class Batches(msgspec.Struct):
    """Batches of all live workers since they started. `rows_at_most`: by number of rows, as upper bounds. `closed`: by
    close reason."""

    rows_at_most: dict[str, int]
    closed: dict[str, int]


class PartitionStats(msgspec.Struct):
    """One partition of a model's queue. `workers`: ready ones that have joined it; one that helps out here also counts
    in its home partition. Without `reachable` its broker does not answer, and the numbers are 0."""

    waiting: int
    running: int
    oldest_wait_s: float
    workers: int
    reachable: bool


Report = dict[str, int | float | str]


class ModelStats(msgspec.Struct):
    """One model: its last `window_s` seconds and its current state. `errors`: requests without a result, by code.
    `partitions`: of a model with several, by number; `queue` and all else is of all together."""

    window_s: int
    throughput_rps: float
    latency_ms: dict[str, float | None]
    outcomes: dict[str, int]
    errors: dict[str, int]
    queue: Queue
    batches: Batches
    workers: dict[str, Report]
    gateways: dict[str, Report]
    partitions: dict[int, PartitionStats] | UnsetType = UNSET


class Stats(msgspec.Struct):
    broker: Literal["up", "down"]
    models: dict[str, ModelStats]
