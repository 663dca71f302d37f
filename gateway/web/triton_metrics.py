"""TRITON_METRICS=on: the same counts under the names that dashboards and autoscalers made for Triton know.

https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/metrics.html. They are made of
what this gateway counts, at the scrape. So each gateway looks like a Triton server of its own: sums over gateways are
right, and nothing jumps when a worker leaves. Only what waits is one number for all, as Redis holds it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

import msgspec
from prometheus_client.core import Metric as Family

from smartbatch.gateway.oip import VERSION
from smartbatch.shared import errors
from smartbatch.shared.broker.admin.registry import Snapshot, number
from smartbatch.shared.errors import codes_of
from smartbatch.shared.telemetry import metric_names as names

Sums = Mapping[tuple[str, str], float]  # (sample, its second label) → value, of one model

_US = 1_000_000
# By the codes of errors alone: a difference of counts that settle at different times would fall now and then.
_CODES = {
    "REJECTED": codes_of(errors.Unavailable) | codes_of(errors.LimitReached) | {errors.DeadlineExceeded.code},
    "CANCELED": {errors.ClientGone.code, errors.CancelledByOperator.code},
    "BACKEND": {errors.ModelFailed.code, errors.DeadLettered.code},
}
_DENIED = {errors.Unauthenticated.code, errors.Forbidden.code}
_CODES["OTHER"] = set(names.REQUEST_ERRORS.values) - _DENIED.union(*_CODES.values())
_OUTCOME = names.REQUESTS.name
_PART = f"{names.PART_SECONDS.name}_sum"


class Alias(msgspec.Struct, frozen=True):
    """One of Triton's metrics, with its own help text, and what it is here."""

    name: str
    help: str
    here: str
    value: Callable[[Sums], float]


def _failures(sums: Sums, reason: str) -> float:
    return sum(sums[names.REQUEST_ERRORS.name, code] for code in _CODES[reason])


def _parts(*parts: str) -> Callable[[Sums], float]:
    return lambda sums: sum(sums[_PART, part] for part in parts) * _US


ALIASES = (
    Alias(
        "nv_inference_request_success",
        "Number of successful inference requests, all batch sizes",
        "requests with the outcome `ok`",
        lambda sums: sums[_OUTCOME, "ok"],
    ),
    Alias(
        "nv_inference_count",
        "Number of inferences performed (does not include cached requests)",
        "`smartbatch_answered_rows_total`",
        lambda sums: sums[names.ANSWERED_ROWS.name, ""],
    ),
    Alias(
        "nv_inference_exec_count",
        "Number of model executions performed (does not include cached requests)",
        "`smartbatch_answered_batches_total`",
        lambda sums: sums[names.ANSWERED_BATCHES.name, ""],
    ),
    Alias(
        "nv_inference_request_duration_us",
        "Cumulative inference request duration in microseconds (includes cached requests)",
        "from arrival to answer, of requests with the outcome `ok`",
        lambda sums: sums[f"{names.REQUEST_SECONDS.name}_sum", "ok"] * _US,
    ),
    Alias(
        "nv_inference_queue_duration_us",
        "Cumulative inference queuing duration in microseconds (includes cached requests)",
        "the parts `queue` and `batch_wait`",
        _parts("queue", "batch_wait"),
    ),
    Alias(
        "nv_inference_compute_input_duration_us",
        "Cumulative compute input duration in microseconds (does not include cached requests)",
        "the part `decode`",
        _parts("decode"),
    ),
    Alias(
        "nv_inference_compute_infer_duration_us",
        "Cumulative compute inference duration in microseconds (does not include cached requests)",
        "the part `forward`, whole for each request that shared it, as in Triton",
        _parts("forward"),
    ),
    Alias(
        "nv_inference_compute_output_duration_us",
        "Cumulative inference compute output duration in microseconds (does not include cached requests)",
        "0: making the outputs isn't timed by itself",
        lambda sums: 0,
    ),
)
FAILURE = Alias(
    "nv_inference_request_failure",
    "Number of failed inference requests, all batch sizes",
    "by `reason`: REJECTED is the outcomes `rejected` and `timeout`, CANCELED `cancelled`, BACKEND what the model "
    "failed on (`model_failed`, `dead_lettered`), OTHER `invalid` and any other `error`; `denied` is none",
    lambda sums: sum(_failures(sums, reason) for reason in _CODES),
)
PENDING = "nv_inference_pending_request_count"
PENDING_HELP = "Instantaneous number of pending requests awaiting execution per-model."


def aliases(own: Iterable[Family], snapshots: Iterable[Snapshot]) -> bytes:
    """Return the text of all aliases. `own`: what this gateway counts. By hand, since prometheus_client insists on
    `_total` at the end of a counter's name."""
    by_model = _by_models(own)
    lines: list[str] = []
    for alias in ALIASES:
        lines += _head(alias.name, alias.help, "counter")
        lines += [_line(alias.name, model, alias.value(sums)) for model, sums in by_model.items()]
    lines += _head(FAILURE.name, FAILURE.help, "counter")
    for model, sums in by_model.items():
        lines += [_line(FAILURE.name, model, _failures(sums, reason), f',reason="{reason}"') for reason in _CODES]
    lines += _head(PENDING, PENDING_HELP, "gauge")
    lines += [_line(PENDING, snapshot.model, _pending(snapshot)) for snapshot in snapshots]
    return "".join(lines).encode()


def _by_models(own: Iterable[Family]) -> Mapping[str, Sums]:
    found: dict[str, defaultdict[tuple[str, str], float]] = {}
    for family in own:
        for name, labels, value, *_ in family.samples:
            if "model" in labels and "le" not in labels:
                second = next((text for label, text in labels.items() if label != "model"), "")
                found.setdefault(labels["model"], defaultdict(float))[name, second] += value
    return found


def _pending(snapshot: Snapshot) -> int:
    """Waiting, or claimed and not yet on the device."""
    on_device = sum(int(number(report.get("batch_requests"))) for report in snapshot.workers.values())
    return snapshot.waiting + max(0, snapshot.running - on_device)


def _head(name: str, text: str, kind: str) -> list[str]:
    return [f"# HELP {name} {text}\n", f"# TYPE {name} {kind}\n"]


def _line(name: str, model: str, value: float, more: str = "") -> str:
    """A model's name holds nothing that needs escaping."""
    return f'{name}{{model="{model}",version="{VERSION}"{more}}} {round(value)}\n'
