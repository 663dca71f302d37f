"""A real Prometheus for one test, which scrapes the test's gateways and workers twice per second."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx
import pytest

from smartbatch.deploy.ports import free_port
from tests.brokers import eventually

RULES = Path(__file__).parents[1] / "deploy/observability/prometheus"

Labels = dict[str, str]


class Prometheus:
    """A running Prometheus; `close` ends it. Skips the test if Prometheus is not installed."""

    def __init__(self, folder: Path, gateways: Iterable[str], workers: Iterable[str] = ()) -> None:
        """Of both the URLs."""
        self._workers = folder / "workers.json"
        self.set_workers(workers)
        binary = shutil.which("prometheus")
        if binary is None:
            pytest.skip("no prometheus on PATH (Debian: apt-get install prometheus)")
        config = {
            "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "1s"},
            "rule_files": [str(RULES / name) for name in ("alerts.yml", "triton.yml")],
            "scrape_configs": [
                _job("smartbatch-gateway", gateways),
                {"job_name": "smartbatch-worker", "file_sd_configs": [{"files": [str(self._workers)]}]},
            ],
        }
        (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is valid YAML
        port = free_port()
        command = [binary, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'tsdb'}"]
        command += [f"--web.listen-address=127.0.0.1:{port}"]
        self._log = (folder / "prometheus.log").open("wb")
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log)
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10)
        eventually(self._ready, 30)

    def set_workers(self, urls: Iterable[str]) -> None:
        """Scrape these workers from now on."""
        new = self._workers.with_suffix(".new")
        new.write_text(json.dumps([{"targets": [url.removeprefix("http://") for url in urls]}]))
        new.replace(self._workers)  # Prometheus watches the file

    def query(self, expression: str) -> list[tuple[Labels, float]]:
        """Return labels and current value of each series. Fails the test if Prometheus rejects the expression."""
        response = self._client.get("/api/v1/query", params={"query": expression})
        assert response.status_code == 200, f"{expression}: {response.text}"
        return [(series["metric"], float(series["value"][1])) for series in response.json()["data"]["result"]]

    def value(self, expression: str) -> float | None:
        """Return the value of the only series; None if there is none."""
        found = self.query(expression)
        assert len(found) <= 1, found
        return found[0][1] if found else None

    def rules(self, group: str) -> list[dict[str, Any]]:
        groups = self._client.get("/api/v1/rules").json()["data"]["groups"]
        return next(each["rules"] for each in groups if each["name"] == group)

    def close(self) -> None:
        self._client.close()
        self._process.terminate()
        self._process.wait(20)
        self._log.close()

    def _ready(self) -> bool:
        assert self._process.poll() is None, Path(self._log.name).read_text()
        try:
            return self._client.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False


def _job(name: str, urls: Iterable[str]) -> dict[str, Any]:
    targets = [url.removeprefix("http://") for url in urls]
    return {"job_name": name, "static_configs": [{"targets": targets}]}
