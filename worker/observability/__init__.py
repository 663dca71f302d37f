"""What a worker says of itself: metrics, status report, logs, tracing, watchdog."""
