"""`smartbatch up` with several models, and `smartbatch model load|unload|list`, as real processes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from redis.cluster import ClusterNode, RedisCluster
from redis.sentinel import Sentinel

from smartbatch.shared import model_info, routing
from smartbatch.shared.keys import ROUTES
from smartbatch.shared.model_info import InputSpec, ModelInfo
from smartbatch.shared.routing import RoutingTable
from tests.brokers import Broker, eventually
from tests.deploy.up import ROOT, SETTINGS, Up

FAST = "simulated:base_ms=2"
TABLES_HISTORY = b"smartbatch:{routes}:history:m"


class Control:
    """A launcher on the broker of the session, and commands to it."""

    def __init__(self, broker: Broker, start: Callable[..., Up]) -> None:
        self.broker = broker
        self.redis_url = broker.url
        self._start = start

    def up(self, *options: str, **environ: str) -> Up:
        self.system = self._start(*options, REDIS_URL=self.redis_url, **environ)
        return self.system

    def up_with_servers(self, option: str, *options: str) -> Up:
        """Start a launcher with embedded servers of its own, --cluster or --sentinel."""
        self.system = self._start(option, *options).ready()
        self.redis_url = next(match[1] for line in self.system.lines if (match := re.search(r" at (redis\S+)$", line)))
        return self.system

    def run(self, *words: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words), env=self.environ, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s
        )

    def start(self, *words: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen(self.command(*words), env=self.environ, cwd=ROOT, stdout=pipe, stderr=pipe, text=True)

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "smartbatch.deploy.cli", "model", *words]

    @property
    def environ(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name not in SETTINGS}
        return {**kept, "REDIS_URL": self.redis_url}

    def ok(self, *words: str) -> list[str]:
        ended = self.run(*words)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout.splitlines()

    def fails(self, *words: str) -> str:
        ended = self.run(*words)
        assert ended.returncode == 2, ended.stdout
        return ended.stderr.strip()

    def list(self) -> dict[tuple[str, int], dict[str, Any]]:
        return {(row["model"], row["version"]): row for row in json.loads("\n".join(self.ok("list", "--json")))}

    def states(self) -> dict[tuple[str, int], str]:
        return {which: row["state"] for which, row in self.list().items()}

    def answers(self, model: str) -> bool:
        response = self.system.client.post(f"/predict?model={model}", content=b"x")
        version = model.partition("@")[2]
        return response.status_code == 200 and response.json()["version"] == int(version or 1)

    def status(self, model: str) -> int:
        return self.system.client.post(f"/predict?model={model}", content=b"x").status_code

    def keys(self) -> set[bytes]:
        """Keys but those of gateways and launchers, which expire, and of a partition's traffic."""
        found = self.broker.sync.keys("*")
        passing = re.compile(
            rb".*:(gateways|gateway:.*|worker:.*|wakeup|reply:.*|inbox:.*|served)|smartbatch:\{launchers\}.*"
        )
        return {key for key in found if not passing.fullmatch(key)}


@pytest.fixture
def control(broker: Broker, up: Callable[..., Up]) -> Iterator[Control]:
    yield Control(broker, up)


