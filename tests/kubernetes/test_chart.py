"""The Helm chart: what it renders is valid for Kubernetes, fits together, and passes only settings that exist."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helm_python as helm
import kubernetes_validate
import pytest
import yaml

from smartbatch.shared.keys import Keys, model_id
from smartbatch.shared.settings import Settings, from_environment
from tests.kubernetes.chart import (
    CHART,
    MANIFESTS,
    ROOT,
    SCHEMA,
    VALUES,
    Manifest,
    manifests,
    merged,
    notes,
    plain,
    schema,
    setting_names,
    values,
)

KUBERNETES = ("1.30", "1.37")
CRD_GROUPS = ("keda.sh/v1alpha1", "monitoring.coreos.com/v1", "gateway.networking.k8s.io/v1")
CRD_MODELS = ("@kubernetes-models/keda@2.0.0", "@kubernetes-models/prometheus-operator@6.0.0")
CRD_MODELS += ("@kubernetes-models/gateway-api@0.5.1",)
MODELS_FOLDER = ROOT / "build/kubernetes-models"

# Everything at once, so that each line of each template is rendered.
EVERYTHING: dict[str, Any] = merged(
    values("many-nodes"),
    {
        "broker": {"url": "", "passwordSecret": {"name": ""}},
        "gateway": {
            "apiKeys": "[keys.app]\nsha256 = 'x'\n",
            "nodeSelector": {"pool": "cpu"},
            "tolerations": [{"key": "cpu", "operator": "Exists"}],
            "settings": {"MAX_QUEUE_BYTES": 536870912, "MAX_CONNECTIONS": 8192, "DEBUG_ERRORS": False},
            "service": {"annotations": {"a": "b"}},
            "ingress": {"enabled": True, "className": "nginx", "host": "example.com", "tlsSecret": "tls"},
        },
        "keda": {"prometheus": {"authenticationRef": "prometheus", "metadata": {"authModes": "bearer"}}},
        "networkPolicy": {"clients": [{"podSelector": {}}]},
    },
)
CASES = {**{name: values(name) for name in VALUES}, "everything": EVERYTHING}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> dict[str, Any]:
    return CASES[request.param]


def of_kind(objects: list[Manifest], kind: str) -> list[Manifest]:
    return [each for each in objects if each["kind"] == kind]


def one(objects: list[Manifest], kind: str, name: str) -> Manifest:
    (found,) = (each for each in of_kind(objects, kind) if each["metadata"]["name"] == name)
    return found


def pods(objects: list[Manifest]) -> Iterator[Manifest]:
    """Yield the pod templates."""
    for each in objects:
        if each["kind"] in ("Deployment", "StatefulSet"):
            yield each["spec"]["template"]


def environment(container: Manifest) -> dict[str, str]:
    return {each["name"]: each["value"] for each in container.get("env", ())}


def test_lint_finds_nothing(case: dict[str, Any]) -> None:
    report = helm.lint(CHART, case, strict=True)
    assert report["errors"] == []
    assert [each["error"] for each in report["messages"]] == ["icon is recommended"]


@pytest.mark.parametrize("name", VALUES)
def test_plain_manifests_are_those_of_the_chart(name: str) -> None:
    assert (MANIFESTS / f"{name}.yaml").read_text() == plain(name), "run `make k8s`"


def test_there_is_one_file_of_plain_manifests_for_each_values_file() -> None:
    assert {path.stem for path in MANIFESTS.glob("*.yaml")} == set(VALUES)


def test_schema_knows_todays_settings() -> None:
    assert json.loads(SCHEMA.read_text()) == schema(), "run `make k8s`"


@pytest.mark.parametrize("version", KUBERNETES)
def test_objects_are_valid_for_kubernetes(case: dict[str, Any], version: str) -> None:
    for each in manifests(case):
        if each["apiVersion"] not in CRD_GROUPS:
            kubernetes_validate.validate(each, version, strict=True)


def test_a_misspelt_field_is_not_valid() -> None:
    broken = copy.deepcopy(of_kind(manifests({}), "Deployment")[0])
    broken["spec"]["template"]["spec"]["enableServiceLink"] = False
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, KUBERNETES[-1], strict=True)


@pytest.fixture(scope="session")
def crd_models() -> Path:
    """The folder with the models of npm, installed if it is not there yet."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("no node and npm on PATH (Debian: apt-get install nodejs npm)")
    if not all((MODELS_FOLDER / "node_modules" / each.rpartition("@")[0]).exists() for each in CRD_MODELS):
        MODELS_FOLDER.mkdir(parents=True, exist_ok=True)
        command = [npm, "install", "--prefix", str(MODELS_FOLDER), "--no-audit", "--no-fund", *CRD_MODELS]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100)
        if done.returncode:
            pytest.skip(f"{', '.join(CRD_MODELS)} can't be installed: {done.stderr[-300:]}")
    shutil.copy(Path(__file__).parent / "crd_models.mjs", MODELS_FOLDER)  # modules are found beside a file
    return MODELS_FOLDER


