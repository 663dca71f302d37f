"""docs/new-weights.md: its commands replace a worker's weights under load, and no request fails."""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import torch
from torch import nn

from tests.brokers import eventually
from tests.system.stack import ROOT, Stack

PAGE = (ROOT / "docs/new-weights.md").read_text()
START, REPLACE = re.findall(r"^```bash\n(.*?)^```$", PAGE.partition("## Docker")[0], re.M | re.S)
NET = """
from torch import nn

from smartbatch import InputSpec


class Net(nn.Linear):
    input = InputSpec(("tensor",), "float32", (4,))

    def __init__(self):
        super().__init__(4, 1)
"""


class Load:
    """Four connections that send without a pause, until the block ends. `answers` are theirs, by their end."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.answers: list[tuple[int, str]] = []
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._send) for _ in range(4)]

    def _send(self) -> None:
        with httpx.Client(timeout=30) as client:
            while not self._ended.is_set():
                response = client.post(f"{self.url}/predict", json={"data": [[1, 1, 1, 1]]})
                content = response.json()
                data = content["outputs"]["output"]["data"] if response.status_code == 200 else content
                self.answers.append((response.status_code, str(data)))

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()


@pytest.mark.timeout(180)
def test_the_commands_of_the_page_replace_weights_without_a_failed_request(
    stack: Callable[..., Stack], tmp_path: Path
) -> None:
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    (tmp_path / "net.py").write_text(NET)
    for name, value in (("old", 1.0), ("new", 2.0)):
        state = nn.Linear(4, 1).requires_grad_(False)
        torch.save({name: part.fill_(value) for name, part in state.state_dict().items()}, tmp_path / f"{name}.pt")
    system = stack(MODEL_NAME="Net", MAX_BATCH_SIZE=4)
    system.gateway()
    log = tmp_path / "shell.log"
    with log.open("wb") as out:
        shell = subprocess.Popen(
            ["bash", "-e"],
            cwd=tmp_path,
            env={"PATH": "/usr/bin:/bin", **system.environ, "TORCH_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=out,
            text=True,
        )
    assert shell.stdin
    try:
        shell.stdin.write(START)
        shell.stdin.flush()
        eventually(lambda: ready(system) == 1, 60, 0.1)
        with Load(system.url) as load:
            eventually(lambda: len(load.answers) > 50, 30)
            shell.stdin.write(REPLACE.replace("localhost:8000", system.url.removeprefix("http://")))
            shell.stdin.write("echo replaced\n")
            shell.stdin.flush()
            eventually(lambda: "replaced" in log.read_text() or shell.poll() is not None, 60, 0.1)
            eventually(lambda: ready(system) == 1, 10)
            answered = len(load.answers)
            eventually(lambda: len(load.answers) > answered + 50, 30)
        assert "replaced" in log.read_text(), log.read_text()  # the old worker ended with exit code 0
        assert {status for status, _ in load.answers} == {200}, log.read_text()
        assert {data for _, data in load.answers} == {"[[5.0]]", "[[10.0]]"}
        assert {data for _, data in load.answers[answered + 4 :]} == {"[[10.0]]"}  # but for what was on its way
    finally:
        shell.stdin.write("kill $(jobs -p)\nwait\n")
        shell.stdin.close()
        shell.wait(30)


def ready(system: Stack) -> int:
    return system.client.get(f"{system.url}/readyz").json()["ready_workers"].get("Net", 0)
