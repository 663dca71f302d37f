"""Renders the Helm chart as `helm template` does. As a program (`make k8s`) it writes the plain manifests of
deploy/kubernetes, one file for each values file, and the names of settings into the chart's schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import helm_python as helm
import yaml

from smartbatch.shared.settings import Settings

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy/helm/smartbatch"
SCHEMA = CHART / "values.schema.json"
MANIFESTS = ROOT / "deploy/kubernetes"
VALUES = {"default": "values.yaml"} | {
    path.stem.removeprefix("values-"): path.name for path in sorted(CHART.glob("values-*.yaml"))
}
NAMESPACE = "inference"

# Set by the chart from other values, so `settings` can't contradict what Services and probes expect.
SET_BY_CHART = {
    *("model_name", "model_version", "model_path", "redis_url", "redis_password_file", "api_keys_file"),
    *("host", "port", "grpc_port", "management_host", "management_port", "metrics_host", "metrics_port"),
}
OBJECT = "# Source: "

Manifest = dict[str, Any]


def values(name: str) -> dict[str, Any]:
    return yaml.safe_load((CHART / VALUES[name]).read_text())


def merged(base: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Merge values as Helm merges two `-f` files."""
    result = dict(base)
    for name, value in more.items():
        old = result.get(name)
        result[name] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


def template(given: Mapping[str, Any], name: str = "smartbatch") -> str:
    """Return the manifests of a release. Raises helm's errors for values that the schema or a template rejects."""
    with helm.Chart.load(CHART) as chart:
        chart.validate_schema(chart.merge_values(dict(given)))
        rendered = chart.render(dict(given), name=name, namespace=NAMESPACE)
    texts = []
    for path, text in sorted(rendered.items()):
        if not path.endswith("NOTES.txt"):
            texts += [f"{OBJECT}{path}\n{part.strip()}\n" for part in text.split("\n---\n") if has_object(part)]
    return "---\n" + "---\n".join(texts)


def has_object(text: str) -> bool:
    return yaml.safe_load(text) is not None


def manifests(given: Mapping[str, Any], name: str = "smartbatch") -> list[Manifest]:
    return [each for each in yaml.safe_load_all(template(given, name)) if each]


def notes(given: Mapping[str, Any]) -> str:
    with helm.Chart.load(CHART) as chart:
        rendered = chart.render(dict(given), name="smartbatch", namespace=NAMESPACE)
    return next(text for path, text in rendered.items() if path.endswith("NOTES.txt"))


def plain(name: str) -> str:
    """Return the text of a file of deploy/kubernetes."""
    return f"# helm template smartbatch deploy/helm/smartbatch -f {VALUES[name]}; written by `make k8s`\n" + template(
        values(name)
    )


def setting_names() -> list[str]:
    """Return the names that the chart's `settings` may have."""
    return [field.upper() for field in Settings.__struct_fields__ if field not in SET_BY_CHART]


def schema() -> dict[str, Any]:
    """Return values.schema.json with the names of today's settings."""
    document = json.loads(SCHEMA.read_text())
    document["$defs"]["settings"]["propertyNames"]["anyOf"][0]["enum"] = setting_names()
    return document


def main() -> None:
    SCHEMA.write_text(json.dumps(schema(), indent=2) + "\n")
    MANIFESTS.mkdir(exist_ok=True)
    for name in VALUES:
        (MANIFESTS / f"{name}.yaml").write_text(plain(name))


if __name__ == "__main__":
    main()
