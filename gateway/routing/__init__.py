"""Which version of a model a request goes to."""
