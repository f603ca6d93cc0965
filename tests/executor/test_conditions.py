"""Which rows of a report may be compared, by what was emulated and where it ran."""

from __future__ import annotations

from dataclasses import replace

import pytest

from splitplan.data.catalog import device, link
from splitplan.data.channel import constant
from splitplan.data.pipeline_plan import PipelinePlan, RowBlock, Stage
from splitplan.data.profile import Origin, Profile
from splitplan.data.system import System
from splitplan.executor.conditions import (
    Conditions,
    Remark,
    not_emulated,
    pipeline_not_emulated,
    unlike_profiled,
    up_bytes,
)
from splitplan.executor.mismatch import merged, unlike_profile, unlike_run
from splitplan.models.trace import Traced

from .conftest import cut
from .pipelines import joined, pipeline

LINK_ROWS = {"up", "down", "latency", "throughput"}
TOTALS = {"latency", "throughput", "energy"}
ABOUT = {"slowdown": 1.0, "threads": 1, "torch": "2", "torch_device": "cpu"}


@pytest.fixture
def lte(pair: System) -> System:
    return System(device=pair.device, server=pair.server, link=link("lte-2021"))


def conditions(small: Traced, system: System, **changes: object) -> Conditions:
    made = Conditions((cut(small, 2),), small.graph, system, {}, False, {"device": ABOUT, "server": ABOUT})
    return replace(made, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("hosts", "one_clock", "differs"),
    [
        ({}, True, True),
        ({"server": "tcp://127.0.0.1:1"}, True, True),
        ({"server": "tcp://127.0.0.1:1"}, False, False),  # a tunnel to another machine
        ({"server": "tcp://10.0.0.1:1"}, True, False),  # namespaces of one machine, with a link of the kernel's
        ({"server": "tcp://far:1"}, False, False),
    ],
)
def test_the_links_ratio_is_kept_where_the_real_link_may_be_the_systems(
    small: Traced, lte: System, hosts: dict[str, str], one_clock: bool, differs: bool
) -> None:
    found = conditions(small, lte, hosts=hosts).remarks(one_clock)
    assert set(found) == LINK_ROWS
    assert {r.differs for r in found.values()} == {differs}
    assert all("not emulated; predicted is of 'lte-2021'" in r.text for r in found.values())


def test_what_is_emulated_or_as_stated_needs_no_remark(small: Traced, lte: System, pair: System) -> None:
    assert conditions(small, lte, emulate=True).remarks(True) == {}
    assert conditions(small, pair).remarks(True) == {}
    assert conditions(small, lte, plans=(cut(small, 99),)).remarks(True) == {}


@pytest.mark.parametrize("place", ["device", "server"])
def test_a_worker_that_is_not_what_the_system_says(small: Traced, pair: System, place: str) -> None:
    for change, says in (
        ({"slowdown": 2.0}, "slowed 1x in the system, its worker was slowed 2x"),
        ({"threads": 4}, "its worker had 4"),
    ):
        abouts = {"device": ABOUT, "server": ABOUT} | {place: ABOUT | change}
        at = conditions(small, pair, abouts=abouts, emulate=True, hosts={place: "tcp://far:1"})
        found = at.remarks(False)
        assert set(found) == {place, "latency", "throughput", "energy"}
        assert all(r.differs and says in r.text for r in found.values())
        assert any(says in fact and "--slowdown 1 --threads 1" in fact for fact in at.facts())


def test_what_hosts_leave_out_is_said_before(small: Traced, lte: System, pair: System) -> None:
    plan, hosts = cut(small, 2), {"server": "tcp://far:1"}
    assert not_emulated(plan, pair, hosts) == []
    slowed = System(device=lte.device.but(slowdown=4.0), server=lte.server.but(slowdown=2.0), link=lte.link)
    link_, near, far = not_emulated(plan, slowed, hosts)
    assert "'lte-2021'" in link_ and "device's slowdown of 4x is not emulated" in near and "--slowdown 2" in far
    assert len(not_emulated(cut(small, 99), slowed, hosts)) == 2  # nothing crosses the link


def test_what_hosts_leave_out_of_a_pipeline_is_said_before(small: Traced) -> None:
    plan, hosts = pipeline(small, [2], ("a", "b"), sink="c"), {"b": "tcp://far:1"}
    assert pipeline_not_emulated(plan, joined("abc"), hosts) == []
    slowed = {"a": 4.0, "b": 2.0, "c": 3.0}
    system = joined("abc", name="lte", slowdown=slowed)
    ways, near, far = pipeline_not_emulated(plan, system, hosts)
    assert "the prediction is of 'lte';" in ways and "a's slowdown of 4x is not emulated" in near
    assert (
        far.startswith("b is slowed 2x") and "--slowdown 2" in far
    )  # c only gets the results: nothing is computed there
    lte, wifi = link("lte-2021"), link("wifi-2012-legacy")
    for how in ({"star": {"a": lte, "b": wifi, "c": wifi}}, {"shared": lte}):
        other = System(**how, **system.places)  # type: ignore[arg-type]
        assert "'lte-2021'" in pipeline_not_emulated(plan, other, hosts)[0]
    alone = pipeline(small, [], ("a",))
    assert len(pipeline_not_emulated(alone, system, {"a": "tcp://far:1"})) == 1  # nothing crosses


