"""Reads the state of the whole system from Redis, and computes the statistics that are shown."""
