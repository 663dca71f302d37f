"""Used by all packages of the gateway: response types, error statuses, request log, metrics, tracing."""