def test_several_models_and_versions_are_served(control: Control) -> None:
    words = ("--model", FAST, "--model", f"m={FAST}", "--model", f"m@2={FAST}")
    system = control.up(*words, "--workers", "2").ready()
    assert f"ready     {system.url}  3 models, 6 workers" in system.lines
    assert [line for line in system.lines if line.startswith(("model ", "try "))] == [
        "model     simulated, 2 workers",
        f"try       curl -d hello '{system.url}/predict?model=simulated'",
        "model     m, 2 workers",
        f"try       curl -d hello '{system.url}/predict?model=m@1'",
        "model     m@2, 2 workers",
        f"try       curl -d hello '{system.url}/predict?model=m@2'",
    ]
    assert system.predict().json()["model"] == "simulated"
    assert control.answers("m@1") and control.answers("m@2")
    assert set(control.states().items()) == {(("m", 1), "ready"), (("m", 2), "ready"), (("simulated", 1), "ready")}
    threads = {process.environ()["TORCH_THREADS"] for process in system.children("worker")}
    assert threads == {str(max(1, (os.cpu_count() or 1) // 6))}
    system.interrupt()
    assert system.popen.wait(20) == 0
    assert control.broker.sync.keys("smartbatch:{launchers}*") == []


def test_models_of_a_file_have_their_own_settings(control: Control, tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_text(f"""
        [[models]]
        name = "a"
        path = "{FAST}"
        max_batch_size = 5

        [[models]]
        name = "a"
        version = 2
        path = "{FAST}"
        workers = 2
        max_wait_time = 0.5
    """)
    system = control.up("--config", str(file)).ready()
    eventually(lambda: control.list()[("a", 2)]["ready_workers"] == 2)
    models = system.client.get("/stats").json()["models"]
    limits = {
        model: {(w["max_batch_size"], w["max_wait_time"]) for w in models[model]["workers"].values()}
        for model in models
    }
    assert limits == {"a": {(5, 0.01)}, "a@2": {(32, 0.5)}}


def test_a_wrong_file_stops_before_anything_is_started(control: Control, tmp_path: Path) -> None:
    (file := tmp_path / "models.toml").write_text("[[models]]\nname = 'a'\npath = 'simulated'\nwindw = 'fixed'")
    system = control.up("--config", str(file))
    assert system.popen.wait(20) == 2
    assert system.lines == [f"smartbatch: {file}: model a: unknown field 'windw'; did you mean window?"]


@pytest.mark.extended
def test_a_repository_is_served_by_its_policies_and_a_new_version_when_it_is_asked_for(
    control: Control, tmp_path: Path
) -> None:
    for version in (1, 2):
        write(tmp_path / f"m/{version}/model.toml", f"path = '{FAST}'")
    write(
        tmp_path / "other/7/model.py",
        "class Net:\n    def forward(self, batch):\n        return [1] * len(batch)\n"
        "    def example(self):\n        return 'x'\n",
    )
    write(tmp_path / "m/model.toml", "max_batch_size = 3")
    system = control.up("--models", str(tmp_path)).ready()
    assert control.answers("m@2") and control.status("m@1") == 404
    assert control.answers("other@7")
    assert control.list()["m", 1]["state"] == "not loaded"
    write(tmp_path / "m/3/model.toml", f"path = '{FAST}'\nworkers = 2")
    assert control.ok("load", "m@3")[-1].startswith("m@3 is ready, 2 workers, after ")
    assert control.answers("m@3")
    assert control.ok("load", "m") == ["m@3: already loaded"]
    assert "m/9: there is no such version; versions: 1, 2, 3" in control.fails("load", "m@9")
    write(tmp_path / "m/4/readme", "")
    assert "m/4: expected one of model.pt2, model.py or config.json" in control.fails("load", "m@4")
    assert system.client.get("/stats").json()["models"]["m@3"]["workers"].popitem()[1]["max_batch_size"] == 3


def test_a_version_is_loaded_and_unloaded_and_leaves_no_key(control: Control) -> None:
    control.up("--model", f"m={FAST}").ready()
    assert control.answers("m")
    before = control.keys()
    lines = control.ok("load", "m@2", "--path", FAST, "--max-batch-size", "4", "--workers", "2")
    assert {"m@2 worker 1  ready", "m@2 worker 2  ready"} <= set(lines)
    assert control.answers("m@2")  # at once
    row = control.list()[("m", 2)]
    assert (row["state"], row["ready_workers"], row["path"]) == ("ready", 2, FAST)
    workers = {process.pid for process in control.system.children("worker")}
    lines = control.ok("unload", "m@2")
    assert lines == ["m@2 gets no more requests", "ending 2 workers", "m@2 unloaded"]
    assert len({process.pid for process in control.system.children("worker")} & workers) == 1
    assert control.status("m@2") == 404
    assert control.answers("m@1")
    assert control.keys() - before == {TABLES_HISTORY}
    eventually(lambda: not [key for key in control.broker.sync.keys("*") if b"{m@2}" in key], 20)
    assert control.states() == {("m", 1): "ready"}


@pytest.mark.extended
@pytest.mark.parametrize("option", ["--cluster=3", "--sentinel"])
def test_a_version_comes_and_goes_on_several_servers(control: Control, option: str) -> None:
    control.up_with_servers(option, "--model", f"m={FAST}")
    control.ok("load", "m@2", "--path", FAST, "--workers", "2")
    assert control.answers("m@2") and control.answers("m@1")
    assert control.states() == {("m", 1): "ready", ("m", 2): "ready"}
    assert control.ok("unload", "m@2")[-1] == "m@2 unloaded"
    assert control.status("m@2") == 404 and control.answers("m@1")
    eventually(lambda: not [key for key in _all_keys(control.redis_url) if "{m@2" in str(key)], 20)


def _all_keys(url: str) -> list[bytes | str]:
    """Return the keys of all primaries."""
    kind, _, rest = url.partition("://")
    addresses = [address.rsplit(":", 1) for address in rest.partition("/")[0].split(",")]
    if kind == "redis+sentinel":
        with Sentinel(addresses).master_for("smartbatch") as primary:
            return primary.keys("*")
    with RedisCluster(startup_nodes=[ClusterNode(host, int(port)) for host, port in addresses]) as cluster:
        return cluster.keys("*", target_nodes=RedisCluster.PRIMARIES)


def test_no_request_is_lost_while_a_version_is_unloaded(control: Control) -> None:
    control.up("--model", f"m={FAST}").ready()
    control.ok("load", "m@2", "--path", "simulated:base_ms=50", "--max-batch-size", "1")
    stop = False

    def send() -> list[int]:
        statuses = []
        while not stop:
            statuses.append(control.status("m"))
        return statuses

    with ThreadPoolExecutor(4) as pool:
        sending = [pool.submit(send) for _ in range(4)]
        try:
            control.ok("unload", "m@2")
        finally:
            stop = True
        statuses = [status for each in sending for status in each.result()]
    assert set(statuses) == {200}
    assert len(statuses) > 20


def test_a_failed_load_is_told_and_changes_nothing_else(control: Control, tmp_path: Path) -> None:
    control.up("--model", f"m={FAST}").ready()
    assert control.answers("m")
    before = control.keys()
    assert "simulated takes milliseconds" in control.fails("load", "m@2", "--path", "simulated:speed=9")
    (tmp_path / "net.py").write_text(
        "class Net:\n    def load(self): raise RuntimeError('no weights')\n    def forward(self, x): ..."
    )
    assert "no weights" in control.fails("load", "m@3", "--path", f"{tmp_path}/net.py:Net")
    (tmp_path / "dies.py").write_text(
        "import os\nclass Net:\n    def load(self): os.kill(os.getpid(), 9)\n    def forward(self, x): ..."
    )
    assert (
        control.fails("load", "m@4", "--path", f"{tmp_path}/dies.py:Net")
        == "smartbatch: m@4 worker was killed by signal 9"
    )
    assert "WINDOW: expected adaptive or fixed, got 'x'" in control.fails(
        "load", "m@5", "--path", FAST, "--window", "x"
    )
    found = control.list()
    assert {which: row["state"] for which, row in found.items()} == {
        ("m", 1): "ready",
        ("m", 2): "failed",
        ("m", 3): "failed",
        ("m", 4): "failed",
    }
    assert "no weights" in found[("m", 3)]["text"]
    assert control.keys() == before
    assert len(control.system.children("worker")) == 1
    assert control.answers("m")
    assert control.ok("load", "m@2", "--path", FAST)[-1].startswith("m@2 is ready")
    assert control.ok("unload", "m@3")[-1] == "m@3 unloaded"
    assert ("m", 3) not in control.list()


@pytest.mark.extended
def test_a_version_with_a_weight_is_unloaded_only_once_it_has_none(control: Control) -> None:
    control.up("--model", f"m={FAST}", "--model", f"m@2={FAST}").ready()
    redis = control.broker.sync
    redis.hset(ROUTES, "m", routing.encode(RoutingTable({1: 90, 2: 10})))
    error = control.fails("unload", "m@1", "--timeout", "1")
    assert "version 1 has the weight 90 in the routing table of m, after 1 s; nothing was changed" in error
    assert routing.decode(redis.hget(ROUTES, "m")) == RoutingTable({1: 90, 2: 10})
    assert control.states() == {("m", 1): "ready", ("m", 2): "ready"}
    with control.start("unload", "m@1") as waiting:
        assert waiting.stdout is not None
        assert waiting.stdout.readline().startswith("version 1 has the weight 90; waiting until it is 0")
        redis.hset(ROUTES, "m", routing.encode(RoutingTable({2: 10})))
        assert waiting.wait(30) == 0
    assert routing.decode(redis.hget(ROUTES, "m")).weights == {2: 10}
    redis.hset(ROUTES, "m", routing.encode(RoutingTable({2: 10, 3: 1}, sticky="x-user")))
    control.ok("load", "m@3", "--path", FAST)
    control.ok("unload", "m@3", "--now")
    table = routing.decode(redis.hget(ROUTES, "m"))
    assert (table.weights, table.draining, table.sticky) == ({2: 10}, (), "x-user")


def test_unloading_is_completed_by_the_same_command(control: Control) -> None:
    control.up("--model", f"m={FAST}", "--model", f"m@2={FAST}").ready()
    redis = control.broker.sync
    # What an unload leaves that ended after the workers had: announced and draining, without workers.
    redis.hset("smartbatch:models", "m@3", model_info.encode(ModelInfo("m", FAST, InputSpec(("raw",)), 8, version=3)))
    redis.hset("smartbatch:{m@3}:limits", "max_batch_size", 3)
    redis.hset(ROUTES, "m", routing.encode(RoutingTable(draining=(3,))))
    assert control.states()[("m", 3)] == "no workers"
    assert control.ok("unload", "m@3")[-1] == "m@3 unloaded"
    assert not [key for key in redis.keys("*") if b"{m@3}" in key]
    assert redis.hkeys(ROUTES) == []
    assert "m@3 is not loaded; models of this launcher: m, m@2" in control.fails("unload", "m@3")


@pytest.mark.extended
def test_all_versions_are_unloaded_by_the_name(control: Control) -> None:
    control.up("--model", FAST, "--model", f"m={FAST}", "--model", f"m@2={FAST}").ready()
    assert control.ok("unload", "m")[-1] == "m, m@2 unloaded"
    assert control.states() == {("simulated", 1): "ready"}
    assert "m is not loaded" in control.fails("unload", "m")


@pytest.mark.extended
def test_a_model_of_another_launcher_is_refused_and_the_command_needs_to_know_which(
    control: Control, up: Callable[..., Up]
) -> None:
    first = control.up("--model", f"a={FAST}").ready()
    second = up("--model", f"b={FAST}", REDIS_URL=control.broker.url).ready()
    ids = {row["model"]: row["launcher"] for row in control.list().values()}
    assert "none of the launchers has the model c; choose one with --launcher: " in control.fails(
        "load", "c", "--path", FAST
    )
    error = control.fails("load", "b", "--path", FAST, "--launcher", ids["a"])
    assert f"b is run by the launcher {ids['b']} (host " in error and f"pid {second.popen.pid})" in error
    assert control.ok("load", "c", "--path", FAST, "--launcher", ids["b"])
    assert control.list()[("c", 1)]["launcher"] == ids["b"]
    assert control.ok("load", "a@2", "--path", FAST)  # by the one that has the model a
    assert control.list()[("a", 2)]["launcher"] == ids["a"]
    assert "b has workers that this launcher did not start" in control.fails("unload", "b", "--launcher", ids["a"])
    assert first.popen.poll() is None


@pytest.mark.extended
def test_a_launcher_may_refuse_paths_or_all_commands(control: Control, up: Callable[..., Up], tmp_path: Path) -> None:
    write(tmp_path / "m/1/model.toml", f"path = '{FAST}'")
    first = control.up("--models", str(tmp_path), "--model-commands", "repository").ready()
    assert "loads only from its repository" in control.fails("load", "evil", "--path", "module:Class")
    write(tmp_path / "m/2/model.toml", f"path = '{FAST}'")
    assert control.ok("load", "m@2")[-1].startswith("m@2 is ready")
    first.interrupt()
    assert first.popen.wait(20) == 0
    control.up("--models", str(tmp_path), "--model-commands", "none").ready()
    assert "no launcher" in control.fails("load", "m@1")


def test_commands_need_a_launcher_and_a_broker(control: Control) -> None:
    text = control.fails("load", "m", "--path", FAST)
    assert text.startswith("smartbatch: no launcher (`smartbatch up`) runs on this broker.")
    assert "smartbatch worker" in text and "docs/versions.md" in text
    assert control.ok("list") == ["no model is served"]
    ended = subprocess.run(
        control.command("load", "m", "--path", FAST),
        env={**control.environ, "REDIS_URL": "redis://127.0.0.1:1/0"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2 and "the broker can't be reached" in ended.stderr


@pytest.mark.extended
def test_a_load_goes_on_after_ctrl_c(control: Control) -> None:
    control.up("--model", f"m={FAST}").ready()
    with control.start("load", "m@2", "--path", "simulated:load_ms=10000") as loading:
        until_loading(loading)
        assert "another command about the model m is in progress" in control.fails("unload", "m@2")
        loading.send_signal(signal.SIGINT)
        assert loading.wait(10) == 2
        assert loading.stderr is not None
        assert "the load goes on; `smartbatch model list` shows its progress" in loading.stderr.read()
    assert control.list()[("m", 2)]["state"] == "loading"
    eventually(lambda: control.states()[("m", 2)] == "ready", 30)


@pytest.mark.extended
def test_a_load_goes_on_while_the_broker_is_away(control: Control) -> None:
    control.up("--model", f"m={FAST}").ready()
    with control.start("load", "m@2", "--path", "simulated:load_ms=3000") as loading:
        until_loading(loading)
        control.broker.pause()
        try:
            time.sleep(4)  # longer than loading and than the timeout of a command
        finally:
            control.broker.resume()
        out, _ = loading.communicate(timeout=40)
    assert loading.returncode == 0, out
    assert out.splitlines()[-1].startswith("m@2 is ready")
    eventually(lambda: control.answers("m@2"), 20)


@pytest.mark.extended
def test_a_loaded_worker_that_was_once_ready_is_restarted(control: Control) -> None:
    system = control.up("--model", f"m={FAST}").ready()
    control.ok("load", "m@2", "--path", FAST)
    [victim] = [process for process in system.children("worker") if process.environ().get("MODEL_VERSION") == "2"]
    victim.kill()
    eventually(lambda: "m@2 worker was killed by signal 9; restarting in 0.2 s" in system.lines)
    eventually(lambda: control.answers("m@2"), 20)


@pytest.mark.extended
@pytest.mark.timeout(1800)
def test_fifty_loads_need_no_more_memory(control: Control) -> None:
    """Launcher and gateway, from the tenth on: until then they fill caches."""
    system = control.up("--model", f"m={FAST}").ready()
    [gateway] = system.children("gateway")
    watched = (psutil.Process(system.popen.pid), gateway)
    sizes, keys = [], set()
    for _ in range(50):
        control.ok("load", "m@2", "--path", FAST)
        eventually(lambda: control.answers("m@2"))
        control.ok("unload", "m@2")
        sizes.append([process.memory_info().rss / 1e6 for process in watched])
        keys.add(frozenset(control.keys()))
    print("MB of launcher and gateway:", [[round(size, 1) for size in each] for each in sizes[::5]])
    assert all(last < 1.02 * tenth for last, tenth in zip(sizes[-1], sizes[9], strict=True)), sizes
    assert len(keys) == 1
    assert watched[0].num_fds() < 60 and gateway.num_fds() < 60
    assert control.answers("m")


def until_loading(loading: subprocess.Popen[str]) -> None:
    assert loading.stdout is not None
    assert any("loading simulated" in line for line in loading.stdout)


def write(file: Path, content: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)
