"""`smartbatch route`, `promote` and `rollback` as commands, on versions that report what the test says."""

from __future__ import annotations

import getpass
import json
import socket

import pytest
from click.testing import CliRunner, Result

from smartbatch.deploy.cli import cli
from smartbatch.deploy.rollout import promotion
from smartbatch.shared import routing
from smartbatch.shared.errors import SmartBatchError
from smartbatch.shared.keys import ROUTES
from smartbatch.shared.routing import Promotion, RoutingTable
from tests.brokers import Broker
from tests.deploy.rollout.reports import FakeVersion, counted

ME = f"{getpass.getuser()}@{socket.gethostname()}"


class System:
    def __init__(self, broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("REDIS_URL", broker.url)
        monkeypatch.setattr(promotion, "LOOK_S", 0.02)
        self.redis = broker.sync
        self.one, self.two = FakeVersion(broker.sync, 1), FakeVersion(broker.sync, 2)

    def run(self, *words: str) -> Result:
        return CliRunner().invoke(cli, words)

    def fails(self, *words: str) -> str:
        """Run a command, and return the SmartBatchError that it ends with."""
        error = self.run(*words).exception
        assert isinstance(error, SmartBatchError), error
        return str(error)

    @property
    def table(self) -> RoutingTable | None:
        text = self.redis.hget(ROUTES, "m")
        return routing.decode(text) if text else None


@pytest.fixture
def system(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> System:
    return System(broker, monkeypatch)


def test_route_shows_weights_and_what_each_version_got(system: System) -> None:
    system.one.report(counted(900, errors=3), gateway="a")
    system.one.report(counted(997), gateway="b")
    system.two.report(counted(95, errors=5, bucket=40))
    shown = system.run("route", "m", "1=90", "2=10", "--sticky", "X-User").output.splitlines()
    assert [" ".join(line.split()) for line in shown] == [
        "m: 1=90 2=10; sticky by the header X-User",
        "version weight share ready workers requests/min of all errors p50 ms p99 ms",
        "1 90 90.0% 1 1,900 95.0% 3 16.7 16.7",
        "2 10 10.0% 1 100 5.0% 5 33.4 33.4",
    ]
    as_json = json.loads(system.run("route", "m", "--json").output)
    assert as_json["table"]["weights"] == {"1": 90.0, "2": 10.0}
    assert as_json["versions"][1] == {
        "version": 2,
        "weight": 10.0,
        "share": 0.1,
        "ready_workers": 1,
        "requests": 100,
        "received_share": 0.05,
        "errors": 5,
        "p50_ms": pytest.approx(33.4, abs=0.1),
        "p99_ms": pytest.approx(33.4, abs=0.1),
        "draining": False,
        "copies": None,
    }


def test_without_a_table_the_highest_ready_version_gets_all(system: System) -> None:
    shown = system.run("route", "m").output.splitlines()
    assert shown[0] == "m: no weights: the highest version that is ready gets all requests"
    assert [line.split()[:4] for line in shown[2:]] == [["1", "–", "0.0%", "1"], ["2", "–", "100.0%", "1"]]
    system.two.work(0)
    assert [line.split()[2] for line in system.run("route", "m").output.splitlines()[2:]] == ["100.0%", "0.0%"]


def test_a_shadow_shows_how_often_it_disagreed(system: System) -> None:
    counts = {"compared": 1000, "different": 12, "failed": 3, "largest": 0.25}
    assert system.run("route", "m", "1=1", "--shadow", "2", "--shadow-share", "0.5").exit_code == 0
    system.two.report(counted())
    for gateway in ("g", "h"):
        system.two.report(counted(), gateway=gateway)
        system.redis.hset(f"smartbatch:{{m@2}}:gateway:{gateway}", "shadow", json.dumps(counts))
    shown = system.run("route", "m").output
    assert "shadow of 0.5 of the requests: 24 of 2,000 answers differ, by 0.25 at most; 6 copies failed" in shown


def test_the_history_tells_who_changed_what(system: System) -> None:
    system.run("route", "m", "1=90", "2=10")
    system.run("route", "m", "--reset")
    rows = [line.split() for line in system.run("route", "m", "--history").output.splitlines()]
    assert [(row[0], row[3], *row[4:]) for row in rows[1:]] == [
        ("2", ME, "--reset", "no", "table"),
        ("1", ME, "1=90", "2=10", "1=90", "2=10"),
    ]
    assert [each["who"] for each in json.loads(system.run("route", "m", "--history", "--json").output)] == [ME, ME]
    assert "was never changed" in system.run("route", "other", "--history").output


def test_a_version_without_workers_gets_a_weight_and_a_warning(system: System) -> None:
    system.two.work(0)
    done = system.run("route", "m", "1=90", "2=10")
    assert (done.exit_code, done.stderr) == (0, "smartbatch: version 2 of m has no ready worker\n")
    assert "no ready worker: its share goes to the others" in done.stdout


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["m", "1=90", "3=10"], "m has no version 3; expected one of 1, 2"),
        (["m", "--shadow", "3"], "m has no version 3; expected one of 1, 2"),
        (["x", "1=90"], "model 'x' not found; available: m"),
        (["m@2", "1=90"], "a model name must be 1 to 128 characters of A-Z a-z 0-9 . _ -, got 'm@2'"),
        (["m", "1=0"], "at least one version must have a weight above 0, got 1=0"),
        (["m", "1=-1"], "a weight must be a number from 0 to 1000000, got '-1'"),
        (["m", "1=nan"], "a weight must be a number from 0 to 1000000, got 'nan'"),
        (["m", "90"], "expected VERSION=WEIGHT, like 2=10, got '90'"),
        (["m", "1=1", "1=2"], "version 1 is given twice"),
        (["m", "0=1"], "a version must be a whole number from 1 to 999999999, got '0'"),
        (["m", "--sticky", "X User"], "--sticky must be the name of a header, like X-User, got 'X User'"),
        (["m", "1=1", "--shadow", "1"], "version 1 can't be the shadow, because it has a weight"),
        (["m", "--shadow", "2"], "version 2 can't be the shadow, because it gets requests"),
        (["m", "--shadow-share", "0.1"], "--shadow-share needs a shadow"),
        (["m", "--reset", "1=1"], "--reset can't be combined with other changes"),
    ],
)
def test_what_can_be_no_table_is_an_error_and_changes_nothing(system: System, words: list[str], error: str) -> None:
    assert system.fails("route", *words).startswith(error)
    assert system.table is None


