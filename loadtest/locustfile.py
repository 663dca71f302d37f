"""Send load to a running server: locust -f loadtest/locustfile.py --host http://127.0.0.1:8000

docs/load-testing.md describes the options.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

import gevent
from locust import FastHttpUser, LoadTestShape, events
from locust.env import Environment
from locust.exception import StopTest
from locust.runners import MasterRunner, WorkerRunner

from loadtest.workload import bodies, verify
from loadtest.workload.bodies import Body
from loadtest.workload.reference import ReferenceFailed, reference_results
from loadtest.workload.shapes import SHAPES, users_at

MAX_PAUSE_S = 30.0  # longer times in Retry-After are cut to this
UNSUPPORTED = (413, 415, 422)  # the model does not accept such a body
WEIGHTS = {"photo": 6, "json": 1, "npy": 2, "msgpack": 1}

log = logging.getLogger(__name__)


# --- the user


def _task(kind: str) -> Callable[[SmartBatchUser], None]:
    def send(user: SmartBatchUser) -> None:
        user.send(kind)

    send.__name__ = kind
    return send


class SmartBatchUser(FastHttpUser):
    """Sends a body, waits for the response and checks it. `prepare` is called before the first user starts."""

    network_timeout = 120.0
    connection_timeout = 10.0
    tasks: ClassVar[list[Any]] = [_task(kind) for kind in (*WEIGHTS, "own")]
    references: ClassVar[dict[str, list[tuple[Body, Any]]]] = {}  # kind → bodies with their results
    path: ClassVar[str] = "/predict"
    sent_headers: ClassVar[dict[str, str]] = {}
    think_time_s: ClassVar[float] = 0.0
    checked: ClassVar[int] = 0

    @classmethod
    def prepare(cls, references: dict[str, list[tuple[Body, Any]]], weights: dict[str, int]) -> None:
        cls.references, cls.checked = references, 0
        cls.tasks = [_task(kind) for kind in references for _ in range(weights[kind])]

    def wait_time(self) -> float:
        return self.think_time_s

    def send(self, kind: str) -> None:
        body, expected = random.choice(self.references[kind])
        pause_s = 0.0
        with self.client.post(
            self.path,
            data=body.content,  # type: ignore[arg-type] # bytes are fine
            headers={"content-type": body.content_type, **self.sent_headers},
            name=body.name,
            catch_response=True,
        ) as response:
            retry_after = str((response.headers or {}).get("retry-after", ""))
            if response.status_code == 503 and retry_after:
                response.request_meta["name"] = f"{body.name}, rejected"
                response.success()
                pause_s = min(MAX_PAUSE_S, float(retry_after)) if retry_after.isdigit() else 1.0
            elif response.status_code != 200:
                response.failure(f"{response.status_code}: {response.text or getattr(response, 'error', '')}"[:200])
            elif mismatch := _mismatch(expected, response.content or b""):
                response.failure(mismatch)
            else:
                SmartBatchUser.checked += 1
                response.success()
        if pause_s:
            gevent.sleep(pause_s)


def _mismatch(expected: Any, content: Any) -> str:
    """Describe how a response differs from its reference; empty if it does not."""
    try:
        difference = verify.difference(expected, verify.result(content))
    except verify.Unreadable as error:
        return f"unreadable response: {error}"
    return "" if difference <= 1 else f"wrong response: differs from the reference by {difference:.3g} × the tolerance"


class Shape(LoadTestShape):
    """Runs the shape of the option `--shape`. Locust finds only this class, so its web page offers the option too."""

    use_common_options = True  # users, spawn rate and run time of the command line and the page

    def tick(self) -> tuple[int, float] | None:
        assert self.runner is not None
        options = self.runner.environment.parsed_options
        assert options is not None
        peak, rate = int(options.num_users or 1), float(options.spawn_rate or 1)
        return users_at(options.shape, self.get_run_time(), peak, rate, options.run_time or None)


# --- options


@events.init_command_line_parser.add_listener
def add_options(parser: Any) -> None:
    parser.set_defaults(host="http://127.0.0.1:8000")
    parser.add_argument("--shape", choices=list(SHAPES), default="steady", help="how the number of users changes")
    for kind, weight in WEIGHTS.items():
        parser.add_argument(f"--{kind}-weight", type=_weight, default=weight, help=f"how often {kind} is sent")
    parser.add_argument("--tensor-shape", default="3,224,224", help="of one row, for json, npy and msgpack")
    parser.add_argument("--tensor-dtype", default="float32", help="float32, float64, uint8 or int64")
    parser.add_argument("--body", default="", help="files of your own to send instead, separated by commas")
    parser.add_argument("--model", default="", help="the model to use (?model=), if the server has several")
    parser.add_argument("--think-time", type=float, default=0.0, help="seconds between a response and the next request")
    parser.add_argument(
        "--api-key",
        env_var="SMARTBATCH_API_KEY",
        default=os.environ.get("SMARTBATCH_API_KEY", ""),
        include_in_web_ui=False,
        help="better set by the variable: options are visible in the process list",
    )


def _weight(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"expected a whole number from 0, got {text!r}")
    return int(text)


def _chosen_bodies(options: argparse.Namespace) -> tuple[dict[str, list[Body]], dict[str, int]]:
    """Return bodies and weights by kind. Raises ValueError."""
    if options.body:
        return {"own": [bodies.from_file(Path(name.strip())) for name in options.body.split(",")]}, {"own": 1}
    try:
        shape = tuple(int(side) for side in options.tensor_shape.split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise ValueError(
            f"--tensor-shape: expected whole numbers separated by commas, like 3,224,224, got {options.tensor_shape!r}"
        )
    makers = {"json": bodies.json_tensors, "npy": bodies.npy_tensors, "msgpack": bodies.msgpack_tensors}
    weights = {kind: weight for kind in WEIGHTS if (weight := getattr(options, f"{kind}_weight"))}
    if not weights:
        raise ValueError("every weight is 0, so there is nothing to send")
    return {
        kind: bodies.photos() if kind == "photo" else makers[kind](shape, options.tensor_dtype) for kind in weights
    }, weights


# --- before and after the load


@events.test_start.add_listener
def fetch_references(environment: Environment, **_: Any) -> None:
    """Send each body alone to get its reference. If that fails, end the test with the reason."""
    runner, options = environment.runner, environment.parsed_options
    if runner is None or options is None or isinstance(runner, MasterRunner):
        return  # a master sends nothing itself
    user = SmartBatchUser
    user.path = "/predict" + (f"?model={quote(options.model)}" if options.model else "")
    user.sent_headers = {"x-api-key": options.api_key} if options.api_key else {}
    user.think_time_s = options.think_time
    host = (environment.host or options.host).rstrip("/")
    try:
        chosen, weights = _chosen_bodies(options)
        user.prepare(_references(f"{host}{user.path}", chosen, user.sent_headers), weights)
    except (ReferenceFailed, ValueError) as error:
        environment.process_exit_code = 2
        if isinstance(runner, WorkerRunner):
            log.error("%s", error)
            sys.exit(2)
        runner.log_exception("local", str(error), "")  # the web page shows it
        raise StopTest(str(error)) from None


def _references(url: str, chosen: dict[str, list[Body]], headers: dict[str, str]) -> dict[str, list[tuple[Body, Any]]]:
    """Return bodies with their results by kind, without the kinds that the model does not accept.

    Raises ReferenceFailed.
    """
    references = {}
    failure = ReferenceFailed("nothing was chosen")
    for kind, some in chosen.items():
        try:
            results = reference_results(url, some, headers)
        except ReferenceFailed as error:
            failure = error
            if error.status not in UNSUPPORTED:
                raise
            log.warning("%s is skipped: %s", kind, error)
            continue
        references[kind] = [(body, results[body.name]) for body in some]
        first, *others = results.values()
        if others and all(verify.difference(first, other) <= 1 for other in others):
            log.warning("every %s body has the same result, so swapped responses would not be noticed", kind)
    if not references:
        raise failure
    return references


@events.test_stop.add_listener
def log_summary(environment: Environment, **_: Any) -> None:
    if environment.runner is None or isinstance(environment.runner, MasterRunner):
        return
    rejected = sum(entry.num_requests for (name, _), entry in environment.stats.entries.items() if "rejected" in name)
    log.info(
        "responses checked and correct: %d; rejected with Retry-After: %d; failed: %d (%s)",
        *(SmartBatchUser.checked, rejected, environment.stats.total.num_failures),
        "this worker" if isinstance(environment.runner, WorkerRunner) else "in total",
    )
