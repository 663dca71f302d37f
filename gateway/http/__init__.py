"""HTTP/1.1 connections: their limits and timeouts, and the two ways from a request to its response."""
