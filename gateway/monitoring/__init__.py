"""The state of the whole system, read from Redis, and views of it."""
