"""The command line: errors are one line, come quickly and contain no traceback and no secrets."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner

from smartbatch.deploy.cli import COMMANDS, cli
from smartbatch.deploy.ports import free_port
from smartbatch.shared.model_info import InputSpec, ModelInfo, encode
from smartbatch.shared.settings import describe
from tests.brokers import Broker

ROOT = Path(__file__).parents[2]
NO_BROKER = {"REDIS_URL": "redis://somebody:geheim@127.0.0.1:1/0"}  # nothing listens on port 1


class Ended:
    """A finished run of `smartbatch`: its exit code, its duration in seconds and its lines on each stream."""

    def __init__(self, *arguments: str, **environ: str) -> None:
        started = time.monotonic()
        environ = {**{k: v for k, v in os.environ.items() if k not in SETTINGS}, **environ, "COLUMNS": "400"}
        ended = subprocess.run(
            [sys.executable, "-m", "smartbatch.deploy.cli", *arguments],
            env=environ,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.seconds = time.monotonic() - started
        self.code = ended.returncode
        self.out = ended.stdout.splitlines()
        self.err = ended.stderr.splitlines()


SETTINGS = {name for name, *_ in describe()}


def error_line(*arguments: str, environ: Mapping[str, str] = NO_BROKER, code: int = 2, within_s: float = 5.0) -> str:
    """Run the command; check that it fails with a single line, and return the line."""
    ended = Ended(*arguments, **environ)
    assert ended.code == code, ended.err
    assert ended.out == []
    assert len(ended.err) == 1, ended.err
    assert "geheim" not in ended.err[0]
    assert ended.seconds < within_s
    return ended.err[0]


@pytest.fixture
def foreign_server() -> Iterator[str]:
    """The address of an HTTP server that is not SmartBatch."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>hello</html>")

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


# --- help


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    result = CliRunner().invoke(cli, [command, "--help"])
    assert result.exit_code == 0
    assert result.output.startswith(f"Usage: cli {command} [OPTIONS]")
    assert "--help" in result.output


def test_help_lists_every_command() -> None:
    ended = Ended("--help")
    assert ended.code == 0
    assert [line.split()[0] for line in ended.out[ended.out.index("Commands:") + 1 :]] == list(COMMANDS)


def test_unknown_command_is_rejected() -> None:
    ended = Ended("serve")
    assert ended.code == 2
    assert ended.err[-1] == "Error: No such command 'serve'."


def test_help_of_an_option_names_its_variable_and_default() -> None:
    result = CliRunner().invoke(cli, ["worker", "--help"], terminal_width=200)
    assert "Maximum rows per batch. [MAX_BATCH_SIZE=32]" in " ".join(result.output.split())


@pytest.mark.parametrize("command", ["up", "worker", "gateway"])
def test_help_fits_a_terminal_and_shows_choices_and_units(command: str) -> None:
    lines = CliRunner().invoke(cli, [command, "--help"], terminal_width=80).output.splitlines()
    assert max(map(len, lines)) <= 80
    assert not any("…" in line or line.endswith("...") for line in lines)
    choices = {"gateway": "--log-level debug|info|warning|error", "up": "--dtype float32|float16|bfloat16"}
    assert any(line.strip().startswith(choices.get(command, choices["up"])) for line in lines)
    unit = "--request-timeout SECONDS" if command == "gateway" else "--max-wait-time SECONDS"
    assert any(line.strip().startswith(unit) for line in lines)


# --- ports


@pytest.mark.parametrize("command", ["gateway", "up"])
def test_port_in_use_is_reported_at_once(command: str, used_port: int) -> None:
    assert error_line(command, "--port", str(used_port), "--model", "simulated") == (
        f"smartbatch: can't listen on 127.0.0.1:{used_port}: Address already in use. Choose another port (PORT, --port)"
    )


def test_metrics_port_in_use_ends_the_worker(broker: Broker, used_port: int) -> None:
    ended = Ended("worker", "--model", "simulated", REDIS_URL=broker.url, METRICS_PORT=str(used_port))
    assert ended.code == 2
    assert ended.err[-1] == f"smartbatch: METRICS_PORT: can't listen on 127.0.0.1:{used_port}: Address already in use"
    assert not any("Traceback" in line for line in ended.err)


