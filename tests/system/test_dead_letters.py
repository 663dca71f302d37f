"""A dead letter from the kill to its response: it is listed, its cause removed, and it is requeued."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.brokers import eventually
from tests.system.hostile_stack import Supervised, dead_letters, hostile, is_empty, send_rows
from tests.system.stack import ROOT, Stack


def dead(system: Stack, *arguments: str) -> list[dict]:
    command = [sys.executable, "-m", "smartbatch.deploy.cli", "dead", *arguments, "--json"]
    ended = subprocess.run(
        command, env={**os.environ, **system.environ}, cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert ended.stderr == ""
    return json.loads(ended.stdout)


async def test_requeued_dead_letter_succeeds_once_its_cause_is_gone(
    stack: Callable[..., Stack], tmp_path: Path
) -> None:
    cause = tmp_path / "cause"
    cause.touch()
    row = f"exit if {cause}"
    system = hostile(stack, MAX_BATCH_SIZE=4, MAX_DELIVERIES=2)
    with Supervised(system, 2) as workers:
        [response] = await send_rows(system, [row])
        assert (response.status, response.code) == (500, "dead_lettered")
        [letter] = dead(system, "list")
        assert (letter["model"], letter["kind"], letter["deliveries"]) == ("hostile", "raw", 2)
        eventually(lambda: system.counter("smartbatch_dead_letters") == 1)

        dead(system, "show", letter["id"], "--save", str(tmp_path / "input"))
        assert (tmp_path / "input").read_text() == row

        [still] = dead(system, "requeue", letter["id"])
        assert (still["outcome"], still["code"]) == ("error", "dead_lettered")
        [again] = dead(system, "list")
        assert again["request"] == f"requeue-{letter['id']}"  # a new letter, of the new request
        assert len(workers.exits) == 4

        cause.unlink()
        [well] = dead(system, "requeue", "--all")
        assert (well["outcome"], well["result"]) == ("ok", [row])
        assert dead_letters(system) == []
        eventually(lambda: system.counter("smartbatch_dead_letters") == 0)
        eventually(lambda: is_empty(system))
