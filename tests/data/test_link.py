"""Link and Radio: every defect at once, delays, one rate for both ways, a missing radio is an error."""

from __future__ import annotations

import math
import pickle

import pytest

import splitplan as sp
from splitplan.errors import DataError


def test_all_defects_at_once() -> None:
    with pytest.raises(DataError) as caught:
        sp.Link(
            "bad",
            rate_up_bps=0.0,
            rate_down_bps=math.nan,
            rtt_s=-1.0,
            overhead=math.inf,
            delay_up_s=-0.1,
            header_bytes=-4,
        )
    assert caught.value.where == "link 'bad'"
    assert len(caught.value.problems) == 6
    for name in (
        "rate_up_bps is 0.0",
        "rate_down_bps is nan",
        "rtt_s is -1.0",
        "overhead is inf",
        "delay_up_s is -0.1",
        "header_bytes is -4",
    ):
        assert any(name in p for p in caught.value.problems)


def test_overhead_below_one() -> None:
    with pytest.raises(DataError, match=r"overhead is 0.9; bytes on the medium cannot be fewer"):
        sp.Link("bad", 1e6, 1e6, 0.0, overhead=0.9)


def test_radio_defects() -> None:
    with pytest.raises(DataError) as caught:
        sp.Radio(up_w_per_bps=-1.0, down_w_per_bps=math.nan, base_w=0.0)
    assert len(caught.value.problems) == 2


def test_delays_are_half_the_round_trip_unless_given() -> None:
    link = sp.Link("l", 1e6, 1e6, rtt_s=0.04, delay_up_s=0.03)
    assert (link.up_delay_s, link.down_delay_s) == (0.03, 0.02)
    assert sp.Link("l", 1e6, 1e6, rtt_s=0.04, delay_down_s=0.0).down_delay_s == 0.0


def test_missing_radio_is_an_error_not_a_zero() -> None:
    with pytest.raises(DataError, match=r"no radio power model.*all 0 for a wire"):
        _ = sp.Link("wire", 1e6, 1e6, 0.0).needs_radio


def test_rate_sets_both_ways() -> None:
    link = sp.link("lte-2021", rate_bps=5e6)
    assert (link.rate_up_bps, link.rate_down_bps) == (5e6, 5e6)
    with pytest.raises(DataError, match=r"both given"):
        link.but(rate_bps=1e6, rate_up_bps=2e6)
    with pytest.raises(DataError, match=r"unknown field 'rate'; known: name, rate_up_bps"):
        link.but(rate=1e6)


def test_pickles() -> None:
    link = sp.link("5g-low-2021")
    assert pickle.loads(pickle.dumps(link)) == link