def test_rows_that_cross_ways_that_are_not_emulated_are_said_too() -> None:
    rows = Stage(("l",), ("a", "b"), (RowBlock(("l",), (3, 1)),))
    said = pipeline_not_emulated(PipelinePlan("m", "f" * 64, (rows,)), joined("ab", name="lte"), {"b": "tcp://far:1"})
    assert len(said) == 1 and "'lte'" in said[0]


def test_a_profile_of_other_threads_is_noted(small: Traced, pair: System) -> None:
    times = {p: {x.name: 0.1 for x in small.graph.layers} for p in ("device", "server")}
    given = Profile.given(small.graph, times)
    origins = {"device": Origin("this-cpu", threads=4), "server": Origin("this-cpu", threads=1)}
    measured = Profile(small.graph, given.table.assign(method="measured"), origins)
    assert unlike_profiled(measured, pair) == {"device": "the device was profiled with 4 thread(s), and run with 1"}
    assert unlike_profiled(Profile(small.graph, given.table, origins), pair) == {}
    found = unlike_profile(measured, cut(small, 2), pair, ())
    assert set(found) == {"device", *TOTALS} and all(r.differs for r in found.values())
    swapped = Profile(small.graph, measured.table, {"device": origins["server"], "server": origins["device"]})
    assert set(unlike_profile(swapped, cut(small, 2), pair, ())) == {"server", *TOTALS}
    assert unlike_profile(swapped, cut(small, 99), pair, ()) == {}  # nothing ran there


def test_a_model_of_another_device_is_not_what_runs_here(small: Traced) -> None:
    system = System(device=device("jetson-nano"), server=device("jetson-agx-xavier"), link=link("lte-2021"))
    modelled = Profile.modelled(small.graph, system)
    found = unlike_profile(modelled, cut(small, 2), system, ())
    assert set(found) == {"device", "server", *TOTALS}
    assert "model of 'jetson-nano', and ran here; not comparable: the server is" in found["latency"].text
    assert set(unlike_profile(modelled, cut(small, 2), system, {"device": "tcp://a:1"})) == {"server", *TOTALS}


def test_other_bytes_than_predicted(small: Traced, pair: System) -> None:
    sent = up_bytes(cut(small, 2), small.graph, pair.link)
    assert unlike_run(cut(small, 2, predicted={"up_bytes": sent}), small.graph, pair) == {}
    found = unlike_run(cut(small, 2, predicted={"up_bytes": 10.0}), small.graph, pair)
    assert set(found) == {"up", *TOTALS} and all(r.differs for r in found.values())
    assert f"predicted is of 10 bytes up, {sent:.4g} went" in found["up"].text


def test_a_clock_that_nobody_sets(small: Traced, pair: System) -> None:
    system = System(device=pair.device.but(clock_hz=(2e8, 1e9)), server=pair.server, link=pair.link)
    found = unlike_run(cut(small, 2, clock_hz=2e8), small.graph, system)
    assert set(found) == {"device", *TOTALS} and all(r.differs for r in found.values())
    assert "at 200 MHz, and no clock was set" in found["device"].text
    assert unlike_run(cut(small, 2, clock_hz=1e9), small.graph, system) == {}


def test_a_clock_that_is_governed_and_a_channel_that_is_followed_are_not_denied(small: Traced, lte: System) -> None:
    at = conditions(small, lte, plans=(cut(small, 2, clock_hz=2e8),), emulate=True)
    plain = "\n".join(at.facts())
    assert "200 MHz was not set" in plain and f"emulated link: {lte.link.rate_up_bps / 1e6:g} Mbit/s up, " in plain
    governed = "\n".join(replace(at, clock="emulated", followed=constant(5e6)).facts())
    assert "was not set" not in governed and "emulated link: as channel 'constant 5 Mbit/s' up" in governed
    assert f"{lte.link.rate_up_bps / 1e6:g} Mbit/s up" not in governed


def test_remarks_of_one_quantity_are_said_together() -> None:
    one, other = {"up": Remark("a", False), "down": Remark("b", False)}, {"up": Remark("c", True)}
    assert merged(one, other) == {"up": Remark("a; c", True), "down": Remark("b", False)}
    assert merged(other, one)["up"] == Remark("c; a", True)


def test_a_host_that_a_plan_does_not_need_is_told(small: Traced, pair: System) -> None:
    hosts = {"server": "tcp://127.0.0.1:9"}
    facts = conditions(small, pair, plans=(cut(small, 99),), hosts=hosts).facts()
    assert "server: nothing runs there by this plan; the worker at tcp://127.0.0.1:9 was not contacted" in facts
    assert any("that was running already" in f for f in conditions(small, pair, hosts=hosts).facts())
