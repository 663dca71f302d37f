"""Administration: entries, dead letters, registry."""
