"""The process that sends: python -m loadtest.drive.generator ORDER.json

Prints a line of JSON each second: {"warm": …} until the load is what it will be, then {"begin": …} and {"second": …}
for what is counted, then {"end": …}. Ends early, in good order, when its standard input is closed.
"""

from __future__ import annotations

import asyncio
import gc
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import uvloop

from loadtest.drive.loops import Closed, Loop, Open
from loadtest.drive.order import Order
from loadtest.drive.tally import Tally

OPEN_FILES = 8192
LAST_ANSWERS_S = 2.0  # how long an open loop waits for what it has sent


async def run(order: Order) -> None:
    told_to_stop = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), told_to_stop.set)  # closed: readable
    loop: Loop = (Closed if order.load.kind == "closed" else Open)(order)
    begin = time.monotonic()
    loop.start()
    while not told_to_stop.is_set():
        await asyncio.sleep(1.0)
        warm_s = time.monotonic() - begin
        _say("warm", loop.tally.take(), in_flight=len(loop.waiting_since()))
        if warm_s >= order.warm_s and (loop.warm or warm_s >= order.warm_most_s):
            break
    gc.collect()
    gc.freeze()
    await _count(order, loop, told_to_stop)


async def _count(order: Order, loop: Loop, told_to_stop: asyncio.Event) -> None:
    loop.tally = Tally()
    begin, cpu_s = time.monotonic(), time.process_time()
    _say("begin", {"in_flight": len(loop.waiting_since())})
    for second in range(1, order.seconds + 1):
        await asyncio.sleep(max(0.0, begin + second - time.monotonic()))
        if told_to_stop.is_set():
            break
        loop.give_up()
        _say("second", loop.tally.take(), in_flight=len(loop.waiting_since()))
    left = set(loop.waiting_since())
    until = time.monotonic() + LAST_ANSWERS_S
    while order.load.kind == "open" and left and time.monotonic() < until:
        await asyncio.sleep(0.05)
        left &= set(loop.waiting_since())
    now = asyncio.get_running_loop().time()
    ages = Tally()
    for start in left:
        ages.answered(now - start)
    loop.stop()
    took_s, cpu_s = round(time.monotonic() - begin, 3), round(time.process_time() - cpu_s, 3)
    _say("end", {"took_s": took_s, "generator_cpu_s": cpu_s, "unanswered": ages.take()["latency"]})


def _say(event: str, counted: dict[str, Any], **more: Any) -> None:
    print(json.dumps({event: {**counted, **more}}), flush=True)


def _allow_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def main() -> None:
    _allow_open_files()
    uvloop.run(run(Order.read(Path(sys.argv[1]))))


if __name__ == "__main__":
    main()
