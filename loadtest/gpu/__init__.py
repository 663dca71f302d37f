"""Measures a GPU: the bare network, the engine, and the whole server over HTTP."""
