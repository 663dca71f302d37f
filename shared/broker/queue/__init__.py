"""The queue's operations: admission, claims, replies, leases."""
