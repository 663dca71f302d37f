"""Real processes take turns on a device, and none of them can hold up the others."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from smartbatch.shared.settings import from_environment
from smartbatch.worker.core import host_folder
from smartbatch.worker.execution import device_share
from smartbatch.worker.execution.device_share import DeviceShare
from tests.brokers import eventually
from tests.system.stack import ROOT

LEARN_S = 1.2  # until a worker that was alone knows of another


class Sharer:
    """A process of share_worker.py."""

    def __init__(self, path: Path, model: str, batch_s: float, *more: str) -> None:
        self._log = path.parent / f"{model}.log"
        command = [sys.executable, "-m", "tests.worker.execution.share_worker", str(path), model, str(batch_s), *more]
        with self._log.open("w") as log:
            self.popen = subprocess.Popen(command, stdout=log, cwd=ROOT)
        eventually(lambda: self.batches > 0, 20)

    def last(self) -> list[str]:
        lines = self._log.read_text().splitlines(keepends=True)
        complete = [line for line in lines if line.endswith("\n")]
        return complete[-1].split() if complete else ["0", "0", "0", ""]

    @property
    def batches(self) -> int:
        return int(self.last()[0])

    @property
    def paused_turns(self) -> int:
        return int(self.last()[2])

    def waits(self) -> list[float]:
        return [float(line.split()[1]) for line in self._log.read_text().splitlines() if line.endswith("ends")]

    def until_it_just(self, event: str) -> None:
        """Wait until a batch `begins`, or `ends`."""
        eventually(lambda: self.last()[3] != event, 20, 0.001)
        eventually(lambda: self.last()[3] == event, 20, 0.001)

    def goes_on_within(self, seconds: float) -> bool:
        before, until = self.batches, time.monotonic() + seconds
        while self.batches < before + 2:
            if time.monotonic() > until:
                return False
            time.sleep(0.005)
        return True


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Sharer]]:
    started: list[Sharer] = []

    def start(model: str, batch_s: float, *more: str) -> Sharer:
        started.append(Sharer(tmp_path / "gpu.share", model, batch_s, *more))
        return started[-1]

    yield start
    for sharer in started:
        sharer.popen.kill()
        sharer.popen.wait()


def test_short_and_long_batches_get_equal_time(start: Callable[..., Sharer]) -> None:
    short, long = start("short", 0.004), start("long", 0.1)
    time.sleep(LEARN_S)
    before = short.batches, long.batches
    eventually(lambda: long.batches >= before[1] + 10, 30)
    ran_short, ran_long = short.batches - before[0], long.batches - before[1]
    # Equal time would be 25 to 1. A busy machine stretches short sleeps more than long ones.
    assert 8 <= ran_short / ran_long <= 32
    assert sorted(short.waits())[len(short.waits()) // 2] < 0.004


@pytest.mark.parametrize("victim", ["whoever has the turn", "whoever waits"])
@pytest.mark.parametrize("name", [signal.SIGKILL, signal.SIGSTOP])
def test_a_killed_or_paused_worker_does_not_hold_up_the_other(
    start: Callable[..., Sharer], victim: str, name: signal.Signals
) -> None:
    holds = victim == "whoever has the turn"
    other, target = start("other", 0.02), start("target", 0.5)
    time.sleep(LEARN_S)
    target.until_it_just("begins" if holds else "ends")
    target.popen.send_signal(name)
    keeps_turn = holds and name == signal.SIGSTOP
    assert other.goes_on_within(10 if keeps_turn else 2)
    if keeps_turn:
        assert other.paused_turns == 1
    if name == signal.SIGSTOP:
        ran = target.batches
        target.popen.send_signal(signal.SIGCONT)
        eventually(lambda: target.batches >= ran + 3, 20)
        assert other.goes_on_within(2)


def test_three_workers_take_turns(start: Callable[..., Sharer]) -> None:
    sharers = [start(f"m{n}", 0.02) for n in range(3)]
    time.sleep(LEARN_S)
    before = [sharer.batches for sharer in sharers]
    eventually(lambda: sum(sharer.batches for sharer in sharers) > sum(before) + 60, 30)
    assert all(10 <= sharer.batches - earlier <= 32 for sharer, earlier in zip(sharers, before, strict=True))


@pytest.mark.parametrize(("more", "shares"), [([], False), (["all"], True)])
def test_workers_of_one_model_take_turns_only_if_asked_to(
    start: Callable[..., Sharer], tmp_path: Path, more: list[str], shares: bool
) -> None:
    start("same", 0.05, *more)
    share = DeviceShare(tmp_path / "gpu.share", "same", with_same_model=bool(more))
    time.sleep(LEARN_S)
    waits = []
    for _ in range(10):
        waits.append(share.begin())
        share.end()
        time.sleep(0.02)  # the other worker begins a batch
    share.close()
    assert (max(waits) > 0.01) is shares


def test_alone_a_worker_takes_no_turns(tmp_path: Path) -> None:
    share = DeviceShare(tmp_path / "gpu.share", "m")
    for _ in range(3):
        assert share.begin() == 0.0
        share.end()
    assert share._queue.turn == 0 and share.available == 1.0
    share.close()


def test_a_batch_is_launched_behind_another_while_nobody_waits(start: Callable[..., Sharer], tmp_path: Path) -> None:
    idle = start("idle", 0.001)
    idle.popen.send_signal(signal.SIGSTOP)
    share = DeviceShare(tmp_path / "gpu.share", "m")
    share.begin()
    turn = share._queue.turn
    assert share.begin() == 0.0
    share.end()
    share.begin()
    share.end()
    share.end()
    assert share._queue.turn == turn and not share._my_turn
    share.close()


def test_a_deleted_file_is_replaced(start: Callable[..., Sharer], tmp_path: Path) -> None:
    share = DeviceShare(tmp_path / "gpu.share", "m")
    share.begin()
    share.end()
    (tmp_path / "gpu.share").unlink()
    start("other", 0.01)
    time.sleep(LEARN_S)
    share.begin()
    share.end()
    assert share._shared
    share.close()


def test_a_batch_runs_though_the_file_can_not_be_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    share = DeviceShare(folder / "gpu.share", "m")
    (folder / "gpu.share").unlink()
    folder.rmdir()
    folder.write_text("in the way")
    assert share.begin() == 0.0
    share.end()
    assert "not shared fairly" in caplog.text
    share.close()


def test_a_folder_that_others_may_write_to_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(host_folder.tempfile, "gettempdir", lambda: str(tmp_path))
    folder = host_folder.host_folder()
    assert folder.parent == tmp_path and folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o777)
    with pytest.raises(OSError, match="only this user may write"):
        host_folder.host_folder()
    assert device_share.join(from_environment({}), "cuda-1") is None
    assert "not shared fairly" in caplog.text


@pytest.mark.parametrize(
    ("mode", "device", "joins"),
    [
        ("auto", "cuda-1", True),
        ("auto", "cpu-1", False),
        ("on", "cpu-1", True),
        ("off", "cuda-1", False),
        ("on", "", False),
    ],
)
def test_which_devices_are_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, device: str, joins: bool
) -> None:
    monkeypatch.setattr(host_folder.tempfile, "gettempdir", lambda: str(tmp_path))
    share = device_share.join(from_environment({"DEVICE_SHARE": mode}), device)
    assert (share is not None) is joins
    if share:
        share.close()
