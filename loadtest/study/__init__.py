"""The parameter study: find the batching settings with the highest throughput within a latency objective."""
