"""When a batch closes. Pure: no I/O, no clock, no torch; the worker and the simulator ask the same code.

The window runs from the *oldest entry's admission*, so what already waited behind a running batch is not made to
wait again, and a backlog that fills the batch is never delayed. (As Triton's dynamic batcher has it.)
"""

from __future__ import annotations

from typing import Literal

import msgspec

CloseReason = Literal["full", "bytes", "window", "idle", "deadline", "drain", "isolated"]
"""Why a batch was closed. `quiet`: nobody else was expected (`arrivals.py`). `solo`: an entry of a dead worker, run
alone; the policy never says it."""

DEADLINE_MARGIN_S = 0.025  # what comes before admission, the reply and the HTTP response, on a loaded machine


class Limits(msgspec.Struct, frozen=True):
    max_rows: int
    max_bytes: int
    window_s: float
    adaptive: bool = True  # the window ends once nobody else is expected


class BatchState(msgspec.Struct, frozen=True):
    """What a batch holds so far. Times are on the asker's clock, in seconds."""

    rows: int
    bytes: int
    oldest_at: float  # the oldest entry's admission
    deadline_at: float  # the earliest deadline of any entry
    next_too_large: bool = False  # the next entry waiting has more rows than there is room for


class Decision(msgspec.Struct, frozen=True):
    """Close now for `reason`, or, without one, wait for more entries until `until` at the latest."""

    reason: CloseReason | None
    until: float


def decide(
    fill: BatchState, limits: Limits, now: float, run_s: float, *, idle_at: float = float("inf"), draining: bool = False
) -> Decision:
    """Say whether the batch closes now. `run_s`: how long a batch of these rows takes, from now to its replies.
    `quiet_at`: when nobody else will be expected any more.

    A batch without rows never closes: there is nothing to run.
    """
    if fill.rows == 0:
        return Decision(None, float("inf"))
    if fill.rows >= limits.max_rows or fill.next_too_large:
        return Decision("full", now)
    if fill.bytes >= limits.max_bytes:
        return Decision("bytes", now)
    if draining:
        return Decision("drain", now)
    window_end = fill.oldest_at + limits.window_s
    latest_start = fill.deadline_at - run_s - DEADLINE_MARGIN_S
    until = min(window_end, latest_start, idle_at)
    if now < until:
        return Decision(None, until)
    if latest_start < min(window_end, idle_at):
        return Decision("deadline", now)
    return Decision("window" if window_end <= idle_at else "idle", now)
