"""The clients' side: HTTP and gRPC requests become queue entries, replies become responses. No numpy."""
