"""The simulator: its rule is SlotControl's, its queues are those of recursions written apart, its energy is never below the bound."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import splitplan as sp
from benchmarks.instances import Seeded
from benchmarks.slot_instances import slot_control, slot_state
from splitplan.data.channel import constant
from splitplan.data.slot import Thermal
from splitplan.errors import DataError, InfeasibleError
from splitplan.formulations.costs import sending_w
from splitplan.formulations.in_time import least_own_s
from splitplan.policies.slot import SlotPolicy, left_to_choose
from splitplan.policies.slot_baselines import device_only
from splitplan.simulator.numbers import first_state, loose, rooms_for, rule_of
from splitplan.simulator.rule import COMPILED, SOURCES, decide, digest, radio_w
from splitplan.simulator.simulate import simulate
from splitplan.solvers.columns import capacity
from splitplan.solvers.slot_enumerate import cheapest
from tests.formulations.test_stationary import scene

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("seed", range(40))
def test_the_rule_is_the_slots_optimum(seed: int) -> None:
    choose = Seeded(seed)
    control = slot_control(choose, 5)
    policy = SlotPolicy(control)
    numbers, rooms = rule_of(policy), rooms_for(policy)
    for _ in range(25):
        state = slot_state(choose, control)
        problem = control.at(state)
        best = cheapest(problem)
        s = loose(first_state(policy, state))
        k, n, f, j = decide(numbers, s, state.frames, state.rate_bps, rooms)
        if best is None:
            assert n == -1
            assert policy.choose(state).frames == 0
            continue
        assert n >= 0
        assert problem.evaluate(policy.choose(state))["objective"] == pytest.approx(best[1], rel=1e-9, abs=1e-12)
        assert problem.score(k, n, f, j)["objective"] == pytest.approx(best[1], rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("seed", range(40, 80))
def test_the_rule_is_the_optimum_of_what_is_left_free(seed: int) -> None:
    """Some cuts, clocks and levels, in any order: what the loop leaves out is never the best."""
    choose, rng = Seeded(seed), np.random.default_rng(seed)
    control = slot_control(choose, 6)
    if seed % 2:
        tied = {"deadline_s": 1.5 * float(control.profile.seconds("device").sum()) + 0.02, "cuts": None}
        control = replace(control, **tied)  # type: ignore[arg-type]
    c = control.choices
    some = [
        rng.permutation(n)[: rng.integers(1, n + 1)].tolist() for n in (len(c.works), len(c.clock_hz), len(c.levels))
    ]
    policy = SlotPolicy(control, *some)
    numbers, rooms = rule_of(policy), rooms_for(policy)
    for _ in range(25):
        state = slot_state(choose, control)
        problem = policy.problem(state)
        clocks, levels = left_to_choose(problem, some[1], some[2])
        best = cheapest(problem, some[0], clocks, levels)
        k, n, f, j = decide(numbers, loose(first_state(policy, state)), state.frames, state.rate_bps, rooms)
        assert k in some[0] and f in clocks and j in levels
        assert not problem.hot[f] and problem.within_power[f, j]
        plan = policy.choose(state)
        if best is None:
            assert n == -1 and plan.frames == 0
            continue
        assert n >= 0
        assert problem.score(k, n, f, j)["objective"] == pytest.approx(best[1], rel=1e-9, abs=1e-12)
        assert problem.evaluate(plan)["objective"] == pytest.approx(best[1], rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("levels", [(8,), (0, 8)])
def test_a_fixed_clock_that_is_too_hot_is_off(levels: tuple[int, ...]) -> None:
    """The temperature by a recursion of its own, all on the device; frames wait meanwhile, and the printed run names what was chosen."""
    plain = replace(slot_control(Seeded(3), 4, limits=False), mode="min-energy", cuts=None)
    watts, top = plain.choices.power_w, len(plain.choices.clock_hz) - 1
    limit_c = 25.0 + 10.0 * float(watts[0] + 0.5 * (watts[top] - watts[0]))
    made = replace(plain, thermal=Thermal(10.0, 1.0, ambient_c=25.0, limit_c=limit_c))
    policy = SlotPolicy(made, cuts=device_only(made).cuts, clocks=[top], levels=levels)
    run = sp.simulate(policy, scene(3, 0.7 / float(made.choices.works[policy.cuts[0], 0]), 60.0), bound=False)  # type: ignore[index]
    assert {0, top} == set(run.trace[:, 5].astype(int).tolist())
    kept, hot_c = math.exp(-made.slot_s / 10.0), 25.0
    for energy_j in run.trace[:, 3]:
        final = 25.0 + 10.0 * float(energy_j) / made.slot_s
        hot_c = final + (hot_c - final) * kept
        assert hot_c <= limit_c * (1 + 1e-9)
    assert "off" in str(run)


def carried(seed: int, load: float, seconds: float, **options: object) -> tuple[sp.SlotControl, sp.Scenario]:
    """A control and a scenario whose load is a part of what can be carried."""
    made = replace(slot_control(Seeded(seed), 5, limits=False), mode="min-energy", cuts=None)
    control = replace(made, **options)  # type: ignore[arg-type]
    most, _ = capacity(sp.StationaryBound(control, scene(seed, 5.0, seconds)))
    return control, scene(seed, 5.0 * min(most, 20.0) * load, seconds)


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("physical", [True, False])
def test_no_run_is_below_its_bound(seed: int, physical: bool) -> None:
    for seconds in (3.0, 100.0):
        control, scenario = carried(seed, 0.6, seconds, V=(0.0, 1e-3, 1.0)[seed % 3])
        result = simulate(SlotPolicy(control), scenario, physical=physical)
        assert result.certificate is not None and result.bound is not None
        assert result.certificate >= -1e-7 * abs(result.bound.bound or 1.0)


@pytest.mark.parametrize("seed", range(6))
def test_the_theorys_queues(seed: int) -> None:
    control, scenario = carried(seed, 0.5, 60.0, V=1e-3)
    result = simulate(SlotPolicy(control), scenario, physical=False)
    c, tau = control.choices, control.slot_s
    rates = scenario.slotted(tau).rate_bps
    queues, energy = np.zeros(3), 0.0
    for t, (_, _, _, spent, k, f, j, n) in enumerate(result.trace):
        assert np.allclose(result.trace[t, :3], queues, rtol=1e-9, atol=1e-9)
        offered = np.array([tau * c.speed[int(f)], tau * c.levels[int(j)] * rates[t], tau])
        done = np.minimum(queues, offered)
        queues = np.maximum(queues - offered, 0) + n * c.works[int(k)]
        busy = done[0] / c.speed[int(f)] if f else 0.0
        expected = c.power_w[0] * tau + (c.power_w[int(f)] - c.power_w[0]) * busy + n * c.receive_j[int(k)]
        if j:
            rate = c.levels[int(j)] * rates[t]
            radio = c.radio
            drawn = radio_w(rule_of(SlotPolicy(control)), rate, rates[t])
            assert drawn >= radio.base_w
            expected += drawn * (done[1] / rate if rate else 0.0)
        assert spent == pytest.approx(expected, rel=1e-9)
        energy += spent
    assert result.sums["energy_j"] == pytest.approx(energy)


def lindley(result: sp.Result) -> tuple[np.ndarray, list[np.ndarray], np.ndarray, np.ndarray]:
    """Frames one by one: each begins when it is there and the one before is done, in the time that the knobs leave.

    The slots' edges; what each stage could have done up to them; when each frame came to each stage and was done there, shape (3, frames).
    """
    c, tau, trace = result.policy.control.choices, result.policy.control.slot_s, result.trace
    edges = tau * np.arange(len(trace) + 1)
    rates = result.scene.slotted(tau).rate_bps
    offered = [
        np.r_[0.0, np.cumsum(tau * c.speed[trace[:, 5].astype(int)])],
        np.r_[0.0, np.cumsum(tau * c.levels[trace[:, 6].astype(int)] * rates)],
        edges,
    ]

    def finish(stage: int, begin: float, work: float) -> float:
        """When so much is done that begins then."""
        goal = np.interp(begin, edges, offered[stage]) + work
        if work == 0.0:
            return begin
        if goal > offered[stage][-1] * (1 + 1e-12):
            return math.inf
        piece = int(np.searchsorted(offered[stage], goal * (1 - 1e-13), side="left"))
        low, high = offered[stage][piece - 1], offered[stage][piece]
        return float(edges[piece - 1] + tau * min(1.0, (goal - low) / (high - low)))

    cuts = trace[np.minimum((result.arrive_s / tau).astype(int), len(trace) - 1), 4].astype(int)
    ready = result.arrive_s.astype(float).copy()
    came, done = np.empty((3, len(ready))), np.empty((3, len(ready)))
    for stage in range(3):  # each by itself, first come first served among those that have something for it
        free = 0.0
        came[stage] = ready
        for i in np.argsort(ready, kind="stable"):
            work = c.works[cuts[i], stage]
            if work > 0 and math.isfinite(ready[i]):
                ready[i] = free = finish(stage, max(ready[i], free), work)
            elif stage == 1 and c.works[cuts[i], 2] > 0:  # a message of no bits waits its turn
                ready[i] = max(ready[i], free)
        done[stage] = ready
    return edges, offered, came, done


@pytest.mark.parametrize("seed", range(8))
def test_the_tandem_is_lindleys_recursion(seed: int) -> None:
    control, scenario = carried(seed, 0.7, 40.0, V=1e-4)
    result = simulate(SlotPolicy(control), scenario)
    c, tau, trace = control.choices, control.slot_s, result.trace
    edges, _, _, done = lindley(result)
    ready = done[-1]
    cuts = trace[np.minimum((result.arrive_s / tau).astype(int), len(trace) - 1), 4].astype(int)
    expected = ready - result.arrive_s + c.fixed_s[cuts]
    inside = ready < edges[-1] * (1 - 1e-9)
    assert inside.sum() > 5
    assert result.latency_s[inside] == pytest.approx(expected[inside], rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("head_s", [0.0, 0.002])
def test_a_frame_that_sends_no_bits_is_still_served(head_s: float) -> None:
    """Lindley's recursion in three lines; the channel is dead at first, which nobody waits for."""
    plain = replace(slot_control(Seeded(5), 4, limits=False), mode="min-energy", cuts=None, V=1e-6)
    works = plain.choices.works.copy()
    works[:] = head_s, 0.0, 0.03
    made = replace(plain)
    object.__setattr__(made, "choices", replace(plain.choices, works=works, fixed_s=0.0 * plain.choices.fixed_s))
    top = len(made.choices.clock_hz) - 1
    channel = sp.Channel(np.array([0.0, 5.0, 10.0]), np.array([0.0, 1e7]), "late")
    given = sp.Scenario(sp.poisson(25.0), channel, 10.0, seed=2)
    run = sp.simulate(SlotPolicy(made, cuts=[0], clocks=[top], levels=[0]), given, bound=False)
    device = free = 0.0
    for at, latency in zip(run.arrive_s, run.latency_s, strict=True):
        device = max(at, device) + head_s / float(made.choices.speed[top])
        free = max(device, free) + 0.03
        assert latency == pytest.approx(free - at, abs=1e-9) or free >= run.seconds - 1e-9
    assert np.isfinite(run.latency_s).mean() > 0.9


