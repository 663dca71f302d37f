"""One model's queue as the gateway sees it: admission, submitting, replies, deadlines, reconciliation."""
