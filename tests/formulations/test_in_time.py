"""What a frame takes at least is the least over all choices; a deadline below it is refused before a run, and only then."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

import splitplan as sp
from benchmarks.instances import Seeded
from benchmarks.slot_instances import slot_control
from splitplan.data.channel import constant
from splitplan.errors import InfeasibleError
from splitplan.formulations.in_time import check_limits, least_own_s, why_refused
from splitplan.policies.slot_baselines import device_only, server_only
from tests.policies.test_result import control


@pytest.mark.parametrize("seed", range(10))
def test_it_is_the_least_over_all_choices(seed: int) -> None:
    problem = slot_control(Seeded(seed), 5, limits=False)
    rate = 10.0 ** (3 + seed / 2)
    there = problem.with_slot(rate_bps=rate, frames=1)
    c = there.choices
    every = itertools.product(range(len(c.works)), range(len(c.clock_hz)), range(len(c.levels)))
    own = {(k, f, j): there.score(k, 1, f, j)["own_latency_s"] for k, f, j in every}
    assert least_own_s(problem, rate) == pytest.approx(min(own.values()), rel=1e-12)
    some = {at: s for at, s in own.items() if at[0] == 0 and at[1] == 1}
    assert least_own_s(problem, rate, cuts=[0], clocks=[1]) == pytest.approx(min(some.values()), rel=1e-12)


def test_a_cap_slows_and_without_the_radio_it_slows_no_more_than_true() -> None:
    plain = control()
    capped = control(power_cap_w=2.1)  # the slower clock alone
    assert least_own_s(plain, 1e6) < least_own_s(capped, 1e6, capped=False) <= least_own_s(capped, 1e6)


def test_a_deadline_that_nothing_meets_is_an_error_that_names_the_least() -> None:
    least = least_own_s(control(), 1e7)
    at_rest = sp.Scenario(sp.poisson(3.0), constant(1e7), slots=100, seed=1)
    hard = control(deadline_s=0.99 * least)
    for run in (
        lambda: sp.simulate(sp.SlotPolicy(hard), at_rest),
        lambda: sp.simulate(sp.SlotPolicy(hard), at_rest, bound=False),
        lambda: sp.sweep(hard, at_rest, [1.0]),
    ):
        with pytest.raises(InfeasibleError, match=f"a frame takes at least {least:.4g} s, whatever the cut") as caught:
            run()
        assert len(caught.value.conflicts) == 1 and "deadline_s=" in caught.value.conflicts[0]
    easy = sp.simulate(sp.SlotPolicy(control(deadline_s=1.0001 * least)), at_rest)
    assert easy.sums["refused"] == 0 and easy.sums["admitted"] > 10


def test_a_cap_that_lets_nothing_be_served_is_an_error_that_names_what_it_takes() -> None:
    at_rest = sp.Scenario(sp.poisson(3.0), constant(1e7), slots=100, seed=1)
    slowest = float(control().choices.power_w[1])
    check_limits(control(power_cap_w=slowest), np.array([1e7]))
    tight = control(power_cap_w=0.999 * slowest)
    if not (tight.choices.works[:, 0] > 0).all():  # a cut without a head needs no clock, but a radio
        link = tight.system.link.but(radio=sp.Radio(1e-7, 0.0, 50.0))
        system = sp.System(device=tight.system.device, server=tight.system.server, link=link)
        tight = sp.SlotControl(tight.profile, system, V=0.01, power_cap_w=0.999 * slowest)
    with pytest.raises(InfeasibleError, match=f"at least {slowest:.4g} W when it computes") as caught:
        sp.simulate(sp.SlotPolicy(tight), at_rest, bound=False)
    assert "power_cap_w=" in caught.value.conflicts[0]


def quick_server(**options: object) -> sp.SlotControl:
    """One whose server answers sooner than the device where the uplink is quick."""
    given = control()
    link = given.system.link.but(rate_down_bps=1e12)
    system = sp.System(device=given.system.device, server=given.system.server, link=link)
    return sp.SlotControl(given.profile, system, **({"V": 0.01} | options))  # type: ignore[arg-type]


def test_one_slot_whose_rate_would_do_is_no_error() -> None:
    rates = np.array([1e4, 1e4, 1e9])
    c = quick_server()
    deadline = (least_own_s(c, 1e9) + least_own_s(c, 1e4)) / 2
    check_limits(replace(c, deadline_s=deadline, cuts=None), rates)
    with pytest.raises(InfeasibleError, match=r"at the channel's best rate \(0\.01 Mbit/s\)"):
        check_limits(replace(c, deadline_s=deadline, cuts=None), rates[:2])


def test_refused_frames_are_told_aloud_with_what_would_be_possible() -> None:
    """The server by a slow channel, one piece of which is quick: no error beforehand, and nothing is answered in the rest."""
    c = quick_server()
    slow, quick = least_own_s(c, 1e3), least_own_s(c, 1e9)
    assert quick < slow
    moving = sp.Channel(np.array([0.0, 28.0, 30.0]), np.array([1e3, 1e9]))
    scene = sp.Scenario(sp.poisson(3.0), moving, slots=300, seed=1)
    hard = quick_server(deadline_s=(slow + quick) / 2)
    some = sp.simulate(sp.SlotPolicy(hard), scene, bound=False)
    arrived = len(some.arrive_s)
    (told,) = [t for t in some.doubts if "refused" in t]
    assert 0 < some.sums["admitted"] < 0.2 * arrived and not some.carried
    assert f"{some.sums['refused']:.0f} of {arrived} frames were refused: no choice" in told and told in str(some)
    here = sp.simulate(device_only(hard), scene, bound=False)
    (told,) = [t for t in here.doubts if "refused" in t]
    assert here.undone == (arrived, arrived) and np.isnan(here.mean_latency_s)
    device_s = least_own_s(hard, moving.mean_bps, cuts=device_only(hard).cuts)
    assert told.startswith("EVERY frame was refused") and f"takes a frame at least {device_s:.4g} s" in told
    assert f"deadline_s = {hard.deadline_s:g}" in told


def test_what_serves_no_frame_at_all() -> None:
    c = control(deadline_s=10.0)
    assert "serves no frame at all" in why_refused(c, 0.0, server_only(c).cuts, None, None)
    assert "what they ask in their slots" in why_refused(control(), 1e7)