def test_a_fixed_share_holds_back_what_a_bit_takes_at_that_share() -> None:
    """At others it may take less, which is nothing to a policy that may not choose them: frames must not wait for it."""
    made = replace(slot_control(Seeded(5), 4, limits=False), mode="min-energy", cuts=None, V=0.5)
    c = made.choices
    rates = c.levels[1:] * 1e7
    each = sending_w(c.radio, rates, np.full(len(rates), 1e7)) / rates
    dear = 1 + int(np.argmax(each))
    state = sp.SlotState(rate_bps=1e7)
    assert each[dear - 1] > each.min()
    assert SlotPolicy(made, levels=[0, dear]).problem(state).place_held(state)[1] == pytest.approx(0.5 * each[dear - 1])
    assert SlotPolicy(made).problem(state).place_held(state)[1] == pytest.approx(0.5 * each.min())


class Noting(SlotPolicy):
    """The rule; and the states that it saw."""

    def choose(self, state: sp.SlotState) -> sp.SlotPlan:
        self.__dict__.setdefault("seen", []).append(state)
        return super().choose(state)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("load", [0.3, 0.8])
def test_the_rules_queues_are_what_it_expects_but_no_less_than_is_there(seed: int, load: float) -> None:
    """Equation (2), held between the work that waits at the radio, or at the server, and all that is left; by sums over single frames."""
    control, scenario = carried(seed, load, 30.0, V=(1e-4, 1e-2)[seed % 2])
    policy = Noting(control)
    result = simulate(policy, scenario, bound=False)
    c, tau = control.choices, control.slot_s
    edges, offered, came, done = lindley(result)
    slot_of = np.minimum((result.arrive_s / tau).astype(int), len(result.trace) - 1)
    works = c.works[result.trace[slot_of, 4].astype(int)].copy()
    works[works[:, 1] == 0, 2] = 0.0
    expected = np.zeros(2)
    strict = 0
    for t, state in enumerate(policy.seen):  # type: ignore[attr-defined]
        now = edges[t]
        arrived, at = slot_of < t, []
        for stage in (1, 2):
            work = works[:, stage]
            waits = arrived & (came[stage] <= now) & (done[stage] > now) & (work > 0)
            left = work[waits].copy()
            if (
                waits.any()
            ):  # of the one that is being served a part is done: what the stage did since the last other one ended
                first = np.flatnonzero(waits)[np.argmin(came[stage][waits])]
                before = done[stage][(done[stage] <= now) & (work > 0)]
                since = max(came[stage][first], before.max() if len(before) else 0.0)
                served = np.interp(now, edges, offered[stage]) - np.interp(since, edges, offered[stage])
                left[np.flatnonzero(np.flatnonzero(waits) == first)] -= served
            upstream = work[arrived & (came[stage] > now)].sum()
            at.append((left.sum(), left.sum() + upstream))
        seen = np.array([state.uplink_bits, state.server_s])
        for i, (ready, remaining) in enumerate(at):
            wanted = min(max(expected[i], ready), remaining)
            assert seen[i] == pytest.approx(wanted, rel=1e-6, abs=(1e-3, 1e-9)[i]), (t, i)
            strict += seen[i] < remaining * (1 - 1e-6)
        _, _, _, _, k, _, j, n = result.trace[t]
        rate = c.levels[int(j)] * state.rate_bps
        expected = np.maximum(seen - tau * np.array([rate, 1.0]), 0) + n * c.works[int(k), 1:]
    assert state.device_s >= 0 and (strict or load < 0.5 or not works[:, 0].any())


