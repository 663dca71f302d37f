"""The gateway's pages: health, metrics, OpenAPI, API documentation, the live page."""
