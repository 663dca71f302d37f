"""What `smartbatch up` shows, and what it leaves for other commands: log lines, errors, options, its broker's URL."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from smartbatch.deploy import broker_file
from tests.brokers import Broker, eventually
from tests.deploy.up import ROOT, SETTINGS, Up


def test_commands_find_the_broker_on_whatever_port(up: Callable[..., Up], tmp_path: Path) -> None:
    first = up("--model", "simulated", "--name", "first", XDG_RUNTIME_DIR=str(tmp_path)).ready()
    second = up("--model", "simulated", "--name", "second", XDG_RUNTIME_DIR=str(tmp_path)).ready()
    folder = tmp_path / "smartbatch"
    files = [folder / f"{system.popen.pid}.url" for system in (first, second)]
    url = f"redis://127.0.0.1:{second.broker_port}/0"
    assert files[1].read_text() == url
    assert [oct(path.stat().st_mode & 0o777) for path in (folder, *files)] == ["0o700", "0o600", "0o600"]
    assert f"join      export REDIS_URL={url} for more workers" in second.lines

    def shows(*command: str, **environ: str) -> str:
        environ = {**{k: v for k, v in os.environ.items() if k not in SETTINGS}, **environ}
        words = [sys.executable, "-m", "smartbatch.deploy.cli", *command]
        environ["XDG_RUNTIME_DIR"] = str(tmp_path)
        return subprocess.run(words, env=environ, cwd=ROOT, capture_output=True, text=True, timeout=60).stdout

    for command in (["queue"], ["top", "--once"], ["limits"], ["models"]):
        shown = shows(*command)
        assert ("second" in shown, "first" in shown) == (True, False)
    assert shows("dead", "list") == "no dead letters\n"
    assert shows("queue", REDIS_URL=f"redis://127.0.0.1:{first.broker_port}/0").startswith("first ")
    second.popen.kill()  # leaves its file, of a broker that answers no more
    second.popen.wait()
    eventually(lambda: second.left == [], 10)
    assert shows("queue").startswith("first ")
    first.interrupt()
    assert first.popen.wait(20) == 0
    assert list(folder.iterdir()) == [files[1]]


def test_file_of_the_broker_is_not_looked_for_where_others_can_write(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with broker_file.written(broker.url):
        assert broker_file.find() == broker.url
        (tmp_path / "smartbatch").chmod(0o770)
        assert broker_file.find() is None
    with broker_file.written(broker.url):
        assert list((tmp_path / "smartbatch").iterdir()) == []


def test_options_reach_the_workers_and_the_gateway(up: Callable[..., Up], tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text(f"[keys.app]\nsha256 = '{hashlib.sha256(b'secret').hexdigest()}'\nrole = 'admin'\n")
    options = ("--max-batch-size", "7", "--max-wait-time", "0.5", "--api-keys-file", str(keys), "--device", "cpu")
    system = up("--model", "simulated", *options, "--dtype", "float32", "--optimize", "none").ready()
    assert system.predict().status_code == 401
    stats = system.client.get("/stats", headers={"authorization": "Bearer secret"}).json()
    (report,) = stats["models"]["simulated"]["workers"].values()
    assert (report["max_batch_size"], report["max_wait_time"]) == (7, 0.5)


def test_rejections_are_shown_and_a_misspelt_variable_once(up: Callable[..., Up]) -> None:
    system = up("--workers", "2", "--model", "simulated", MAX_QUEU="4").ready()
    for _ in range(30):
        assert system.client.post("/predict?model=none", content=b"x").status_code == 404
    eventually(lambda: any("more requests in this second" in line for line in system.lines))
    shown = [line for line in system.lines if " gateway WARNING unknown_model  [request_id=" in line]
    assert 10 <= len(shown) < 30
    assert len([line for line in system.lines if "MAX_QUEU is not a setting" in line]) == 1


def test_every_line_is_json_where_log_format_says_so(up: Callable[..., Up]) -> None:
    system = up("--workers", "2", "--model", "simulated", "--grpc", "--grpc-port", "0", LOG_FORMAT="json", MAX_QUEU="4")

    def messages() -> list[str]:
        return [json.loads(line)["message"] for line in system.lines]

    eventually(lambda: f"ready {system.url} model simulated, 2 workers" in messages(), 30)
    system.client.post("/predict?model=none", content=b"x")
    eventually(lambda: "unknown_model" in messages())
    system.children("worker")[0].kill()
    eventually(lambda: any("was killed by signal 9; restarting" in text for text in messages()))
    system.interrupt()
    assert system.popen.wait(20) == 0
    assert messages()[-1] == "draining"


def test_model_that_cannot_be_loaded_is_json_too(up: Callable[..., Up]) -> None:
    system = up("--model", "simulated:speed=9", LOG_FORMAT="json")
    assert system.popen.wait(20) == 2
    lines = [json.loads(line) for line in system.lines]
    errors = [line["message"] for line in lines if line["level"] == "error"]
    assert [text.split(",")[0] for text in errors] == [
        "smartbatch: simulated takes milliseconds from 0 as in `simulated:base_ms=4",
        "smartbatch: worker failed to start",
    ]


@pytest.mark.parametrize("method", ["__init__(self)", "load(self, device)", "forward(self, batch)"])
def test_error_of_a_users_code_is_told_with_file_and_line(up: Callable[..., Up], tmp_path: Path, method: str) -> None:
    file = tmp_path / "broken.py"
    lines = ["class Broken:", f"    def {method}: return self.missing", "    def example(self): return 'x'"]
    lines += ["    def forward(self, batch): return batch"] if "forward" not in method else []
    file.write_text("\n".join(lines))
    system = up("--model", f"{file}:Broken")
    assert system.popen.wait(30) == 2
    (line,) = [line for line in system.lines if "has no attribute 'missing'" in line]
    assert line.startswith("smartbatch: ")
    assert line.endswith(f"({file}, line 2)")
    assert not any("Traceback" in line for line in system.lines)
