"""What benchmark and study have in common in their results: charts and an HTML page."""
