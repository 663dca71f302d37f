"""API keys: authentication of requests, permitted models, rate limits and quotas."""