def crd_errors(models: Path, objects: list[Manifest]) -> list[str]:
    command = ["node", str(models / "crd_models.mjs")]
    done = subprocess.run(command, input=json.dumps(objects), capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.splitlines()


def test_custom_resources_are_valid(crd_models: Path) -> None:
    objects = [each for case in CASES.values() for each in manifests(case) if each["apiVersion"] in CRD_GROUPS]
    kinds = {each["kind"] for each in objects}
    assert kinds == {"ScaledObject", "TriggerAuthentication", "PodMonitor", "PrometheusRule", "HTTPRoute"}
    assert crd_errors(crd_models, objects) == []
    broken = copy.deepcopy(of_kind(objects, "ScaledObject")[0])
    broken["spec"]["cooldownPeriod"] = "long"
    assert crd_errors(crd_models, [broken]) == [
        "ScaledObject smartbatch-worker-detector: data/spec/cooldownPeriod must be integer"
    ]


# --- settings


def test_every_variable_is_a_setting_with_a_valid_value(case: dict[str, Any]) -> None:
    known = {field.upper() for field in Settings.__struct_fields__}
    for pod in pods(manifests(case)):
        for container in pod["spec"]["containers"]:
            variables = environment(container)
            assert variables.keys() <= known
            settings = from_environment(variables)
            assert not variables or settings.grace_time > settings.request_timeout


def test_the_chart_sets_what_values_may_not() -> None:
    known = {field.upper() for field in Settings.__struct_fields__}
    gateway, worker = (
        environment(one(manifests(EVERYTHING), "Deployment", name)["spec"]["template"]["spec"]["containers"][0])
        for name in ("smartbatch-gateway", "smartbatch-worker-detector")
    )
    password = environment(
        one(manifests(values("gpu-node")), "Deployment", "smartbatch-gateway")["spec"]["template"]["spec"][
            "containers"
        ][0]
    )
    assert known - set(setting_names()) <= gateway.keys() | worker.keys() | password.keys()


def test_settings_reach_the_processes_that_they_are_for() -> None:
    objects = manifests(EVERYTHING)
    gateway = environment(one(objects, "Deployment", "smartbatch-gateway")["spec"]["template"]["spec"]["containers"][0])
    worker = environment(
        one(objects, "Deployment", "smartbatch-worker-detector")["spec"]["template"]["spec"]["containers"][0]
    )
    assert gateway["MAX_QUEUE"] == worker["MAX_QUEUE"] == "8192"  # of all
    assert (gateway["MAX_QUEUE_BYTES"], worker.get("MAX_QUEUE_BYTES")) == ("536870912", None)  # not 5.36870912e+08
    assert (gateway["DEBUG_ERRORS"], worker.get("DEBUG_ERRORS")) == ("false", None)
    assert (gateway.get("MAX_BATCH_SIZE"), worker["MAX_BATCH_SIZE"]) == (None, "128")
    assert (worker["MODEL_NAME"], worker["MODEL_PATH"]) == ("detector", "detector:Detector")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"settings": {"MAX_BATCHSIZE": 8}}, "MAX_BATCHSIZE"),
        ({"settings": {"PORT": 80}}, "PORT"),
        ({"workers": [{"model": "m", "path": "m", "settings": {"MODEL_NAME": "n"}}]}, "MODEL_NAME"),
        ({"gateway": {"replica": 3}}, "replica"),
        ({"workers": []}, "minItems"),
        ({"broker": {"url": "redis://app:secret@host/0"}}, "pattern"),  # a password belongs into a Secret
        ({"settings": {"REQUEST_TIMEOUT": 60}}, r"GRACE_TIME \(45\) must be longer than REQUEST_TIMEOUT \(60\)"),
        ({"workers": [{"model": "a.b", "path": "x"}, {"model": "a_b", "path": "y"}]}, "smartbatch-worker-a-b"),
        ({"workers": [{"model": "m", "path": "m", "version": 0}]}, "minimum"),
        (
            {"workers": [{"model": "m", "path": "x"}, {"model": "m", "path": "y", "version": 1}]},
            "two workers have the model m and the version 1",
        ),
        (
            {
                "broker": {"url": "redis+cluster://a:7000,b:7000"},
                "workers": [{"model": "m", "path": "m", "autoscaling": {"enabled": True, "trigger": "redis"}}],
            },
            "use the prometheus trigger",
        ),
    ],
)
def test_wrong_values_are_rejected(given: dict[str, Any], message: str) -> None:
    with pytest.raises(helm.HelmError, match=message):
        manifests(given)


# --- how objects fit together


