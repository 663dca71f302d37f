"""Run a batch: decode, forward, encode, within the device's memory."""
