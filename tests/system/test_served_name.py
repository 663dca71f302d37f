"""Two different models never share a name, and so a queue, unless one replaces the other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.brokers import eventually
from tests.system.stack import Stack

MODEL = """
class Adder:
    def forward(self, batch):
        return batch + {number}
"""


def answer(system: Stack) -> float:
    response = system.client.post(f"{system.url}/predict", json={"data": [[1.0]]})
    assert response.status_code == 200, response.text
    return response.json()["outputs"]["output"]["data"][0][0]


def test_a_different_model_under_a_served_name_must_say_that_it_replaces_it(
    stack: Callable[..., Stack], tmp_path: Path
) -> None:
    old, new = tmp_path / "old" / "adder.py", tmp_path / "new" / "adder.py"
    for file, number in ((old, 1), (new, 2)):
        file.parent.mkdir()
        file.write_text(MODEL.format(number=number))
    system = stack(MODEL_PATH=f"{old}:Adder").up()
    first = system.processes[1]
    assert answer(system) == 2.0

    refused = system.worker(MODEL_PATH=f"{new}:Adder")
    system.processes.remove(refused)
    assert refused.popen.wait(60) == 2
    text = refused.log.read_text()
    assert f"model 'Adder' is being served already, from {old}:Adder (fingerprint " in text
    assert f"{new}:Adder (fingerprint " in text
    assert answer(system) == 2.0

    system.worker(MODEL_PATH=f"{new}:Adder", REPLACE="true")
    system.ready(2)
    assert first.stop() == 0
    eventually(lambda: system.ready_workers() == 1, 10)
    assert answer(system) == 3.0
    system.worker(MODEL_PATH=f"{new}:Adder")  # its own name now
    system.ready(2)


def test_a_name_is_free_again_once_its_last_worker_has_left(stack: Callable[..., Stack], tmp_path: Path) -> None:
    file = tmp_path / "adder.py"
    file.write_text(MODEL.format(number=1))
    system = stack(MODEL_PATH=f"{file}:Adder").up()
    assert system.processes[1].stop() == 0
    file.write_text(MODEL.format(number=5))
    system.worker()
    system.ready(1)
    assert answer(system) == 6.0
