"""What the whole system is doing: read from Redis, and put as views."""
