"""The worker process: it claims entries, batches them, runs the model and publishes replies.

process.py starts and wires the parts. An entry passes batching/ (claim, fill a batch), queue/ (track, publish) and
execution/ (decode, run, encode); docs/architecture.md lists the path function by function.
"""
