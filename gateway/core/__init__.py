"""Shared by all folders of the gateway: response types, errors and their statuses, request log, metrics, tracing."""
