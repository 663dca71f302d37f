from __future__ import annotations

import json

from smartbatch.gateway.web.openapi import build
from smartbatch.shared.settings import Settings


def test_endpoints_require_a_key_only_if_there_are_keys():
    document = json.loads(build.document(Settings(api_keys_file="keys.toml")))
    assert document["security"] == [{"bearer": []}, {"key": []}]
    assert set(document["components"]["securitySchemes"]) == {"bearer", "key"}
    without = [path for path, methods in document["paths"].items() if methods.get("get", {}).get("security") == []]
    assert without == ["/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"]
    assert "WWW-Authenticate" in document["paths"]["/predict"]["post"]["responses"]["401"]["headers"]
    assert "Retry-After" in document["paths"]["/predict"]["post"]["responses"]["429"]["headers"]
    assert "security" not in json.loads(build.document(Settings()))
