"""Faster variants of a network with the same outputs."""
