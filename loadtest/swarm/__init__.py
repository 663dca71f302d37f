"""What Locust runs (loadtest/locustfile.py): clients, what they check, and the shapes of the load."""
