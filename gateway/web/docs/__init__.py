"""GET /docs: /openapi.json as a page to read and try out, without anything from the internet.

The page is RapiDoc (MIT, rapidoc-LICENSE.txt), as it comes from npm.
"""
