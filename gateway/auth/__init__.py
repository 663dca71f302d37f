"""API keys: who sends a request, which models the key may use, and its rate limit and quota."""
