"""The broker protocol: every call to Redis that gateways, workers and the command line make.

connection/  the multiplexed connection, calls of the Lua scripts, the version check
queue/       admission, claims, replies, leases, limits and usage of API keys: serving requests
admin/       entries, dead letters and the registry of models: administration and monitoring
scripts/     the Lua scripts, described in docs/protocol.md

No code outside this package uses a Redis command.
"""