def test_a_version_that_nobody_announced_is_allowed_by_force(system: System) -> None:
    assert system.run("route", "m", "1=90", "3=10", "--force").exit_code == 0
    assert system.table == RoutingTable({1: 90.0, 3: 10.0}, revision=1)


@pytest.mark.parametrize(
    "words", [["--sticky", "X-User", "--no-sticky"], ["--shadow", "2", "--no-shadow"], ["--history", "1=1"]]
)
def test_contradictions_are_an_error_of_usage(system: System, words: list[str]) -> None:
    done = system.run("route", "m", *words)
    assert done.exit_code == 2 and "can't be combined with" in done.stderr


def test_rollback_undoes_the_last_change_of_weights(system: System) -> None:
    system.run("route", "m", "1=100")
    system.run("route", "m", "1=90", "2=10")
    system.run("route", "m", "--sticky", "X-User")
    assert system.run("rollback", "m").output == "m: 1=100\n"
    assert system.table == RoutingTable({1: 100.0}, revision=4)
    assert system.run("rollback", "m", "--to", "3").output == "m: 1=90 2=10\n"
    assert system.table == RoutingTable({1: 90.0, 2: 10.0}, sticky="X-User", revision=5)
    assert system.fails("rollback", "m", "--to", "6") == "no revision 6 in the history; expected 1 to 5"


def test_rollback_without_a_history_is_an_error(system: System) -> None:
    assert system.fails("rollback", "m") == "no earlier weights are known"


def test_a_promotion_is_shown_line_by_line(system: System) -> None:
    system.run("route", "m", "1=100")
    done = system.run("promote", "m", "2", "--over", "0s", "--steps", "10,100", "--min-requests", "0")
    assert (done.exit_code, done.stdout.splitlines()) == (
        0,
        [
            "step 1 of 2: 10 % to version 2 (1=90 2=10)",
            "  version 2: 0 requests, 0 errors, p99 – | before: 0 requests, 0 errors, p99 –",
            "step 2 of 2: 100 % to version 2 (2=100)",
            "  version 2: 0 requests, 0 errors, p99 – | before: 0 requests, 0 errors, p99 –",
            "done: version 2 of m gets all requests; `smartbatch rollback m` goes back",
        ],
    )
    assert system.run("rollback", "m").output == "m: 1=100\n"


def test_a_paused_promotion_goes_on_from_its_share(system: System) -> None:
    """And goes back to where it began if the version is worse after all."""
    system.run("route", "m", "1=100")
    table = RoutingTable({1: 75.0, 2: 25.0}, promotion=Promotion(2, "paused"), revision=2)
    system.redis.hset(ROUTES, "m", routing.encode(table))
    done = system.run("promote", "m", "2", "--over", "0s", "--min-requests", "0")
    assert done.stdout.splitlines()[0] == "step 1 of 2: 50 % to version 2 (1=50 2=50)"


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["m", "3"], "m has no version 3; expected one of 1, 2"),
        (["m", "x"], "a version must be a whole number from 1 to 999999999, got 'x'"),
        (["x", "2"], "model 'x' not found; available: m"),
        (["m", "2", "--over", "10"], "a duration must be like 90s, 10m or 1h"),
        (["m", "2", "--steps", "1,10"], "steps must be growing percentages that end with 100"),
        (["m", "2", "--abort-if", "errors"], "a condition must be like errors>1%"),
        (["m", "1"], "version 1 of m gets all requests already; give them to another version before, as in "),
    ],
)
def test_what_cannot_be_promoted_is_an_error_and_changes_nothing(system: System, words: list[str], error: str) -> None:
    system.run("route", "m", "1=100")
    assert system.fails("promote", *words).startswith(error)
    assert system.table == RoutingTable({1: 100.0}, revision=1)


def test_a_version_without_workers_is_not_promoted(system: System) -> None:
    system.run("route", "m", "1=100")
    system.two.work(0)
    assert system.fails("promote", "m", "2") == ("version 2 of m has no ready worker; start one before promoting it")
