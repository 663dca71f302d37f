"""Everything that can go wrong, at random and under load, with a record of every request: `make chaos SECONDS=60`.

__main__.py   the command
run.py         one run: traffic and faults until the time is up, then probes that must all succeed
system.py     broker, proxy, gateways and workers, and who restarts them
faults.py     what goes wrong with processes and connections
traffic.py    what clients send, the hostile ones too
worker.py     a worker whose model obeys hostile inputs
evaluation.py  evaluates the record of requests
"""
