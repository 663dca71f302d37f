"""The broker protocol: every call to Redis that gateways, workers and the command line make.

connection/  one multiplexed connection, the Lua scripts sent over it, the version check
queue/       admission, claims, replies, leases and limits: what serving a request needs
admin/       entries, dead letters and the registry of models: what people and tools ask
scripts/     the Lua scripts; docs/protocol.md describes each

Nothing outside this package names a Redis command.
"""
