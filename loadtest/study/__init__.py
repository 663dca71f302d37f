"""Which settings serve most within a latency that the user names: a search with Optuna on a running system."""
