"""`make bench`: every performance goal measured in one run, beside a naive server. docs/performance.md describes it.

Black box: servers are started by their command line, and called over HTTP. CPU time is the operating system's.
"""
