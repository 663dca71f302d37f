"""Claim entries and decide when a batch closes."""
