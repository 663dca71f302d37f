"""Helpers for processes, tasks and garbage collection."""
