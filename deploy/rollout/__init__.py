"""Moving requests from one version of a model to another: how much, when, and when to go back."""