def test_a_frame_for_the_server_does_not_wait_for_the_device() -> None:
    """The device is off for good, and has a frame: what goes up as it came is answered all the same."""
    control, _ = carried(2, 0.5, 60.0)
    c = control.choices
    here, there = int(np.argmin(c.works[:, 1])), int(np.argmin(c.works[:, 0]))
    assert c.works[here, 0] > 0 and c.works[there, 0] == 0

    class InTurns:
        name = "in turns"

        def __init__(self) -> None:
            self.control, self.count = control, 0

        def choose(self, state: sp.SlotState) -> sp.SlotPlan:
            self.count += 1
            return self.control.at(state).plan_for(here if self.count == 1 else there, int(state.frames), 0, 1)

    tau = control.slot_s
    arrivals = sp.Arrivals("recorded", times_s=(0.5 * tau, 1.5 * tau, 2.5 * tau))
    scene_ = sp.Scenario(arrivals, constant(1e7), slots=5_000)
    result = simulate(InTurns(), scene_, bound=False)
    assert math.isinf(result.latency_s[0]) and np.isfinite(result.latency_s[1:]).all()


def quickest(control: sp.SlotControl, scenario: sp.Scenario) -> float:
    """What a frame takes at least in the best slot: deadlines below are refused before the run."""
    every = replace(control, deadline_s=1e3, cuts=None)
    return least_own_s(every, float(scenario.slotted(control.slot_s).rate_bps.max()))


