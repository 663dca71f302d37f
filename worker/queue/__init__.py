"""Track claimed entries, publish replies, send heartbeats, detect dead workers."""
