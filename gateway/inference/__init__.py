"""The life of an inference request: parse, submit, respond."""
