"""Every call to Redis that gateways, workers and the command line make; nothing outside this package names a Redis
command.

url.py          the broker's URL: host, password, TLS
link.py         the connection, and the translation of Redis's errors
check.py        the broker's version, asked at the start
script.py       the Lua scripts in scripts/, sent by hash
admission.py    gateway: admit, cancel, what is still open
replies.py      gateway: the inbox and the reply keys
claims.py       worker: claim, wait, release, finish
leases.py       worker: heartbeat and deregistration
live_limits.py  limits of batching, changed while workers serve
usage.py        gateway: what API keys have used, over all gateways
entries.py      administration: what waits and runs, entry by entry; cancel one
registry.py     models, and what workers and gateways report of themselves
dead_letters.py administration: look at dead letters, drop them, put them back on the stream
"""
