"""Operations on the queue: admission, claims, replies, leases, live limits and usage of API keys."""
