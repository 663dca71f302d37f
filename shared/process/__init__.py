"""Processes, tasks and garbage collection."""
