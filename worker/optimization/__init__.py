"""Faster variants of a network that give the same answers."""
