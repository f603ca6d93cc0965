"""From slot to slot: the plain equations are those of the simulator's loop, and of a walk by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import splitplan as sp
from benchmarks.instances import Seeded
from benchmarks.slot_instances import slot_control, slot_state
from splitplan.errors import DataError
from splitplan.formulations import slot_next
from splitplan.simulator import queues, rule
from splitplan.simulator.numbers import first_state, loose, rule_of
from tests.generators import Drawn, slot_problems

NAMES = {
    "device_s": rule.DEVICE,
    "uplink_bits": rule.RULE_N,
    "server_s": rule.RULE_S,
    "energy_debt_j": rule.ENERGY,
    "latency_debt_s": rule.LATE,
    "frame_debt": rule.FRAMES,
    "device_wait_s": rule.WAIT_D,
    "uplink_wait_bits": rule.WAIT_N,
}


@given(slot_problems(most=3), st.data())
@settings(max_examples=100, deadline=None)
def test_it_is_what_the_simulator_does(p: sp.SlotControl, data: st.DataObject) -> None:
    choose, c, state = Drawn(data.draw), p.choices, p.state
    k, f = choose.whole(0, len(c.works) - 1), choose.whole(0, len(c.clock_hz) - 1)
    j, n = choose.whole(0, len(c.levels) - 1), choose.whole(0, state.frames)
    busy, energy = choose.unit() * p.slot_s, choose.unit() * 3.0
    plan = p.plan_for(k, n, f, j) if n in p.counts else replace(p.plan_for(k, p.counts[0], f, j), frames=n)
    own = slot_next.own_s(p, plan)
    assume(not n or p.latency_limit_s is None or math.isfinite(own))  # never chosen: its debt would have no end
    policy = sp.SlotPolicy(p)
    r, s = rule_of(policy), loose(first_state(policy, state))
    assert own == pytest.approx(rule.own_s(r, k, f, j, state.rate_bps), rel=1e-12)
    rule.see(r, s, state.rate_bps)
    queues.ideal(r, s, n, k, f, j, state.rate_bps, loose(np.zeros(3)))
    queues.settle(r, s, n, k, f, j, state.rate_bps, energy, busy, state.device_s, state.uplink_bits)
    there = p.after(state, plan, energy_j=energy, busy_s=busy, frames=1)
    for name, at in NAMES.items():
        assert getattr(there, name) == pytest.approx(s[at], rel=1e-12, abs=1e-300), name
    if p.thermal is not None:
        assert there.temperature_c == pytest.approx(s[rule.HEAT], rel=1e-12)
    assert (-1 if there.last_cut is None else there.last_cut) == s[rule.CUT]
    assert there.last_clock_hz == c.clock_hz[int(s[rule.CLOCK])]
    assert (there.frames, there.rate_bps) == (1, 0.0)
    assert (math.inf if there.least_bit_j is None else there.least_bit_j) == pytest.approx(s[rule.BIT_J], rel=1e-12)
    assert p.after(state, plan, energy_j=energy, busy_s=busy, device_s=0.25).device_s == 0.25


@pytest.mark.parametrize("seed", range(20))
def test_the_energy_is_that_of_the_slot(seed: int) -> None:
    choose = Seeded(seed)
    control = slot_control(choose, 4)
    p = control.at(slot_state(choose, control))
    rng = np.random.default_rng(seed)
    k, f, j = (int(rng.integers(n)) for n in (len(p.choices.works), len(p.choices.clock_hz), len(p.choices.levels)))
    terms = p.score(k, p.counts[-1], f, j)
    plan = p.plan_for(k, p.counts[-1], f, j)
    spent = slot_next.spent_j(p, plan, p.state.rate_bps, terms["device_busy_s"], terms["sending_s"])
    assert spent == pytest.approx(terms["energy_j"], rel=1e-12)
    if plan.frames and math.isfinite(terms["own_latency_s"]):
        assert slot_next.own_s(p, plan) == pytest.approx(terms["own_latency_s"], rel=1e-12)


def test_a_clock_that_is_not_there_is_said() -> None:
    control = slot_control(Seeded(1), 3)
    with pytest.raises(DataError, match=r"no clock of 123 Hz; the clocks are 0, "):
        control.after(sp.SlotState(), sp.SlotPlan(0, 0, 123.0, 0.0), energy_j=0.0, busy_s=0.0)
