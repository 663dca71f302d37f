"""Inject random faults under load and record every request: `make chaos SECONDS=60`.

__main__.py    the command
run.py         one run: traffic and faults, then probes that must all succeed
system.py      broker, proxy, gateways and workers, and their supervisor
faults.py      faults of processes and connections
traffic.py     what clients send, including hostile inputs
worker.py      a worker whose model obeys hostile inputs
evaluation.py  evaluates the record of requests
"""
