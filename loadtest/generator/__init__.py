"""The load generator: closed and open loop, latency histograms, and the process in which they run."""
