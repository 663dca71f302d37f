"""Bodies that clients send, the check of responses, and the number of clients over time.

It needs only msgpack, because Locust's image contains this package without the rest.
"""