def test_pods_are_restricted(case: dict[str, Any]) -> None:
    """As the Pod Security Standard `restricted` asks, and with a root file system that is read-only."""
    objects = manifests(case)
    claims = {
        claim["metadata"]["name"]
        for each in of_kind(objects, "StatefulSet")
        for claim in each["spec"]["volumeClaimTemplates"]
    }
    for pod in pods(objects):
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False
        for container in (*spec["containers"], *spec.get("initContainers", ())):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            mounts = {each["name"] for each in container["volumeMounts"]}
            assert mounts <= {each["name"] for each in spec.get("volumes", ())} | claims


def test_a_stopped_pod_has_time_for_all_that_it_holds(case: dict[str, Any]) -> None:
    for pod in pods(manifests(case)):
        for container in pod["spec"]["containers"]:
            variables = environment(container)
            if not variables:
                continue
            before_s = int(container["lifecycle"]["preStop"]["exec"]["command"][1]) if "lifecycle" in container else 0
            assert before_s == (10 if container["name"] == "gateway" else 0)
            assert pod["spec"]["terminationGracePeriodSeconds"] >= before_s + float(variables["GRACE_TIME"]) + 5


def test_selectors_and_ports_match_pods(case: dict[str, Any]) -> None:
    objects = manifests(case)
    labels = [pod["metadata"]["labels"] for pod in pods(objects)]
    ports = {port["name"] for pod in pods(objects) for each in pod["spec"]["containers"] for port in each["ports"]}

    def matches(selector: dict[str, str]) -> int:
        return sum(selector.items() <= each.items() for each in labels)

    for each in of_kind(objects, "Deployment"):
        assert matches(each["spec"]["selector"]["matchLabels"]) == 1, each["metadata"]["name"]
    for each in of_kind(objects, "Service"):
        assert matches(each["spec"]["selector"]) == 1, each["metadata"]["name"]
        assert {port["targetPort"] for port in each["spec"]["ports"]} <= ports
    for each in (*of_kind(objects, "PodMonitor"), *of_kind(objects, "PodDisruptionBudget")):
        assert matches(each["spec"]["selector"]["matchLabels"]) >= 1, each["metadata"]["name"]
    for each in of_kind(objects, "PodMonitor"):
        assert {endpoint["port"] for endpoint in each["spec"]["podMetricsEndpoints"]} <= ports
    for each in of_kind(objects, "NetworkPolicy"):
        assert matches(each["spec"]["podSelector"]["matchLabels"]) >= 1, each["metadata"]["name"]
    deployments = {each["metadata"]["name"] for each in of_kind(objects, "Deployment")}
    for each in (*of_kind(objects, "ScaledObject"), *of_kind(objects, "HorizontalPodAutoscaler")):
        assert each["spec"]["scaleTargetRef"]["name"] in deployments
        assert "replicas" not in one(objects, "Deployment", each["spec"]["scaleTargetRef"]["name"])["spec"]


def test_a_gateway_stays_in_its_service_while_there_is_no_worker(case: dict[str, Any]) -> None:
    for pod in pods(manifests(case)):
        for container in pod["spec"]["containers"]:
            if container["name"] == "gateway":
                probes = [container["readinessProbe"], container["livenessProbe"]]
                assert [probe["httpGet"]["path"] for probe in probes] == ["/healthz", "/healthz"]  # not /readyz


