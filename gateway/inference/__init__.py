"""Inference requests, independent of the protocol: parse, submit, respond."""
