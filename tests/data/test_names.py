"""What choices are called: no two cuts alike, clocks and shares as people write them."""

from __future__ import annotations

import splitplan as sp
from splitplan.data.names import clock_name, cut_names, level_name, shares


def plan(device: str, server: str) -> sp.SplitPlan:
    return sp.SplitPlan("m", "f", tuple(device), tuple(server))


def test_cuts_are_named_by_the_layer_they_are_after() -> None:
    assert cut_names([plan("abc", ""), plan("", "abc"), plan("ab", "c")]) == (
        "all on the device",
        "all on the server",
        "after b",
    )


def test_cuts_after_one_layer_are_told_apart() -> None:
    names = cut_names([plan("ad", "bc"), plan("abd", "c"), plan("acd", "b"), plan("a", "bcd")])
    assert names == ("after d (2 layers)", "after d (3 layers), cut 1", "after d (3 layers), cut 2", "after a")


def test_clocks_levels_and_shares() -> None:
    assert [clock_name(f) for f in (0.0, 1.0, 614.4e6)] == ["off", "on", "614.4 MHz"]
    assert [level_name(x) for x in (0.0, 0.375)] == ["silent", "37.5 % of the uplink"]
    assert shares(["a", "b", "a", "c"], [1.0, 5.0, 2.0, 1e-9]) == "b (62.5 %), a (37.5 %)"
    assert shares(["a"], [0.0]) == "none"
