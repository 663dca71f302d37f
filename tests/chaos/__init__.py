"""Everything that can go wrong, at random and under load, with a ledger of every request: `make chaos SECONDS=60`.

__main__.py   the command
run.py        one run: traffic and faults until the time is up, then the proof
system.py     broker, proxy, gateways and workers, and who restarts them
faults.py     what goes wrong with processes and connections
traffic.py    what clients send, the hostile ones too
worker.py     a worker whose model obeys hostile inputs
verdict.py    what the ledger says
"""