@pytest.mark.parametrize("seed", range(12))
def test_refused_frames_are_no_savings(seed: int) -> None:
    """What a deadline refuses costs nothing, and the bound is then of the frames that were admitted."""
    control, scenario = carried(seed, 0.6, 60.0, V=1e-3)
    tight = replace(control, deadline_s=quickest(control, scenario) * (1.001, 1.5, 3.0)[seed % 3], cuts=None)
    result = simulate(SlotPolicy(tight), scenario)
    assert result.certificate is not None and result.bound is not None
    assert result.certificate >= -1e-7 * abs(result.bound.bound or 1.0)
    assert (result.sums["refused"] > 0) == (seed in (0, 1, 3, 4, 5, 7)), (
        "elsewhere the device is quick enough by itself"
    )
    if result.sums["refused"]:
        assert "frames refused allowed" in str(result)


def test_a_run_as_tables_and_files(tmp_path: Path) -> None:
    control, scenario = carried(2, 0.5, 60.0)
    result = simulate(SlotPolicy(control), scenario)
    slots = result.slots_to_frame()
    assert slots["frames"].sum() == len(result.arrive_s)
    assert set(slots["clock_hz"]) <= set(control.choices.clock_hz) and (slots["rate_bps"] <= slots["channel_bps"]).all()
    assert slots["cut"].dtype.kind == "i"
    result.save(tmp_path / "r.csv")
    assert len(pd.read_csv(tmp_path / "r.csv")) == result.slots
    theory = simulate(SlotPolicy(control), scenario, physical=False)
    assert len(theory.frames_to_frame()) == 0 and theory.plot().axes
    assert sp.sweep(control, scenario, [1e-3, 1e-2], physical=False).plot().axes


