"""A load from several processes at once, for machines whose servers answer more than one generator process can send.

python -m loadtest.generator.split   reads a Part as msgpack, and writes its trace's lines
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

import msgspec

from loadtest.generator.loops import ClosedLoop, OpenLoop
from loadtest.generator.trace import LAST_RESPONSES_S, Line, Trace
from loadtest.system import ROOT

MOST = max(1, (os.cpu_count() or 1) // 4)  # processes: the servers need the other cores
CONNECTIONS_EACH = 64  # a load of fewer isn't split
START_S = 1.5  # until all processes have started


class Part(msgspec.Struct):
    """What one process sends: at each of `starts`, or in a closed loop for `seconds`. All begin at `begin_at`."""

    port: int
    request: bytes
    connections: int
    starts: list[float] | None
    seconds: float
    begin_at: float = 0.0  # of time.time()


def run_split(part: Part) -> list[Line]:
    """Run a load in one or more processes. Returns the requests that ended, in no order."""
    count = max(1, min(MOST, part.connections // CONNECTIONS_EACH))
    if count == 1:
        return _run(part)
    begin_at = time.time() + START_S
    parts = [
        msgspec.structs.replace(
            part,
            connections=part.connections // count + (number < part.connections % count),
            starts=None if part.starts is None else part.starts[number::count],
            begin_at=begin_at,
        )
        for number in range(count)
    ]
    command = [sys.executable, "-m", "loadtest.generator.split"]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe) for _ in parts]
    for process, each in zip(processes, parts, strict=True):
        assert process.stdin
        process.stdin.write(msgspec.msgpack.encode(each))
        process.stdin.close()
    lines: list[Line] = []
    for process in processes:
        assert process.stdout
        with process.stdout as output:
            written = output.read()
        if process.wait():
            raise RuntimeError("a generator process failed")  # it has printed why
        lines += msgspec.msgpack.decode(written, type=list[Line])
    return lines


def _run(part: Part) -> list[Line]:
    trace = Trace()
    if part.starts is None:
        loop, until = ClosedLoop(part.port, [part.request], trace, part.connections), part.seconds
    else:
        loop = OpenLoop(part.port, [part.request], trace, iter(part.starts), part.connections)
        until = (part.starts[-1] if part.starts else 0.0) + LAST_RESPONSES_S
    try:
        loop.run(until)
    finally:
        loop.close()
    return trace.lines


def main() -> None:
    part = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Part)
    time.sleep(max(0.0, part.begin_at - time.time()))
    sys.stdout.buffer.write(msgspec.msgpack.encode(_run(part)))


if __name__ == "__main__":
    main()
