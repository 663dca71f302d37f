from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartbatch.shared.errors import SmartBatchError
from smartbatch.shared.routing import RoutingTable, parse_weights


@pytest.mark.parametrize(
    ("table", "usable", "shares"),
    [
        (RoutingTable(), [], {}),
        (RoutingTable(), [1, 2], {2: 1.0}),
        (RoutingTable(draining=(2,)), [1, 2], {1: 1.0}),
        (RoutingTable(weights={1: 90, 2: 10}), [1, 2], {1: 0.9, 2: 0.1}),
        (RoutingTable(weights={1: 90, 2: 10}), [2, 3], {2: 1.0}),
        (RoutingTable(weights={1: 90, 2: 10}), [3], {}),
        (RoutingTable(weights={1: 0, 2: 5}), [1, 2], {2: 1.0}),
        (RoutingTable(weights={1: 1, 2: 1}, draining=(1,)), [1, 2], {2: 1.0}),
    ],
)
def test_shares_are_those_of_the_versions_that_can_serve(table, usable, shares):
    assert table.shares(usable) == shares


@given(st.dictionaries(st.integers(1, 9), st.floats(0, 1e6)), st.sets(st.integers(1, 9)))
def test_shares_add_up_to_one_or_there_are_none(weights, usable):
    shares = RoutingTable(weights=weights).shares(usable)
    assert not shares or sum(shares.values()) == pytest.approx(1.0)
    assert shares.keys() <= usable


def test_weights_are_parsed():
    assert parse_weights(["1=90", "2=10.5"]) == {1: 90.0, 2: 10.5}


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ([], "at least one version must have a weight above 0, got none"),
        (["1=0", "2=0"], "at least one version must have a weight above 0, got 1=0, 2=0"),
        (["1"], "expected VERSION=WEIGHT, like 2=10, got '1'"),
        (["1=90", "1=10"], "version 1 is given twice"),
        (["1=-1"], "a weight must be a number from 0 to 1000000, got '-1'"),
        (["1=nan"], "got 'nan'"),
        (["1=inf"], "got 'inf'"),
        (["1=ten"], "got 'ten'"),
        (["0=1"], "a version must be a whole number from 1 to 999999999, got '0'"),
        (["v2=1"], "got 'v2'"),
    ],
)
def test_wrong_weights_say_what_was_expected(words, error):
    with pytest.raises(SmartBatchError, match=error):
        parse_weights(words)
