"""When a batch closes, and what goes into it."""
