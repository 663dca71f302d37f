"""`make bench`: measure every performance goal in one run, next to a naive server. docs/performance.md describes it.

Servers are started by their command line and called over HTTP. CPU time is read from the operating system.
"""
