"""GET /docs: /openapi.json as an interactive page, without any resource from the internet.

The page is RapiDoc (MIT, rapidoc-LICENSE.txt) as published on npm.
"""