def test_a_deadline_is_of_a_frames_own_seconds_and_lateness_is_told() -> None:
    control, scenario = carried(2, 0.8, 60.0, V=1.0)
    result = simulate(SlotPolicy(replace(control, deadline_s=10.0, cuts=None)), scenario)
    admitted = result.latency_s[~np.isnan(result.latency_s)]
    assert result.late == pytest.approx(float((admitted > 10.0).mean()))
    assert "late " in str(result) and simulate(SlotPolicy(control), scenario).late is None


def test_the_same_seed_the_same_run() -> None:
    control, scenario = carried(2, 0.5, 60.0)
    one, two = (simulate(SlotPolicy(control), scenario) for _ in range(2))
    assert np.array_equal(one.trace, two.trace) and np.array_equal(one.latency_s, two.latency_s)


def test_no_frame_is_stranded_when_arrivals_stop() -> None:
    """By persistence; and by place-holders, below which nothing stays. Without both frames stay for ever."""
    control, scenario = carried(4, 0.5, 100.0, V=0.01, persistence=0.01)
    times = scenario.arrive_s()
    early = replace(scenario, arrivals=sp.Arrivals("recorded", times_s=tuple(times[times < 10.0].tolist())))
    for kept in ({}, {"place_holders": False}, {"persistence": 0.0}):
        result = simulate(SlotPolicy(replace(control, **kept)), early)  # type: ignore[arg-type]
        assert len(result.latency_s) and np.isfinite(result.latency_s).all()
    idle = simulate(SlotPolicy(replace(control, persistence=0.0, place_holders=False)), early)
    assert np.isinf(idle.latency_s).any(), "without both frames stay for ever: the test shows nothing"


@pytest.mark.parametrize("v", [1e-2, 1.0, 100.0])
@pytest.mark.parametrize("times", [0.3, 1.0, 3.0])
def test_a_frame_that_finds_everything_idle_is_served_at_once(v: float, times: float) -> None:
    """On a channel that does not move nothing is worth waiting for, whatever V is and whatever the link's nominal rate."""
    control, _ = carried(4, 0.5, 60.0, V=v)
    rate = times * control.system.link.rate_up_bps
    slowest = float(
        control.choices.seconds[:, 1:].max()
        + control.choices.works[:, 1].max() / rate
        + control.choices.works[:, 2].max()
    )
    slots = math.ceil(40 * slowest / control.slot_s)
    arrivals = sp.Arrivals("recorded", times_s=tuple((np.arange(1, 10) * 4 * slowest).tolist()))
    result = simulate(SlotPolicy(control), sp.Scenario(arrivals, constant(rate), slots=slots), bound=False)
    alone = slowest + float(control.choices.fixed_s.max())
    assert len(result.latency_s) == 9 and (result.latency_s <= alone + 2 * control.slot_s).all()


def test_too_much_is_said_before_the_run() -> None:
    control, scenario = carried(1, 3.0, 50.0)
    with pytest.raises(InfeasibleError, match="no policy can carry this load"):
        simulate(SlotPolicy(control), scenario)
    grown = simulate(SlotPolicy(control), scenario, bound=False)
    assert grown.certificate is None and max(grown.left) > 0


def test_a_deadline_refuses_what_cannot_meet_it() -> None:
    control, scenario = carried(7, 0.4, 60.0)
    tight = replace(control, deadline_s=1.001 * quickest(control, scenario), cuts=None)
    result = simulate(SlotPolicy(tight), scenario)
    assert 0 < result.sums["refused"] == np.isnan(result.latency_s).sum()


def test_what_is_given_is_looked_at() -> None:
    control, scenario = carried(0, 0.5, 10.0)
    with pytest.raises(DataError, match="policy is a SlotControl"):
        simulate(control, scenario)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="policy is a type, the class SlotPolicy"):
        simulate(SlotPolicy, scenario)  # type: ignore[arg-type]
    other = SimpleNamespace(control=control.profile, name="mine", choose=SlotPolicy(control).choose)
    with pytest.raises(
        DataError, match=r"simulate: the policy's control is a Profile; it must be a splitplan\.SlotControl"
    ):
        simulate(other, scenario)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="physical=False"):
        simulate(SlotPolicy(control), scenario, start=sp.SlotState())
    with pytest.raises(DataError, match="cuts is"):
        SlotPolicy(control, cuts=(99,))
    text = str(simulate(SlotPolicy(control), scenario))
    assert "certificate" in text and "p95" in text


def test_the_cache_knows_every_file_that_is_compiled() -> None:
    folder = ROOT / "splitplan" / "simulator"
    compiled = {path.name for path in folder.glob("*.py") if "\n@njit\n" in path.read_text(encoding="utf-8")}
    assert compiled == set(SOURCES)
    assert not COMPILED or decide.__qualname__.endswith(digest())


@pytest.mark.skipif(not COMPILED, reason="numba is not installed")
def test_compiled_or_not_the_numbers_are_the_same() -> None:
    control, scenario = carried(2, 0.5, 30.0, V=1e-3)
    mine = simulate(SlotPolicy(control), scenario)
    script = (
        "from tests.simulator.test_simulate import carried, simulate, SlotPolicy\n"
        "result = simulate(SlotPolicy((case := carried(2, 0.5, 30.0, V=1e-3))[0]), case[1])\n"
        "print(result.sums, result.left, result.latency_s.tolist())"
    )
    plain = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        cwd=ROOT,
    )
    assert plain.stdout.strip() == f"{mine.sums} {mine.left} {mine.latency_s.tolist()}"
