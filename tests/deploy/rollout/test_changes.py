from __future__ import annotations

import msgspec
import pytest

from smartbatch.deploy.rollout.changes import RouteChange, earlier_table, going_back, settled_table, table_of
from smartbatch.shared.broker.admin.routes import Change
from smartbatch.shared.errors import SmartBatchError
from smartbatch.shared.routing import Promotion, RoutingTable

TABLE = RoutingTable({1: 90.0, 2: 10.0}, sticky="x-user", shadow=3, shadow_share=0.5, draining=(4,), revision=7)


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        (RouteChange(weights={2: 1.0}), {"weights": {2: 1.0}}),
        (RouteChange(sticky=""), {"sticky": ""}),
        (RouteChange(sticky="X-Tenant"), {"sticky": "X-Tenant"}),
        (RouteChange(shadow=5), {"shadow": 5}),
        (RouteChange(shadow_share=0.1), {"shadow_share": 0.1}),
        (RouteChange(shadow=0), {"shadow": 0, "shadow_share": 1.0}),
        (RouteChange(weights={1: 1.0}, shadow=2), {"weights": {1: 1.0}, "shadow": 2}),
        (RouteChange(weights={1: 1.0, 3: 0.0}), {"weights": {1: 1.0, 3: 0.0}}),
    ],
)
def test_what_is_not_named_stays_as_it_is(change: RouteChange, changed: dict) -> None:
    assert change.apply(TABLE) == msgspec.structs.replace(TABLE, **changed)


def test_a_change_ends_what_is_said_of_a_promotion() -> None:
    table = msgspec.structs.replace(TABLE, promotion=Promotion(2, "aborted", "errors"))
    changed = RouteChange(weights=table.weights).apply(table)
    assert changed == TABLE


def test_a_reset_deletes_everything_but_that_versions_are_being_unloaded() -> None:
    assert RouteChange(reset=True).apply(TABLE) == RoutingTable(draining=(4,))
    assert RouteChange(reset=True).apply(RoutingTable({1: 1.0})) is None


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (RouteChange(shadow=2), "version 2 can't be the shadow, because it has a weight"),
        (RouteChange(weights={3: 1.0}), "version 3 can't be the shadow, because it has a weight"),
    ],
)
def test_a_shadow_with_a_weight_is_an_error(change: RouteChange, error: str) -> None:
    with pytest.raises(SmartBatchError, match=error):
        change.apply(TABLE)


def test_a_share_needs_a_shadow() -> None:
    with pytest.raises(SmartBatchError, match="--shadow-share needs a shadow"):
        RouteChange(shadow_share=0.5).apply(RoutingTable({1: 1.0}))


@pytest.mark.parametrize("header", ["x user", "x:user", "é", "x\r\n", "a" * 129, "(x)"])
def test_sticky_must_name_a_header(header: str) -> None:
    with pytest.raises(SmartBatchError, match="--sticky must be the name of a header, like X-User, got"):
        RouteChange(sticky=header).check()


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1, float("nan")])
def test_a_share_is_above_0_and_at_most_1(share: float) -> None:
    with pytest.raises(SmartBatchError, match="--shadow-share must be above 0 and at most 1, got"):
        RouteChange(shadow_share=share).check()


def test_a_reset_stands_alone() -> None:
    with pytest.raises(SmartBatchError, match="--reset can't be combined"):
        RouteChange(reset=True, shadow=0).check()


def test_the_history_shows_a_change_as_it_was_typed() -> None:
    change = RouteChange(weights={1: 90.0, 2: 0.5}, sticky="X-User", shadow=0, shadow_share=0.1)
    assert change.what == "1=90 2=0.5 --sticky X-User --no-shadow --shadow-share 0.1"
    assert RouteChange(reset=True).what == "--reset"


# --- going back


def changes(*tables: RoutingTable | None) -> list[Change]:
    """The history of a table that was each of these, oldest first, in the order of a history: newest first."""
    pairs = zip((None, *tables), tables, strict=False)
    return [Change(n, 0, "", "", before, after) for n, (before, after) in enumerate(pairs, 1)][::-1]


def step(percent: float, state: str = "running") -> RoutingTable:
    return RoutingTable({1: 100 - percent, 2: percent}, promotion=Promotion(2, state))


ONE = RoutingTable({1: 100.0})
OLDER = RoutingTable({7: 1.0})


@pytest.mark.parametrize("last", [step(50), step(50, "paused"), step(100, "done")])
def test_a_promotion_is_undone_as_a_whole(last: RoutingTable) -> None:
    assert earlier_table(last, changes(OLDER, ONE, step(1), step(10), last)) == ONE


def test_other_changes_than_of_weights_are_passed_over() -> None:
    sticky = msgspec.structs.replace(ONE, sticky="x")
    assert earlier_table(sticky, changes(OLDER, ONE, sticky)) == OLDER


def test_a_second_rollback_undoes_the_first() -> None:
    assert earlier_table(OLDER, changes(OLDER, ONE, OLDER)) == ONE


def test_nothing_is_undone_after_an_aborted_promotion() -> None:
    """The version that was found worse must not get the requests in the end."""
    aborted = msgspec.structs.replace(ONE, promotion=Promotion(2, "aborted", "errors"))
    with pytest.raises(SmartBatchError, match="was aborted, so the weights are those of before it already"):
        earlier_table(aborted, changes(ONE, step(1), aborted))


def test_the_first_table_goes_back_to_none() -> None:
    assert earlier_table(ONE, changes(ONE)) == RoutingTable()
    with pytest.raises(SmartBatchError, match="no earlier weights are known"):
        earlier_table(RoutingTable(), [])


def test_a_revision_is_found_or_the_error_says_which_there_are() -> None:
    history = changes(ONE, None, OLDER)
    assert [table_of(n, history) for n in (1, 2, 3)] == [ONE, RoutingTable(), OLDER]
    with pytest.raises(SmartBatchError, match="no revision 4 in the history; expected 1 to 3"):
        table_of(4, history)
    with pytest.raises(SmartBatchError, match="there are none"):
        table_of(4, [])


def test_a_promotion_that_goes_on_returns_to_where_it_began() -> None:
    paused = step(10, "paused")
    assert settled_table(paused, changes(OLDER, ONE, step(1), step(10), paused)) == ONE
    assert settled_table(ONE, changes(OLDER, ONE)) == ONE


def test_versions_that_are_being_unloaded_stay_so() -> None:
    back = going_back(TABLE, ONE)
    assert back == RoutingTable({1: 100.0}, draining=(4,), revision=7)
