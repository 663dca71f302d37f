"""A process that runs batches on a shared device, for test_device_share.py.

    python -m tests.worker.execution.share_worker FILE MODEL BATCH_S [WITH_SAME_MODEL]

At the start and the end of each batch it prints how many have ended, the seconds that it waited, and how many turns of
others it did not wait for.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from smartbatch.worker.execution.device_share import DeviceShare


def main() -> None:
    path, model, batch_s, *same = sys.argv[1:]
    share = DeviceShare(Path(path), model, with_same_model=bool(same))
    paused = 0

    def count() -> None:
        nonlocal paused
        paused += 1

    share.on_paused = count
    batches = 0
    while True:
        waited_s = share.begin()
        print(batches, f"{waited_s:.6f}", paused, "begins", flush=True)
        time.sleep(float(batch_s))
        share.end()
        batches += 1
        print(batches, f"{waited_s:.6f}", paused, "ends", flush=True)


if __name__ == "__main__":
    main()
