"""Administration and monitoring: entries, dead letters, registry."""
