"""The load generator: closed and open loop, latency histograms, and a process of its own to run in."""
