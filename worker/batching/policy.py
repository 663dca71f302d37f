"""When a batch closes. Pure: no I/O, no clock, no torch; the worker and the simulator run the same code.

The window starts at the *oldest entry's admission*, as in Triton's dynamic batcher. An entry that already waited behind
a running batch does not wait again, and a backlog that fills the batch is never delayed.
"""

from __future__ import annotations

import msgspec

from smartbatch.worker.core.batch import BatchState, CloseReason, Limits

__all__ = ["BatchState", "CloseReason", "Decision", "Limits", "decide"]

DEADLINE_MARGIN_S = 0.025  # covers parsing before admission, the reply and the HTTP response, on a loaded machine


class Decision(msgspec.Struct, frozen=True):
    """Close now for `reason`; without a reason, wait for more entries until `until` at the latest."""

    reason: CloseReason | None
    until: float


def decide(
    state: BatchState,
    limits: Limits,
    now: float,
    run_s: float,
    *,
    idle_at: float = float("inf"),
    draining: bool = False,
) -> Decision:
    """Decide whether the batch closes now. A batch without rows never closes.

    `run_s`: seconds from the close of a batch of these rows to its replies. `idle_at`: when no other arrival will be
    likely any more.
    """
    if state.rows == 0:
        return Decision(None, float("inf"))
    if state.rows >= limits.max_rows or state.next_too_large:
        return Decision("full", now)
    if state.bytes >= limits.max_bytes:
        return Decision("bytes", now)
    if draining:
        return Decision("drain", now)
    window_end = state.oldest_at + limits.window_s
    latest_start = state.deadline_at - run_s - DEADLINE_MARGIN_S
    until = min(window_end, latest_start, idle_at)
    if now < until:
        return Decision(None, until)
    if latest_start < min(window_end, idle_at):
        return Decision("deadline", now)
    return Decision("window" if window_end <= idle_at else "idle", now)
