"""Every call to Redis that gateways and workers make; nothing outside this package names a Redis command.

redis_py.py     redis-py, imported without what nobody here uses
connection.py   clients, and the translation of redis errors
script.py       the Lua scripts in scripts/, sent by hash
admission.py    gateway: admit, cancel, what is still open
replies.py      gateway: the inbox and the reply keys
claims.py       worker: claim, wait, release, finish
leases.py       worker: beat, leave
entries.py      people and tools: what waits and runs, entry by entry; take one back
registry.py     models, and what workers and gateways report of themselves
dead_letters.py dead letters: look, drop, put back on the stream
"""

from smartbatch.shared.broker.connection.redis_py import parse_url as parse_url
