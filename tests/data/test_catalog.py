"""The catalogue: every entry loads, is physical and says where its numbers come from."""

from __future__ import annotations

import numpy as np
import pytest

import splitplan as sp
from splitplan.errors import DataError, UnknownNameError


@pytest.mark.parametrize("name", sp.device_names())
def test_device_loads_and_has_a_source(name: str) -> None:
    d = sp.device(name)
    assert d.name == name
    assert len(d.source) > 20
    if not d.local:  # cannot be measured here, so it must be possible to model it, energy included
        assert d.modelled_seconds(np.array([1e9]), np.array([1e6]))[0] > 0
        assert d.idle_w <= d.power_w(d.clock_hz[0]) < d.power_w(None)
        assert d.time_scale(d.clock_hz[0]) > 1


@pytest.mark.parametrize("name", sp.link_names())
def test_link_loads_and_has_a_source(name: str) -> None:
    link = sp.link(name)
    assert link.name == name
    assert len(link.source) > 20
    assert link.rate_up_bps <= link.rate_down_bps
    assert link.needs_radio.base_w >= 0


def test_radio_unit_is_watt_per_bit_per_second() -> None:
    # A published slope of 78.5 mW/Mbps: 20 Mbit/s cost 1.57 W above the base.
    radio = sp.link("lte-2021").needs_radio
    assert radio.up_w_per_bps * 20e6 == pytest.approx(1.57)


@pytest.mark.parametrize("name", [["this-cpu"], 3, None, {}])
def test_names_that_are_no_text(name: object) -> None:
    for what, make in (("device", sp.device), ("link", sp.link)):
        with pytest.raises(
            DataError, match=f"{what} of the catalogue: is called .*; give the name of an entry as text"
        ):
            make(name)  # type: ignore[operator]


def test_unknown_names_list_the_known() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown device 'jetson'; known: this-cpu, .*jetson-nano.*Device"):
        sp.device("jetson")
    with pytest.raises(UnknownNameError, match=r"unknown link 'lte'; known: .*lte-2021"):
        sp.link("lte")


def test_unknown_field() -> None:
    with pytest.raises(DataError, match=r"unknown field 'slow_down'; known: .*slowdown"):
        sp.device("this-cpu", slow_down=4)


def test_the_source_says_which_numbers_are_the_user_s() -> None:
    assert sp.device("this-cpu").source == "this machine; measured when profiled"
    given = sp.device("this-cpu", slowdown=4.0, active_power_w=3.0, idle_power_w=1.0)
    assert given.source == "this machine; measured when profiled; given by the user: active_power_w, idle_power_w"
    again = given.but(idle_power_w=2.0, memory_bytes=1e9)
    assert again.source.endswith("; given by the user: active_power_w, idle_power_w, memory_bytes")
    assert sp.device("jetson-nano", threads=2).source == sp.device("jetson-nano").source
    assert sp.device("jetson-nano", idle_power_w=1.68).source == sp.device("jetson-nano").source, "the same number"
    assert sp.device("this-cpu", active_power_w=3.0, source="my meter").source == "my meter"
    link = sp.link("lte-2021", rate_bps=5e6)
    assert link.source == sp.link("lte-2021").source + "; given by the user: rate_up_bps, rate_down_bps"
    assert sp.link("lte-2021", rtt_s=0.1, source="ping").source == "ping"
