"""The guarantees of docker-compose.yml, read from the file."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from smartbatch.deploy.observability import dashboard
from smartbatch.deploy.observability.dashboard.panels import DATASOURCE
from smartbatch.shared.redis_url import parse_url
from smartbatch.shared.settings import describe

ROOT = Path(__file__).parents[2]
PYTHON_SERVICES = ("gateway", "grpc", "worker")
IMAGES = ("gateway", "worker", "loadtest")


def load(name: str = "docker-compose.yml") -> dict[str, Any]:
    """Return the file with every ${VARIABLE:-default} replaced by its default, which may contain another one."""
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    text, replaced = (ROOT / name).read_text(), 1
    while replaced:
        text, replaced = re.subn(r"\$\{\w+:-([^${}]*)\}", r"\1", text)
    return yaml.safe_load(text)


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return load()["services"]


def test_every_service_restarts_and_holds_no_privileges(services):
    assert {name for name, service in services.items() if "profiles" not in service} == {"redis", "gateway", "worker"}
    for name, service in services.items():
        assert service["restart"] == ("no" if name.startswith("locust") else "unless-stopped")
        assert service["init"] is True
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "healthcheck" in service
        assert "container_name" not in service  # it would prevent --scale


def test_redis_persists_rejects_when_full_and_is_not_published(services):
    redis = services["redis"]
    words = redis["command"][1:]
    options = dict(zip(words[::2], words[1::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--appendfsync"] == "everysec"
    assert options["--maxmemory-policy"] == "noeviction"
    assert options["--maxmemory"] == "2gb"
    assert "redis-data:/data" in redis["volumes"]
    assert "ports" not in redis
    assert all(services[name]["depends_on"]["redis"]["condition"] == "service_healthy" for name in PYTHON_SERVICES)


@pytest.mark.parametrize(
    ("profile", "scheme", "brokers"),
    [
        ("cluster", "redis+cluster", {*(f"cluster-{n}" for n in range(1, 7)), "cluster-setup"}),
        ("sentinel", "redis+sentinel", {f"{name}-{n}" for name in ("replicated", "sentinel") for n in range(1, 4)}),
    ],
)
def test_brokers_of_several_servers_are_optional_and_named_by_the_url_in_the_docs(services, profile, scheme, brokers):
    assert {name for name, service in services.items() if service.get("profiles") == [profile]} == brokers
    assert not any("ports" in services[name] for name in brokers)
    (text,) = re.findall(rf"export REDIS_URL=({re.escape(scheme)}://\S+)", (ROOT / "docs/deployment.md").read_text())
    url = parse_url(text)
    assert {address.host for address in url.addresses} <= brokers
    commands = " ".join(services[url.addresses[0].host]["command"])
    if profile == "cluster":
        assert {address.port for address in url.addresses} == {6379} and "--cluster-enabled yes" in commands
    else:
        assert {address.port for address in url.addresses} == {26379}
        assert f"sentinel monitor {url.primary_name} replicated-1 6379 2" in commands
    for name in brokers - {"cluster-setup", "sentinel-1", "sentinel-2", "sentinel-3"}:
        assert "maxmemory-policy noeviction" in " ".join(services[name]["command"])
    assert services["gateway"]["environment"]["REDIS_URL"] == "redis://redis:6379/0"  # unless it is set


def test_gateway_is_published_to_this_machine_only(services):
    assert services["gateway"]["ports"] == ["127.0.0.1:8000:8000"]
    assert services["grpc"]["ports"] == ["127.0.0.1:8001:8001"]
    assert services["grpc"]["profiles"] == ["grpc"]  # only if requested
    assert "ports" not in services["worker"]


@pytest.mark.parametrize("name", [*PYTHON_SERVICES, "worker-v2"])
def test_a_stopped_process_has_time_to_finish_its_requests(services, name):
    service = services[name]
    grace_s = float(service["environment"]["GRACE_TIME"])
    kill_after_s = float(service["stop_grace_period"].removesuffix("s"))
    longest_s = max(float(service["environment"][key]) for key in ("REQUEST_TIMEOUT", "STALL_TIMEOUT"))
    assert kill_after_s > grace_s > longest_s


def test_gateways_stop_before_workers(services):
    assert "worker" in services["gateway"]["depends_on"] and "worker" in services["grpc"]["depends_on"]
    assert "gateway" not in services["worker"]["depends_on"]


def test_a_second_version_is_optional_and_differs_only_in_what_it_serves(services):
    first, second = services["worker"], services["worker-v2"]
    assert second["profiles"] == ["v2"]
    assert {**second, "environment": first["environment"], "profiles": None} == {**first, "profiles": None}
    assert first["environment"]["MODEL_VERSION"] == 1 and second["environment"]["MODEL_VERSION"] == 2
    own = {key for key, value in second["environment"].items() if value != first["environment"][key]}
    assert own == {"MODEL_VERSION"}
    text = (ROOT / "docker-compose.yml").read_text()
    for variable in ("WORKER_IMAGE", "MODEL_VERSION", "MODEL_PATH", "MODEL_WEIGHTS"):
        assert f"${{{variable}_V2:-" in text


def test_every_setting_can_be_set_and_defaults_do_not_drift(services):
    deliberate = {"REDIS_URL", "HOST", "MANAGEMENT_HOST", "METRICS_HOST", "METRICS_PORT", "GRACE_TIME", "LOG_FORMAT"}
    deliberate.add("MANAGEMENT_PORT")  # only of grpc
    assert services["gateway"]["environment"]["MANAGEMENT_PORT"] is None
    given = {key: value for name in PYTHON_SERVICES for key, value in services[name]["environment"].items()}
    for variable, _, default, _ in describe():
        assert variable in given, f"{variable} can't be set through docker-compose.yml"
        if variable not in deliberate and given[variable] is not None:
            assert type(default)(given[variable]) == default, variable


def test_trace_settings_apply_to_gateways_and_workers(services):
    for name in PYTHON_SERVICES:
        given = services[name]["environment"]
        page = (ROOT / "docs/tracing.md").read_text()
        assert set(re.findall(r"\bOTEL_\w+", page)) <= set(given)
        assert not any(given[variable] for variable in given if variable.startswith("OTEL_"))  # off unless set


def test_gpu_overlay_only_reserves_one_gpu_for_the_workers():
    overlay = load("docker-compose.gpu.yml")["services"]
    (device,) = overlay["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    assert set(overlay) == {"worker", "worker-v2"} and overlay["worker-v2"] == overlay["worker"]
    assert overlay["worker"]["environment"] == {"DEVICE": "cuda"}


def test_locust_is_optional_and_finds_the_gateway(services):
    locust, worker = services["locust"], services["locust-worker"]
    assert locust["profiles"] == worker["profiles"] == ["loadtest"]
    assert locust["image"] == worker["image"]
    assert locust["ports"] == ["127.0.0.1:8089:8089"]  # anybody who reaches the page can start a load
    assert "ports" not in worker  # so that it can be scaled
    port = services["gateway"]["environment"]["PORT"]
    assert locust["command"] == ["--master", "--host", f"http://gateway:{port}"]
    assert worker["command"] == ["--worker", "--master-host", "locust"]


def test_prometheus_and_grafana_are_optional_and_find_their_files(services):
    prometheus, grafana = services["prometheus"], services["grafana"]
    assert prometheus["profiles"] == grafana["profiles"] == ["observability"]
    assert prometheus["ports"] == ["127.0.0.1:9090:9090"]
    assert grafana["ports"] == ["127.0.0.1:3000:3000"]
    for service in (prometheus, grafana):
        assert re.fullmatch(r"[\w/]+:v?\d+\.\d+\.\d+", service["image"])  # a fixed version
        sources = [volume.split(":")[0] for volume in service["volumes"] if volume.startswith("./")]
        assert sources and all((ROOT / source).exists() for source in sources)
        assert all(volume.endswith(":ro") for volume in service["volumes"] if volume.startswith("./"))
    environment = grafana["environment"]
    assert environment["GF_AUTH_ANONYMOUS_ENABLED"] == "true" and environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    home = environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert Path(home).name == Path(dashboard.FILE).name
    assert f"./{Path(dashboard.FILE).parent}:{Path(home).parent}:ro" in grafana["volumes"]


def test_prometheus_scrapes_the_ports_of_gateways_and_workers(services):
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    config = yaml.safe_load((ROOT / "deploy/observability/prometheus/prometheus.yml").read_text())
    found = {
        (job["job_name"], name): discovery["port"]
        for job in config["scrape_configs"]
        for discovery in job.get("dns_sd_configs", ())
        for name in discovery["names"]
    }
    assert found == {
        ("smartbatch-gateway", "gateway"): services["gateway"]["environment"]["PORT"],
        ("smartbatch-gateway", "grpc"): int(services["grpc"]["environment"]["MANAGEMENT_PORT"]),
        ("smartbatch-worker", "worker"): services["worker"]["environment"]["METRICS_PORT"],
        ("smartbatch-worker", "worker-v2"): services["worker-v2"]["environment"]["METRICS_PORT"],
    }
    assert services["worker"]["environment"]["METRICS_HOST"] == "0.0.0.0"
    source = yaml.safe_load(
        (ROOT / "deploy/observability/grafana/provisioning/datasources/prometheus.yml").read_text()
    )["datasources"][0]
    assert source["url"] == "http://prometheus:9090"
    assert source["jsonData"]["timeInterval"] == config["global"]["scrape_interval"]
    assert source["uid"] == DATASOURCE["uid"]


def test_the_locust_image_holds_everything_that_the_locustfile_imports(tmp_path):
    dockerfile = (ROOT / "deploy/docker/loadtest.Dockerfile").read_text()
    for sources in re.findall(r"^COPY (loadtest.*) \S+$", dockerfile, re.M):
        for source in sources.split():
            copied = tmp_path / source
            copied.parent.mkdir(parents=True, exist_ok=True)
            origin = ROOT / source
            shutil.copytree(origin, copied) if origin.is_dir() else shutil.copy(origin, copied)
    requested = [sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py", "--list"]
    listed = subprocess.run(requested, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert listed.returncode == 0, listed.stderr
    assert "SmartBatchUser" in listed.stdout
    assert not re.search(r"loadtest/(bench|generator|servers)", dockerfile)


@pytest.mark.parametrize("name", IMAGES)
def test_images_run_as_a_numbered_user_and_name_no_registry(name):
    dockerfile = (ROOT / f"deploy/docker/{name}.Dockerfile").read_text()
    assert re.findall(r"^USER (\d+):\d+$", dockerfile, re.M)[-1] != "0"
    assert "http" not in dockerfile
    first = dockerfile.index("COPY gateway" if name in PYTHON_SERVICES else "COPY loadtest")
    assert dockerfile.index("pip install") < first  # so that a change of code does not reinstall packages
