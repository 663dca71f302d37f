"""A user's model whose rows trigger the faults they name. Each row is a text; its output is the row itself."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import torch

from smartbatch.shared.errors import InvalidInput, ModelFailed
from smartbatch.shared.model_info import InputSpec

FOREVER_S = 3600
ROWS_THAT_FIT = int(os.environ.get("HOSTILE_ROWS_THAT_FIT", "1000000"))
FORWARD_S = float(os.environ.get("HOSTILE_FORWARD_MS", "0")) / 1000


def kill() -> NoReturn:
    """End this process as the kernel's OOM killer does."""
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(FOREVER_S)
    sys.exit()


def exit_if_exists(path: str) -> None:
    if Path(path).exists():
        os._exit(1)


class Hostile:
    """`good …` is good. `raise`, `refuse`, `raise in company`, `quit`, `exit`, `exit if <path>`, `segfault`, `kill`,
    `hang`, `hang in decode`, `hang in encode`, `exit in decode`, `lost device`, `short`, `nan` aren't.
    `slow to encode` only takes its time."""

    input = InputSpec(("raw",))

    def decode(self, payload: Any) -> list[str]:
        text = payload.content.data.decode()
        if text == "hang in decode":
            time.sleep(FOREVER_S)
        if text == "exit in decode":
            os._exit(1)
        return [text]

    def example(self) -> str:
        return "good"

    def collate(self, rows: list[str]) -> list[str]:
        return rows

    def forward(self, rows: list[str]) -> list[Any]:
        if len(rows) > ROWS_THAT_FIT:
            raise torch.OutOfMemoryError(f"CUDA out of memory. {len(rows)} rows are too many.")
        time.sleep(FORWARD_S)
        for row in rows:
            self._misbehave(row, len(rows))
        outputs: list[Any] = [float("nan") if row == "nan" else row for row in rows]
        return outputs[:-1] if "short" in rows else outputs

    def _misbehave(self, row: str, company: int) -> None:
        if row.startswith("exit if "):
            exit_if_exists(row.removeprefix("exit if "))
        match row:
            case "raise":
                raise ModelFailed("this row raises")
            case "refuse":
                raise InvalidInput("this row is not taken")
            case "raise in company" if company > 1:
                raise RuntimeError("this row runs alone or not at all")
            case "quit":
                sys.exit(3)
            case "exit":
                os._exit(1)
            case "segfault":
                ctypes.string_at(0)
            case "kill":
                kill()
            case "hang":
                time.sleep(FOREVER_S)
            case "lost device":
                raise RuntimeError("CUDA error: device-side assert triggered")

    def encode(self, row: Any) -> Any:
        if row == "hang in encode":
            time.sleep(FOREVER_S)
        if row == "slow to encode":
            time.sleep(1)
        return row