def test_a_gpu_is_a_limit_beside_the_requests() -> None:
    objects = manifests(values("gpu-node"))
    worker = one(objects, "Deployment", "smartbatch-worker-resnet50")["spec"]
    assert worker["template"]["spec"]["containers"][0]["resources"] == {
        "requests": {"cpu": "1", "memory": "2Gi"},
        "limits": {"nvidia.com/gpu": 1},
    }
    assert worker["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}


def test_a_worker_may_set_what_the_defaults_set_to_something_else() -> None:
    objects = manifests(
        {
            "workerDefaults": {
                "gpus": 1,
                "autoscaling": {"enabled": True, "minReplicas": 2},
                "nodeSelector": {"a": "b"},
            },
            "workers": [
                {"model": "m", "path": "m", "gpus": 0, "autoscaling": {"minReplicas": 0}, "nodeSelector": {}},
                {"model": "n", "path": "n", "autoscaling": {"enabled": False}, "replicas": 0},
            ],
        }
    )
    (scaled,) = of_kind(objects, "ScaledObject")
    assert scaled["spec"]["minReplicaCount"] == 0
    pod = one(objects, "Deployment", "smartbatch-worker-m")["spec"]["template"]["spec"]
    assert "limits" not in pod["containers"][0]["resources"] and "nodeSelector" not in pod
    assert one(objects, "Deployment", "smartbatch-worker-n")["spec"]["replicas"] == 0


def test_a_version_of_a_model_has_a_deployment_and_a_stream_of_its_own() -> None:
    redis = {"enabled": True, "trigger": "redis"}
    first = {"model": "m", "path": "x", "autoscaling": redis}
    objects = manifests({"workers": [first, {**first, "version": 20261129}]})
    names = {"smartbatch-worker-m": "1", "smartbatch-worker-m-v20261129": "20261129"}
    for name, version in names.items():
        pod = one(objects, "Deployment", name)["spec"]["template"]
        assert pod["metadata"]["labels"]["smartbatch/version"] == version
        assert environment(pod["spec"]["containers"][0])["MODEL_VERSION"] == version
    streams = {
        each["spec"]["scaleTargetRef"]["name"]: each["spec"]["triggers"][0]["metadata"]["stream"]
        for each in of_kind(objects, "ScaledObject")
    }
    ids = {name: model_id("m", int(version)) for name, version in names.items()}
    assert streams == {name: Keys(each).requests for name, each in ids.items()}


def test_gateways_know_the_version_of_the_first_entry() -> None:
    objects = manifests({"workers": [{"model": "m", "path": "x", "version": 3}]})
    gateway = one(objects, "Deployment", "smartbatch-gateway")["spec"]["template"]["spec"]["containers"][0]
    assert from_environment(environment(gateway)).model_id == "m@3"
    assert "deployment/smartbatch-worker-m-v3" in notes({"workers": [{"model": "m", "path": "x", "version": 3}]})


def test_api_keys_of_values_become_a_secret_that_gateways_read() -> None:
    objects = manifests(EVERYTHING)
    secret = one(objects, "Secret", "smartbatch-api-keys")
    assert secret["stringData"] == {"keys.toml": "[keys.app]\nsha256 = 'x'\n"}
    pod = one(objects, "Deployment", "smartbatch-gateway")["spec"]["template"]["spec"]
    assert {"name": "api-keys", "secret": {"secretName": "smartbatch-api-keys"}} in pod["volumes"]
    assert environment(pod["containers"][0])["API_KEYS_FILE"] == "/run/secrets/api-keys/keys.toml"


def test_only_gateways_workers_and_keda_reach_the_broker() -> None:
    policy = one(manifests({}), "NetworkPolicy", "smartbatch-broker")
    (rule,) = policy["spec"]["ingress"]
    components = [peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] for peer in rule["from"][:-1]]
    assert components == ["gateway", "grpc", "worker"]
    assert rule["from"][-1] == {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "keda"}}}


def test_alerts_of_missing_workers_leave_out_models_that_scale_to_zero() -> None:
    objects = manifests(values("many-nodes"))
    rules = one(objects, "PrometheusRule", "smartbatch")["spec"]["groups"][0]["rules"]
    left_out = {rule["alert"] for rule in rules if 'model!~"embeddings|iris"' in rule["expr"]}
    assert left_out == {"SmartBatchNoLiveWorker", "SmartBatchWorkersNotReady"}
    assert yaml.safe_load(one(objects, "ConfigMap", "smartbatch-alerts")["data"]["alerts.yml"])["groups"][0]["rules"]
    dashboard = json.loads(one(objects, "ConfigMap", "smartbatch-dashboard")["data"]["smartbatch.json"])
    assert dashboard == json.loads((ROOT / "deploy/observability/grafana/dashboards/smartbatch.json").read_text())


def test_triggers_read_one_version_of_a_model() -> None:
    def triggers(trigger: str, **version: int) -> list[str]:
        worker = {"model": "m", "path": "m", "autoscaling": {"enabled": True, "trigger": trigger}, **version}
        given = {"workers": [worker], "broker": {"url": "redis://r:6379/0"}}
        (scaled,) = of_kind(manifests(given), "ScaledObject")
        return [each["metadata"].get("query") or each["metadata"]["stream"] for each in scaled["spec"]["triggers"]]

    for given, version, stream in (
        ({}, 1, "smartbatch:{m}:requests"),
        ({"version": 12}, 12, "smartbatch:{m@12}:requests"),
    ):
        backlog, load = triggers("prometheus", **given)
        assert backlog == f'max(smartbatch_backlog_seconds{{model="m",version="{version}"}})'
        assert load.count(f'{{model="m",version="{version}"}}') == 2
        assert triggers("redis", **given) == [stream]


def test_notes_name_the_next_command() -> None:
    text = notes({})
    assert "kubectl -n inference rollout status deployment/smartbatch-worker-efficientnet-lite0" in text
    assert "There are NO API KEYS" in text
    assert "NO API KEYS" not in notes({"gateway": {"apiKeysSecret": "keys"}})


def test_another_release_has_other_names() -> None:
    names = {each["metadata"]["name"] for each in manifests({}, name="vision")}
    assert all(name.startswith("vision-smartbatch") for name in names)
