"""Exit 0 while the worker of this container is ready and makes progress; for health checks and liveness probes.

It asks the worker's own /metrics. That a thread answers there proves little, so two values are read: the rows that
warm-up found to fit on the device (0 until the model is loaded), and when the worker last finished a batch or was
idle, which its event loop renews at each beat. Older than STALL_TIMEOUT means wedged. Redis plays no part: with Redis
down a worker is as healthy as ever, and restarting it would help nobody.
"""

import sys
import time
import urllib.request

from smartbatch.shared.settings import from_environment

CEILING = "smartbatch_memory_batch_limit_rows{"
PROGRESS = "smartbatch_worker_last_progress_timestamp_seconds{"


def main() -> str:
    """Return what is wrong, or nothing."""
    settings = from_environment()
    url = f"http://127.0.0.1:{settings.metrics_port}/metrics"
    with urllib.request.urlopen(url, timeout=4) as answer:
        lines = answer.read().decode().splitlines()
    values = {
        name: float(line.rpartition(" ")[2]) for name in (CEILING, PROGRESS) for line in lines if line.startswith(name)
    }
    if not values.get(CEILING):
        return "still loading"
    stalled_s = time.time() - values.get(PROGRESS, 0.0)
    return f"no progress for {stalled_s:.0f} s" if stalled_s > settings.stall_timeout else ""


if __name__ == "__main__":
    sys.exit(main() or 0)
