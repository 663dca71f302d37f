"""Charts and the HTML page of benchmark and study."""
