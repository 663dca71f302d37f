"""HTTP/1.1 as it comes over a socket: what one connection and one exchange on it may cost, and how they end."""
