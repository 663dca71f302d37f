"""The worker's side of the stream: track claimed entries, publish replies, send heartbeats, detect dead workers."""
