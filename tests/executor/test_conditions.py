"""Which rows of a report may be compared, by what was emulated and where it ran."""

from __future__ import annotations

from dataclasses import replace

import pytest

from splitplan.data.catalog import link
from splitplan.data.profile import Origin, Profile
from splitplan.data.system import System
from splitplan.executor.conditions import Conditions, not_emulated, unlike_profiled
from splitplan.models.trace import Traced

from .conftest import cut

LINK_ROWS = {"up", "down", "latency", "throughput"}
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
    link_, device, server = not_emulated(plan, slowed, hosts)
    assert "'lte-2021'" in link_ and "device's slowdown of 4x is not emulated" in device and "--slowdown 2" in server
    assert len(not_emulated(cut(small, 99), slowed, hosts)) == 2  # nothing crosses the link


def test_a_profile_of_other_threads_is_noted(small: Traced, pair: System) -> None:
    times = {p: {x.name: 0.1 for x in small.graph.layers} for p in ("device", "server")}
    given = Profile.given(small.graph, times)
    origins = {"device": Origin("this-cpu", threads=4), "server": Origin("this-cpu", threads=1)}
    measured = Profile(small.graph, given.table.assign(method="measured"), origins)
    (note,) = unlike_profiled(measured, pair)
    assert note.startswith("device: profiled with 4 thread(s), and run with 1")
    assert unlike_profiled(Profile(small.graph, given.table, origins), pair) == []
