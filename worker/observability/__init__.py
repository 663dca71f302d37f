"""The worker's metrics, status report, error log and spans."""
