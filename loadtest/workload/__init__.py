"""What clients send, which responses are correct, and how many clients there are over time.

Pure Python and msgpack: Locust's image holds this package without the rest.
"""
