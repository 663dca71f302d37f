"""The worker's side of the stream: track claimed entries, publish replies, heartbeat, failure detection."""
