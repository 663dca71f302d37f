"""Exit 0 while the worker of this container is ready and makes progress; for health checks and liveness probes.

It reads two metrics of the worker: the number of rows that fit the device (0 until the model is loaded), and the time
at which the worker last finished a batch or was idle, which each heartbeat renews. If that is older than STALL_TIMEOUT,
the worker is stuck. Redis is not checked: restarting a worker does not help when Redis is down.
"""

import sys
import time
import urllib.request

from smartbatch.shared.settings import from_environment

BATCH_LIMIT = "smartbatch_memory_batch_limit_rows{"
PROGRESS = "smartbatch_worker_last_progress_timestamp_seconds{"


def main() -> str:
    """Return the reason why the worker is unhealthy; empty if it is healthy."""
    settings = from_environment()
    url = f"http://127.0.0.1:{settings.metrics_port}/metrics"
    with urllib.request.urlopen(url, timeout=4) as response:
        lines = response.read().decode().splitlines()
    values = {
        name: float(line.rpartition(" ")[2])
        for name in (BATCH_LIMIT, PROGRESS)
        for line in lines
        if line.startswith(name)
    }
    if not values.get(BATCH_LIMIT):
        return "the model is not loaded yet"
    stalled_s = time.time() - values.get(PROGRESS, 0.0)
    return f"no progress for {stalled_s:.0f} s" if stalled_s > settings.stall_timeout else ""


if __name__ == "__main__":
    sys.exit(main() or 0)
