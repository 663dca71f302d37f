"""`smartbatch key new`, and `smartbatch predict` with a key."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner

from smartbatch.deploy.cli import cli, main
from smartbatch.gateway.auth.keys import Key, from_file


def test_the_key_is_shown_once_and_the_file_holds_its_digest(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    runner = CliRunner()
    first = runner.invoke(cli, ["key", "new", "my-app", "--file", str(file), "--rate", "50", "--quota", "9"])
    second = runner.invoke(
        cli, ["key", "new", "b.c", "--file", str(file), "--role", "admin", "--model", "x", "--model", "y"]
    )
    keys = [first.output.strip(), second.output.strip()]
    assert all(key.startswith("sb_") and len(key) == 46 for key in keys)
    digests = [hashlib.sha256(key.encode()).hexdigest() for key in keys]
    assert from_file(file.read_bytes(), "") == {
        "my-app": Key(sha256=digests[0], rate=50.0, quota=9),
        "b.c": Key(sha256=digests[1], role="admin", models=("x", "y")),
    }
    assert not any(key in file.read_text() for key in keys)


def test_without_a_file_the_table_is_also_printed() -> None:
    lines = CliRunner().invoke(cli, ["key", "new", "app"]).output.splitlines()
    key = lines[0].split()[-1]
    assert lines[2:] == ["[keys.app]", f'sha256 = "{hashlib.sha256(key.encode()).hexdigest()}"']
    assert from_file("\n".join(lines).encode(), "").keys() == {"app"}  # can be appended unchanged


@pytest.mark.parametrize(
    ("name", "text"), [("app", "Cannot declare"), ("a b", "a key name must be"), ("", "a key name")]
)
def test_an_invalid_name_leaves_the_file_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, name: str, text: str
) -> None:
    file = tmp_path / "keys.toml"
    CliRunner().invoke(cli, ["key", "new", "app", "--file", str(file)])
    before = file.read_bytes()
    monkeypatch.setattr("sys.argv", ["smartbatch", "key", "new", name, "--file", str(file)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert text in capsys.readouterr().err
    assert file.read_bytes() == before


class EchoAuthorization(BaseHTTPRequestHandler):
    """Responds with the Authorization header that it received."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        content = f'{{"detail": "got: {self.headers["authorization"]}"}}'.encode()
        self.send_response(401)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args) -> None: ...


@pytest.fixture
def server() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), EchoAuthorization)
    threading.Thread(target=server.serve_forever).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("words", "environ", "received"),
    [
        ([], {}, "got: None"),
        ([], {"SMARTBATCH_API_KEY": "sb_x\n"}, "got: Bearer sb_x"),
        (["--api-key", "sb_y"], {"SMARTBATCH_API_KEY": "sb_x"}, "got: Bearer sb_y"),
    ],
)
def test_predict_sends_the_key(server: str, words: list[str], environ: dict[str, str], received: str) -> None:
    done = CliRunner().invoke(cli, ["predict", __file__, "--url", server, *words], env=environ)
    assert done.exit_code == 1
    assert f"401 Unauthorized: {received}" in done.output
