"""The gateway's side of a model's queue: admission control, submission, replies, deadlines, reconciliation."""