# --- the broker


@pytest.mark.parametrize("command", ["gateway", "worker", "up", "queue"])
def test_unreachable_broker_is_reported_within_seconds(command: str) -> None:
    line = error_line(command, environ={"MODEL_PATH": "simulated", "PORT": "0", **NO_BROKER})
    assert line.startswith("smartbatch: the broker can't be reached or can't answer: ")
    assert "127.0.0.1:1" in line


def test_models_lists_what_can_be_served_without_a_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", NO_BROKER["REDIS_URL"])
    names = [("efficientnet_lite0", "image classifier"), ("resnet18", "torchvision image classifier")]
    monkeypatch.setattr("smartbatch.worker.models.listing", lambda: names)
    result = CliRunner().invoke(cli, ["models"])
    assert (result.exit_code, result.stderr) == (0, "")
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert lines[0] == "can't list served models: the broker is unavailable (REDIS_URL)"
    assert "efficientnet_lite0 image classifier" in lines
    assert "… and 1 more torchvision image classifiers (--all)" in lines


def test_queue_reports_that_no_model_is_announced(broker: Broker) -> None:
    ended = Ended("queue", REDIS_URL=broker.url)
    assert (ended.code, ended.out, ended.err) == (0, ["no model has been announced yet"], [])


# --- models


def test_models_lists_each_of_several_inputs(broker: Broker) -> None:
    specs = (InputSpec(("image", "tensor"), name="photo"), InputSpec(("tensor",), "float32", (3,), "numbers"))
    several = ModelInfo("mixed", "x.py:X", InputSpec(("inputs",)), 8, inputs=specs)
    single = ModelInfo("iris", "y.py:Y", InputSpec(("tensor",), "float32", (4,)), 8)
    for info in (several, single):
        broker.sync.hset("smartbatch:models", info.name, encode(info))
    lines = [" ".join(line.split()) for line in Ended("models", REDIS_URL=broker.url).out]
    assert "mixed x.py:X photo: image, tensor; numbers: tensor photo: any; numbers: float32 [3] 0" in lines
    assert "iris y.py:Y tensor float32 [4] 0" in lines


def test_unknown_model_is_rejected_with_similar_names(broker: Broker) -> None:
    line = error_line("worker", "--model", "resnet8", environ={"REDIS_URL": broker.url}, within_s=30)
    assert line.startswith("smartbatch: unknown model 'resnet8'; did you mean resnet18 or ")
    assert "MODEL_PATH is" in line


@pytest.mark.parametrize(
    ("model", "text"),
    [
        ("smartbatch.shared.errors:Nothing", "Nothing"),
        ("simulated:base_ms=-1", "got 'base_ms=-1'"),
    ],
)
def test_model_that_cannot_be_created_is_rejected_by_name(broker: Broker, model: str, text: str) -> None:
    line = error_line("worker", "--model", model, environ={"REDIS_URL": broker.url}, within_s=30)
    assert line.startswith("smartbatch: ")
    assert text in line


def last_line(*arguments: str, **environ: str) -> str:
    """Run a worker that logs before it fails. Check that it ends without a traceback; return its last line."""
    ended = Ended(*arguments, LOG_LEVEL="warning", **environ)
    assert ended.code == 2, ended.err
    assert [line for line in ended.err if "smartbatch: " in line] == ended.err[-1:]
    assert not any("Traceback" in line for line in ended.err)
    return ended.err[-1]


def test_missing_weight_file_is_named(broker: Broker, tmp_path: Path) -> None:
    path = str(tmp_path / "net.pth")
    line = last_line("worker", "--model", "resnet18", "--weights", path, REDIS_URL=broker.url)
    assert line.startswith(f"smartbatch: MODEL_WEIGHTS: there is no file {path}; choose ")


