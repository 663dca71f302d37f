"""Pages: health, metrics, OpenAPI, documentation, the live page."""
