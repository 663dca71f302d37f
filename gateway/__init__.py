"""The process that clients connect to: HTTP and gRPC requests become queue entries, replies become responses.

It imports neither numpy nor torch.
"""
