"""What a worker reports: metrics, status, error logs, spans."""
