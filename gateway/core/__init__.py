"""What every other package of the gateway uses: types, errors to statuses, request log, metrics, tracing."""
