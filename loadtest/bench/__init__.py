"""`make bench`: every goal measured, beside a naive server, in one run on this machine. docs/performance.md says how.

Black box: our processes are started by their command line and asked over HTTP. CPU time is the operating system's. Only
`floor.py`, one of the yardsticks, is made of our parts.
"""
