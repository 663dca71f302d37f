"""Load on a running system, black box over HTTP: imports nothing of ours."""
