"""The live page at `/`: the system's state, second by second, and a form that sends requests."""
