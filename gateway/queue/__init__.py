"""The gateway's side of a model's queue: admission, submitting, replies, deadlines, reconciliation."""
