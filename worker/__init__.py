"""The worker process: claims entries, runs the model on batches of them, publishes replies."""
