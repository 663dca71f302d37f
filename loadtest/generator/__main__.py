"""The generator process, started by `run_load`. Reads a LoadSpec as a line of JSON and writes events as lines of JSON.

One event per second: {"warm": …} during warm-up, then {"begin": …}, {"second": …} while measuring, {"end": …}.
Closing its stdin stops it early.
"""

from __future__ import annotations

import gc
import json
import select
import sys
import time
from collections import Counter
from typing import Any

import msgspec

from loadtest.generator.connection import request_bytes
from loadtest.generator.counters import Counters
from loadtest.generator.histogram import bucket
from loadtest.generator.loops import ClosedLoop, LoadLoop, OpenLoop, poisson, raise_open_files_limit
from loadtest.generator.process import LoadSpec

MAX_CONNECTIONS = 2048  # of an open loop; further requests wait for a free one
LAST_RESPONSES_S = 2.0  # how long an open loop waits at the end for outstanding responses


def main() -> None:
    raise_open_files_limit()
    spec = msgspec.json.decode(sys.stdin.buffer.readline(), type=LoadSpec)
    counters = Counters([spec.references.get(body.name) for body in spec.bodies], spec.check_every)
    requests = [request_bytes(spec.port, body.content, content_type=body.content_type) for body in spec.bodies]
    loop: LoadLoop
    if spec.load.kind == "closed":
        loop = ClosedLoop(spec.port, requests, counters, int(spec.load.amount))
    else:
        loop = OpenLoop(spec.port, requests, counters, poisson(spec.load.amount), MAX_CONNECTIONS)
    _warm_up(spec, loop, counters)
    gc.collect()
    gc.freeze()
    _measure(spec, loop, counters)


def _warm_up(spec: LoadSpec, loop: LoadLoop, counters: Counters) -> None:
    ended = 0
    users = spec.load.amount if spec.load.kind == "closed" else 0
    while not _stop_requested():
        loop.run(loop.now() + 1.0)
        counts = counters.read_and_reset()
        ended += counts["ok"] + counts["rejected"] + sum(counts["errors"].values())
        _emit("warm", counts, loop)
        if loop.now() >= spec.warm_s and (ended >= users or loop.now() >= spec.max_warm_s):
            break


def _measure(spec: LoadSpec, loop: LoadLoop, counters: Counters) -> None:
    begin, cpu_s = loop.now(), time.process_time()
    _emit("begin", {}, loop)
    for second in range(1, spec.seconds + 1):
        loop.run(begin + second)
        if _stop_requested():
            break
        loop.expire(spec.timeout_s)
        _emit("second", counters.read_and_reset(), loop)
    unfinished = set(loop.in_flight())
    until = loop.now() + LAST_RESPONSES_S
    while spec.load.kind == "open" and unfinished and loop.now() < until:
        loop.run(loop.now() + 0.05)
        unfinished &= set(loop.in_flight())
    now = loop.now()
    ages = Counter(bucket((now - start) * 1000) for start in unfinished)
    elapsed_s, cpu_s = round(now - begin, 3), round(time.process_time() - cpu_s, 3)
    loop.close()
    _emit("end", {"elapsed_s": elapsed_s, "generator_cpu_s": cpu_s, "unfinished": dict(ages)})


def _stop_requested() -> bool:
    return bool(select.select([sys.stdin], [], [], 0)[0])


def _emit(event: str, counts: dict[str, Any], loop: LoadLoop | None = None) -> None:
    in_flight = {"in_flight": len(loop.in_flight())} if loop else {}
    print(json.dumps({event: {**counts, **in_flight}}), flush=True)


if __name__ == "__main__":
    main()
