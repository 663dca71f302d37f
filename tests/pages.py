"""Run the commands that a page of the documentation shows.

In a ```console block a line that begins with `$ ` is a command, and the lines below it are its output. `…` matches
anything; line breaks, measured times and close reasons are ignored, and numbers are compared to three digits. A
```python block whose first line is `# name.py` is a file. A section can start a server with `make up`; otherwise its
commands use the server of plain `make up`.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path
from typing import IO, Self

from smartbatch.deploy.ports import free_port
from tests.brokers import eventually

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
START_TIMEOUT_S = 120.0


def sections(page: str) -> list[list[tuple[str, str]]]:
    """Return the blocks of each section, as (language, text)."""
    return [BLOCK.findall(section) for section in re.split(r"^##+ ", page, flags=re.M)]


def commands(block: str) -> list[tuple[str, str]]:
    """Return (command, expected output) of a console block."""
    parts = re.split(r"^\$ ", block, flags=re.M)
    assert parts[0] == "", f"a console block begins with a command, not with {parts[0]!r}"
    return [(head, output) for head, _, output in (part.partition("\n") for part in parts[1:])]


class Console:
    """A terminal in a folder like a clone, with the server that `make up` started last."""

    def __init__(self, folder: Path) -> None:
        # Otherwise `make up` would install this folder into the environment of the tests.
        fresh = subprocess.run(["make", "-q", ".venv/.ready"], cwd=ROOT).returncode == 0
        assert fresh, "pyproject.toml is newer than the environment: `make .venv/.dev`"
        for entry in ROOT.iterdir():
            (folder / entry.name).symlink_to(entry)
        self._folder = folder
        self._port = free_port()
        self._server: subprocess.Popen[bytes] | None = None
        self._started = ""
        self._log = folder / "server.log"
        environ = {name: value for name, value in os.environ.items() if name != "REDIS_URL"}
        # For a quick start compile no variants and warm up fewer batch sizes.
        quick = {"OPTIMIZE": "none", "MAX_BATCH_SIZE": "8"}
        runtime = folder / ".runtime"  # where commands find the broker of this server
        runtime.mkdir()
        quick |= {"PORT": str(self._port), "COLUMNS": "200", "XDG_RUNTIME_DIR": str(runtime)}
        self._environ = {**environ, **quick}
        self._shell = subprocess.Popen(
            ["bash"],
            cwd=folder,
            env=self._environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop()
        _of(self._shell.stdin).close()
        self._shell.wait(10)
        _of(self._shell.stdout).close()

    def run_page(self, page: str) -> int:
        """Run every console block of a page and compare the output. Return the number of commands."""
        count = 0
        for blocks in sections(page):
            for language, text in blocks:
                if language == "python" and (name := re.match(r"# (\w+\.py)\n", text)):
                    (self._folder / name[1]).write_text(text)
            found = [each for language, text in blocks if language == "console" for each in commands(text)]
            if found and not any(_starts_server(command) for command, _ in found) and self._started != "make up":
                self._start("make up")
            for command, expected in found:
                self._compare(command, expected, self._run(command))
                count += 1
        return count

    def _run(self, command: str) -> str:
        if _starts_server(command):
            return self._start(command)
        stdin, stdout = _of(self._shell.stdin), _of(self._shell.stdout)
        stdin.write(f"{self._here(command)}\nprintf '\\nexit %s\\n' $?\n")
        stdin.flush()
        lines: list[str] = []
        while not (lines and re.fullmatch(r"exit \d+\n", lines[-1])):
            line = stdout.readline()
            assert line, f"the shell ended at {command!r}"
            lines.append(line)
        output = "".join(lines[:-1])
        assert lines[-1] == "exit 0\n", f"{command!r} failed: {output}{self._log.read_text()}"
        return output

    def _start(self, command: str) -> str:
        self._stop()
        with self._log.open("wb") as log:
            self._server = subprocess.Popen(
                ["bash", "-c", command],
                cwd=self._folder,
                env=self._environ,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._started = command

        def ready() -> bool:
            assert self._server and self._server.poll() is None, self._log.read_text()
            return "\nstop " in self._log.read_text()

        eventually(ready, START_TIMEOUT_S, 0.05)
        return self._log.read_text()

    def _stop(self) -> None:
        """Ctrl-C."""
        if self._server:
            os.killpg(self._server.pid, signal.SIGINT)
            self._server.wait(60)
            self._server = None

    def _here(self, command: str) -> str:
        """Replace the port that the pages use by this server's."""
        return command.replace("localhost:8000", f"localhost:{self._port}")

    def _compare(self, command: str, expected: str, came: str) -> None:
        expected = expected.replace("127.0.0.1:8000", f"127.0.0.1:{self._port}")
        pattern = "".join(".*" if part == "…" else re.escape(part) for part in re.split("(…)", _plain(expected)))
        assert re.fullmatch(pattern, _plain(came), re.S), f"{command!r} printed:\n{came}\nthe page says:\n{expected}"


def _starts_server(command: str) -> bool:
    return re.match(r"(\w+=\S+ )*make up\b", command) is not None


def _plain(output: str) -> str:
    """Remove from an output what differs between runs."""
    output = re.sub(r"\s+", " ", re.sub(r"\s*([\[\]{},:…])\s*", r"\1", output)).strip()
    output = re.sub(r'"timing_ms":\{[^}…]*\}', "timing", output)
    output = re.sub(r'(?<="closed":")\w+|(?<=in a batch of 1 \()\w+', "idle", output)  # a busy machine may miss it
    output = re.sub(r"\d+(\.\d+)?(?= m?s\b)", "0", output)
    return re.sub(r"\d+\.\d+(e-?\d+)?", lambda number: f"{float(number[0]):.3g}", output)


def _of(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream
