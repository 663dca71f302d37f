"""Run the load generator in a separate process, so that its caller's work does not delay it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Generator
from typing import Any, Literal

import msgspec

from loadtest.generator.counters import Event
from loadtest.system import ROOT, System
from loadtest.workload.bodies import Body

STOP_TIMEOUT_S = 10.0


class GeneratorFailed(RuntimeError):
    """The generator process ended early; the text is the end of its stderr."""


class Load(msgspec.Struct, frozen=True):
    """`closed`: `amount` users, each of whom sends again once it has its response. `open`: `amount` requests/s."""

    kind: Literal["closed", "open"]
    amount: float

    def __str__(self) -> str:
        return f"{self.amount:,g} users" if self.kind == "closed" else f"{self.amount:,.4g} req/s"


class LoadSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of the generator process.

    It warms up for `warm_s` without counting. A closed loop continues to warm up until it has as many responses as
    users, for at most `max_warm_s`. `references`: body name → expected result. A request without a response for
    `timeout_s` is an error.
    """

    port: int
    load: Load
    seconds: int
    bodies: list[Body]
    references: dict[str, Any]
    warm_s: float = 2.0
    max_warm_s: float = 60.0
    check_every: int = 20
    timeout_s: float = 120.0


def run_load(system: System, spec: LoadSpec, *, watch_batches: bool) -> Generator[Event]:
    """Start the generator process and yield its events, about one per second. Closing the iterator stops it.

    With `watch_batches` each event has `rows` and `batches`, run since the previous event, and `queue`, the requests
    waiting now.
    """
    with tempfile.TemporaryFile("w+") as stderr:
        generator = subprocess.Popen(
            [sys.executable, "-m", "loadtest.generator"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,  # only this process gets Ctrl-C; it then stops the generator
        )
        assert generator.stdin and generator.stdout
        try:
            before = system.batches() if watch_batches else None
            with contextlib.suppress(BrokenPipeError):  # the loop below then finds stdout closed
                generator.stdin.write(msgspec.json.encode(spec) + b"\n")
                generator.stdin.flush()
            event = ""
            for line in generator.stdout:
                ((event, counts),) = msgspec.json.decode(line).items()
                if before and event != "end":
                    try:
                        rows, batches, queue = system.batches()
                    except OSError:  # the gateway is too busy; the next event includes these batches
                        pass
                    else:
                        counts |= {"rows": rows - before[0], "batches": batches - before[1], "queue": queue}
                        before = rows, batches, queue
                yield event, counts
            if event != "end":
                stderr.seek(0)
                raise GeneratorFailed(stderr.read()[-2000:] or "the load generator ended early")
        finally:
            with contextlib.suppress(BrokenPipeError):
                generator.stdin.close()
            try:
                generator.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                generator.kill()
                generator.wait()
            generator.stdout.close()