def test_unavailable_weights_end_the_worker_and_name_the_alternatives(broker: Broker, tmp_path: Path) -> None:
    nowhere = "http://127.0.0.1:1"
    environ = {"TORCH_HOME": str(tmp_path), "https_proxy": nowhere, "HTTPS_PROXY": nowhere, "REDIS_URL": broker.url}
    line = last_line("worker", "--model", "resnet18", **environ)
    assert "resnet18" in line
    assert "MODEL_WEIGHTS=random" in line


# --- settings


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("MAX_BATCH_SIZE", "x", "expected a whole number from 1 to 65536"),
        ("MAX_WAIT_TIME", "10ms", "expected a number of seconds from 0 to 60"),
        ("LOG_FORMAT", "xml", "expected human or json"),
    ],
)
@pytest.mark.parametrize("command", ["worker", "settings"])
def test_invalid_setting_is_rejected_with_expected_and_actual_value(
    command: str, variable: str, value: str, expected: str
) -> None:
    line = error_line(command, environ={variable: value, **NO_BROKER})
    assert line.startswith(f"smartbatch: {variable}: {expected}")
    assert line.endswith(f"got {value!r}")


def test_option_overrides_the_environment_and_is_validated() -> None:
    line = error_line("gateway", "--port", "70000", environ={"PORT": "8000", **NO_BROKER})
    assert line == "smartbatch: PORT: expected a whole number from 0 to 65535, got '70000'"


def test_workers_option_of_a_gateway_sets_its_processes() -> None:
    line = error_line("gateway", "--workers", "0", environ=NO_BROKER)
    assert line == "smartbatch: GATEWAY_PROCESSES: expected a whole number from 1 to 256, got '0'"


def test_option_of_up_out_of_range_is_rejected() -> None:
    ended = Ended("up", "--workers", "0")
    assert ended.code == 2
    assert ended.err[-1].startswith("Error: Invalid value for '--workers': 0 is not in the range")


def test_settings_lists_every_variable_with_its_value_and_no_password() -> None:
    ended = Ended("settings", MAX_BATCH_SIZE="64", MODEL_PATH="examples.[bold]:Net", **NO_BROKER)
    assert (ended.code, ended.err) == (0, [])
    lines = [line for line in ended.out if not line.startswith(" ")]
    values = dict(line.split("=", 1) for line in lines)
    assert list(values) == [name for name, *_ in describe()]
    assert values["MAX_BATCH_SIZE"] == "64  default: 32"
    assert values["PORT"] == "8000"
    assert values["MODEL_PATH"] == "examples.[bold]:Net  default: efficientnet_lite0"
    assert values["REDIS_URL"] == "redis://somebody:***@127.0.0.1:1/0  default: redis://127.0.0.1:6379/0"


def test_settings_fit_a_terminal_of_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smartbatch.deploy.tables.PIPED_WIDTH", 80)
    lines = CliRunner().invoke(cli, ["settings"]).output.splitlines()
    assert max(map(len, lines)) <= 80
    assert "    Maximum rows per batch" in lines


@pytest.mark.parametrize("command", ["up", "gateway", "worker"])
def test_misspelt_variable_is_warned_of(command: str) -> None:
    environ = {"MAX_BATCHSIZE": "4", "MODEL_PATH": "simulated", "PORT": "0", "OTHER": "1", **NO_BROKER}
    ended = Ended(command, **environ)
    warnings = [line for line in ended.err if "is not a setting" in line]
    assert [line.split(f" {command} ")[1] for line in warnings] == [
        "WARNING MAX_BATCHSIZE is not a setting and has no effect; did you mean MAX_BATCH_SIZE?"
    ]


@pytest.mark.parametrize("setting", [{"PORT": "abc"}, {"MODEL_PATH": "simulated", "PORT": "0"}])
def test_error_of_a_server_whose_log_is_json_is_a_line_of_it(setting: dict[str, str]) -> None:
    ended = Ended("up", LOG_FORMAT="json", **setting, **NO_BROKER)
    assert ended.code == 2
    (line,) = [json.loads(line) for line in ended.err]
    assert line["level"] == "critical"
    expected = "PORT: expected a whole number" if "abc" in setting.values() else "the broker can't be reached"
    assert line["message"].startswith(expected)


