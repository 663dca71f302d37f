"""Pages of the gateway: health, metrics, OpenAPI, API documentation, the live page."""