@pytest.mark.parametrize("command", ["up", "gateway", "worker"])
@pytest.mark.parametrize("arguments", [["--max-batchsize", "4"], ["--port"], ["a word"]])
def test_usage_error_of_a_server_whose_log_is_json_is_a_line_of_it(command: str, arguments: list[str]) -> None:
    runs = [Ended(command, *arguments, LOG_FORMAT="json")]
    if command != "up":  # which has no such option
        runs.append(Ended(command, "--log-format", "json", *arguments))
    for ended in runs:
        assert (ended.code, ended.out) == (2, [])
        (line,) = [json.loads(line) for line in ended.err]
        assert line["level"] == "critical"
        assert arguments[0] in line["message"]
        assert line["message"].endswith(f"; see smartbatch {command} --help")


def test_usage_error_of_another_command_is_text() -> None:
    assert Ended("queue", "--nothing", LOG_FORMAT="json").err[-1] == "Error: No such option '--nothing'."


@pytest.mark.parametrize("command", ["gateway", "settings"])
def test_redis_url_of_another_scheme_is_rejected_without_its_password(command: str) -> None:
    line = error_line(command, environ={"REDIS_URL": "http://somebody:geheim@h:99"})
    assert line.startswith("smartbatch: REDIS_URL: expected redis://")
    assert line.endswith("got 'http://somebody:***@h:99'")


@pytest.mark.parametrize("options", [["--cluster", "3", "--sentinel"], ["--sentinel", "--redis-url", "redis://h"]])
def test_up_takes_one_kind_of_broker(options: list[str]) -> None:
    ended = Ended("up", *options)
    assert ended.code == 2
    assert ended.err[-1] == "Error: --cluster, --sentinel and REDIS_URL (--redis-url) exclude each other"


# --- predict


def test_predict_without_a_server_names_the_address(tmp_path: Path) -> None:
    file = tmp_path / "cat.jpg"
    file.write_bytes(b"x")
    port = free_port()
    line = error_line("predict", str(file), "--url", f"http://127.0.0.1:{port}", code=1)
    assert line.startswith(f"{file}: can't reach http://127.0.0.1:{port}/predict: ")


def test_predict_detects_a_foreign_server(tmp_path: Path, foreign_server: str) -> None:
    file = tmp_path / "cat.jpg"
    file.write_bytes(b"x")
    line = error_line("predict", str(file), "--url", foreign_server, code=1)
    assert line.startswith(f"{file}: {foreign_server}/predict is not a SmartBatch server: ")


@pytest.mark.parametrize(
    ("options", "environ", "target"),
    [
        (["--url", "localhost:{}"], {}, "http://localhost:{}/predict"),
        (["--url", "localhost:{}/"], {"PORT": "1"}, "http://localhost:{}/predict"),
        ([], {"PORT": "{}"}, "http://127.0.0.1:{}/predict"),
        (["--url", "http://127.0.0.1:{}"], {"PORT": "1"}, "http://127.0.0.1:{}/predict"),
    ],
)
def test_predict_finds_the_server_by_host_and_port_or_by_port(
    tmp_path: Path, options: list[str], environ: dict[str, str], target: str
) -> None:
    file = tmp_path / "cat.jpg"
    file.write_bytes(b"x")
    port = str(free_port())
    options = [option.format(port) for option in options]
    environ = {name: value.format(port) for name, value in environ.items()}
    line = error_line("predict", str(file), *options, environ=environ, code=1)
    assert line.startswith(f"{file}: can't reach {target.format(port)}: ")


@pytest.mark.parametrize("url", ["ftp://h", "file:///etc/passwd"])
def test_predict_accepts_http_addresses_only(tmp_path: Path, url: str) -> None:
    file = tmp_path / "cat.jpg"
    file.write_bytes(b"x")
    assert "--url: expected http://, https:// or host:port, got " in error_line(
        "predict", str(file), "--url", url, code=1
    )


def test_predict_of_a_missing_file_is_rejected() -> None:
    ended = Ended("predict", "/nowhere/cat.jpg")
    assert ended.code == 2
    assert ended.err[-1] == "Error: Invalid value for 'FILES...': File '/nowhere/cat.jpg' does not exist."
