"""A result says what was chosen by name, the capacity, and when its numbers say little; bounds do too."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

import splitplan as sp
from benchmarks.instances import Seeded, graph
from splitplan.data.channel import constant
from splitplan.policies.result import Result
from splitplan.policies.slot_baselines import greedy_latency
from splitplan.policies.stages import Stage
from splitplan.solvers.columns import capacity

CLOCKS = (1e8, 4e8)


def control(active_power_w: tuple[float, ...] = (2.0, 5.0), **options: object) -> sp.SlotControl:
    """A device of two clocks that takes 0.1 s a frame, and an uplink of 10 Mbit/s."""
    made = graph(Seeded(2), 5)
    times = {p: {x.name: t for x in made.layers} for p, t in (("device", 0.02), ("server", 0.001))}
    device = sp.Device("d", clock_hz=CLOCKS, active_power_w=active_power_w, idle_power_w=1.0, latency_a=1.0)
    system = sp.System(
        device=device, server=sp.Device("s"), link=sp.Link("w", 1e7, 2e7, 0.01, radio=sp.Radio(2e-7, 5e-8, 0.3))
    )
    rows = [
        {"layer": x, "place": p, "clock_hz": hz, "time_s": t * (4e8 / hz if p == "device" else 1.0), "spread_s": 0.0, "samples": 1, "method": "given"}
        for p, layers in times.items() for x, t in layers.items() for hz in (CLOCKS if p == "device" else (float("nan"),))
    ]  # fmt: skip
    given = sp.Profile(made, pd.DataFrame(rows))
    return sp.SlotControl(given, system, **({"V": 0.01} | options))  # type: ignore[arg-type]


DEAR: dict[str, Any] = {"active_power_w": (2.0, 9.0), "rate_hz": 8.0}
"""A top clock that takes twice the joules of the other, and more frames than that one carries."""


def run(slots: int = 300, rate_hz: float = 3.0, **options: Any) -> Result:
    scene = sp.Scenario(sp.poisson(rate_hz), constant(1e7), slots=slots, seed=1)
    return sp.simulate(sp.SlotPolicy(control(**options)), scene)


def test_a_bound_speaks_of_layers_clocks_and_the_capacity() -> None:
    problem = sp.StationaryBound(control(), sp.Scenario(sp.poisson(3.0), constant(1e7), slots=300, seed=1))
    solution = problem.solve()
    shown = str(solution)
    names = problem.control.cuts.names  # type: ignore[union-attr]
    best = names[int(np.argmax(solution.plan.cut_frames))]
    assert f"frames: {best} (" in shown and "400 MHz (" in shown and "off (" in shown and "silent (" in shown
    share, binding = capacity(problem)
    assert solution.plan.capacity_hz == pytest.approx(share * problem.arriving / 0.1)
    assert solution.plan.binding == pytest.approx(binding)
    (first, *_) = binding
    assert (
        f"any policy carries at most {solution.plan.capacity_hz:.4g} frames/s" in shown
        and f"{first} (" in solution.facts["capacity"]
    )
    assert "J/bit" in solution.facts["prices"] and solution.to_dict()["facts"] == solution.facts
    assert type(solution.plan).from_dict(solution.plan.to_dict()).capacity_hz == solution.plan.capacity_hz


def test_the_capacity_is_of_frames_also_where_frames_may_be_refused() -> None:
    scene = sp.Scenario(sp.poisson(3.0), constant(1e7), slots=300, seed=1)
    must = sp.StationaryBound(control(), scene).solve().plan.capacity_hz
    for options in ({"throughput_min_hz": 0.5}, {"mode": "max-throughput"}):
        assert sp.StationaryBound(control(**options), scene).solve().plan.capacity_hz == pytest.approx(must)


def test_nothing_arrives_and_no_capacity_is_claimed() -> None:
    times = sp.Arrivals("recorded", times_s=(100.0,))
    result = sp.simulate(sp.SlotPolicy(control()), sp.Scenario(times, constant(1e7), slots=20))
    assert result.capacity_hz is None and "any policy carries" not in str(result)


def test_a_result_says_what_was_chosen_by_name() -> None:
    result = run()
    slots, shown = result.slots_to_frame(), str(result)
    names = result.policy.control.cuts.names  # type: ignore[union-attr]
    assert list(slots["cut_name"]) == [names[k] for k in slots["cut"]]
    np.testing.assert_allclose(slots["rate_share"] * slots["channel_bps"], slots["rate_bps"])
    off = (slots["clock_hz"] == 0).mean()
    assert f"off ({100 * off:.3g} %)" in result.chosen["device"]
    most = slots.groupby("cut_name", observed=True)["admitted"].sum()
    assert f"{most.idxmax()} ({100 * most.max() / most.sum():.3g} %)" in result.chosen["frames"]
    assert "of the uplink" in result.chosen["uplink"] and "chosen      frames: " in shown
    assert f"any policy carries at most {result.capacity_hz:.4g}" in shown
    assert dict(result.to_frame().to_numpy())["capacity_hz"] == result.capacity_hz
    assert "chosen" not in str(sp.simulate(result.policy, result.scene, trace=False))


def test_it_is_saved_with_names(tmp_path: object) -> None:
    result = run(20)
    for name in ("r.parquet", "r.csv"):
        result.save(f"{tmp_path}/{name}")
    assert list(pd.read_parquet(f"{tmp_path}/r.parquet")["cut_name"]) == list(
        pd.read_csv(f"{tmp_path}/r.csv")["cut_name"]
    )


@pytest.mark.parametrize(
    ("v", "says"), [(1e-8, "so small that energy hardly counts"), (1e4, "so large that no dearer clock is chosen")]
)
@pytest.mark.parametrize("place_holders", [True, False])
def test_a_weight_that_decides_nothing_is_noted(v: float, says: str, place_holders: bool) -> None:
    assert says in str(run(V=v, place_holders=place_holders, **DEAR))


def test_no_backlog_is_foretold_where_a_deadline_decides() -> None:
    """It forces dearer clocks on whatever waits, so that V alone says nothing of when one is taken."""
    assert "no dearer clock" not in str(run(V=1e4, deadline_s=10.0, **DEAR))


@pytest.mark.parametrize("v", [0.0, 1e-3, 1e-2, 1.0])
def test_a_weight_that_can_be_meant_is_not(v: float) -> None:
    assert run(V=v).doubts == []


def test_a_large_weight_that_carries_the_load_is_not_judged() -> None:
    """No clock is dearer than the other, and with place-holders nothing waits for energy's sake."""
    result = run(V=1e4)
    assert result.unanswered < 10 and result.doubts == []


def test_the_weights_that_the_note_names_are_not_noted() -> None:
    for v in (1e-8, 1e4):
        (text,) = [t for t in run(V=v, **DEAR).doubts if "V = " in t]
        better = float(text.rsplit("V = ", 1)[1].split()[0] if v > 1 else text.rsplit("about ", 1)[1])
        assert not [t for t in run(V=better, **DEAR).doubts if "V = " in t]


def test_a_weight_of_something_else_than_energy_is_not_judged() -> None:
    assert run(mode="min-latency", V=1e12).doubts == []


@pytest.mark.parametrize(
    ("options", "rate_bps", "says"),
    [
        ({"slot_s": 100.0}, 1e7, "slot_s = 100 is in seconds"),
        ({}, 5.0, "the mean rate of channel 'constant 5e-06 Mbit/s' is 5 bit/s; rates are in bit/s: 5 Mbit/s are 5e6"),
    ],
)
def test_a_unit_that_is_surely_wrong_is_warned_of(options: dict[str, float], rate_bps: float, says: str) -> None:
    scene = sp.Scenario(sp.poisson(0.01), constant(rate_bps), slots=300, seed=1)
    with pytest.warns(UserWarning, match=says):
        sp.simulate(sp.SlotPolicy(control(**options)), scene)


def test_a_link_in_megabits_is_warned_of_and_others_are_not() -> None:
    scene, right = sp.Scenario(sp.poisson(0.01), constant(1e7), slots=300), control()
    link = right.system.link.but(rate_bps=5.0)
    system = sp.System(device=right.system.device, server=right.system.server, link=link)
    with pytest.warns(UserWarning, match="the rate of link 'w' is 5 bit/s"):
        sp.StationaryBound(sp.SlotControl(right.profile, system), scene)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for slot_s in (0.001, 0.1, 5.0):
            sp.StationaryBound(replace(right, slot_s=slot_s), scene)


def test_stages_are_shown_beside_the_profile() -> None:
    stages = (Stage(1, "after b", "device", 0.1, 0.12, 0.2, 9), Stage(1, "after b", "rest", 0.0, 0.004, 0.01, 9))
    result = replace(run(20), live=True, stages=stages)
    assert "after b: device 120 ms (profiled 100, 1.20x), rest 4 ms (in no profile); medians of 9 frames" in str(result)
    frame = result.stages_to_frame()
    assert (
        list(frame["stage"]) == ["device", "rest"]
        and frame["ratio"][0] == pytest.approx(1.2)
        and pd.isna(frame["ratio"][1])
    )
    assert list(run(20).stages_to_frame().columns) == list(frame.columns)


class Refuses:
    """It admits nothing at all."""

    name = "refuses"

    def __init__(self, control: sp.SlotControl) -> None:
        self.control = control

    def choose(self, state: sp.SlotState) -> sp.SlotPlan:
        return self.control.at(replace(state, frames=0)).plan_for(cut=0, frames=0, clock=0, level=0)


def refusing(**options: Any) -> Result:
    scene = sp.Scenario(sp.poisson(8.0), constant(1e7), slots=200, seed=1)
    return sp.simulate(Refuses(control(**options)), scene)


def test_one_that_refuses_all_is_told_to_and_not_praised() -> None:
    result = refusing()
    shown, refused = str(result), round(result.sums["refused"])
    (told,) = result.doubts
    assert told == "EVERY frame was refused: the policy refused them; its control has no limit that asks for that"
    assert not result.carried and told in shown
    (line,) = [x for x in shown.splitlines() if "certificate" in x]
    assert f"that admits as few frames ({refused} that were to be served were refused)" in line
    assert line.endswith("it is of the work that was done, and the load is not carried")
    (note, _) = sp.compare([result]).notes
    assert (
        note
        == f"'refuses' does not carry the load: {refused} of {refused} frames were not answered, {refused} of them refused"
    )
    (_, why) = sp.sweep(result.policy.control, result.scene, [0.1], policy=Refuses).notes
    assert why == "frames that were refused: " + told.removeprefix("EVERY frame was refused: ")


def test_limits_are_named_where_they_say_why_frames_were_refused() -> None:
    (easy,) = refusing(deadline_s=10.0).doubts
    assert "the policy refused them; at the channel's mean rate" in easy and "within its control's limits" in easy
    (hard,) = refusing(deadline_s=0.35, power_cap_w=2.1).doubts  # the slow clock takes 0.4 s, and the radio 2.3 W
    assert "the policy refused them; no choice" in hard and "deadline_s = 0.35 and power_cap_w = 2.1" in hard
    slow = sp.Scenario(
        sp.poisson(8.0), sp.Channel(np.array([0.0, 19.0, 20.0]), np.array([1.0, 1e7])), slots=200, seed=1
    )
    c = control(deadline_s=0.2)
    server = int(np.argmin(c.choices.works[:, 0]))
    (told,) = sp.simulate(sp.SlotPolicy(c, cuts=[server]), slow, bound=False).doubts
    assert "no choice of cut, clock and rate met deadline_s = 0.2" in told and "the policy" not in told


def test_a_run_that_carries_the_load_is_told_so_by_its_certificate_alone() -> None:
    (line,) = [x for x in str(run()).splitlines() if "certificate" in x]
    assert "refused" not in line and "not carried" not in line and line.endswith("%")


@pytest.mark.parametrize("place_holders", [True, False])
def test_a_budget_says_whether_it_held_and_how_large_its_debt_gets(place_holders: bool) -> None:
    """The debt that was paid for at the end is about what the bound's price of a joule says."""
    options: dict[str, Any] = {"mode": "max-throughput", "power_budget_w": 1.6, "place_holders": place_holders}
    broken = run(20_000, 8.0, V=10.0, **options)
    (limit,) = broken.limits
    assert (limit.name, limit.limit, limit.mean, limit.held) == ("power_budget_w", 1.6, broken.power_w, False)
    debt_j = (broken.power_w - 1.6) * broken.seconds
    said = float(limit.why.split("some ")[1].split()[0])
    assert said == pytest.approx(debt_j, rel=0.3) and f"it is {debt_j:.3g} J now" in limit.why
    assert f"limit       power_budget_w 1.6: {broken.power_w:.4g} W, NOT held: " in str(broken)
    table = dict(broken.to_frame().to_numpy())
    assert (table["power_budget_w"], table["power_budget_w_mean"], table["power_budget_w_held"]) == (
        1.6,
        broken.power_w,
        False,
    )
    fine = run(20_000, 8.0, V=1e-4, **options)
    assert fine.limits[0].held and "W, held\n" in str(fine)
    both = sp.compare({"fine": fine, "broken": broken})
    assert list(both.to_frame()["held"]) == [True, False] and "held" in str(both)
    assert [text for text in both.notes if "budget" in text] == [f"'broken': {limit}"]
    assert "held" not in str(sp.compare([run()]))


def test_limits_on_latency_and_frames_say_whether_they_held() -> None:
    late = run(2000, latency_limit_s=0.11, power_budget_w=2.3)
    _, limit = late.limits
    assert limit.mean == pytest.approx(late.sums["own_latency_s"] / late.sums["admitted"])
    assert limit.held == (limit.mean <= 0.11 * 1.001)
    few = run(300, 6.0, mode="max-throughput", V=0.01, throughput_min_hz=5.5)
    (limit,) = few.limits
    assert limit.mean == pytest.approx(few.sums["admitted"] / 30.0) and "frames/s" in str(limit)
    none = sp.simulate(Refuses(control(throughput_min_hz=5.5)), few.scene)
    assert none.limits[0].why == "the policy decides for itself, not by the debt" and none.limits[0].mean == 0
    scarce = sp.simulate(
        sp.SlotPolicy(control(throughput_min_hz=5.5)), replace(few.scene, arrivals=sp.poisson(2.0)), bound=False
    )
    assert not scarce.limits[0].held and scarce.limits[0].why.startswith("only ")
    (empty,) = sp.simulate(Refuses(control(latency_limit_s=1.0)), few.scene).limits
    assert empty.held and str(empty) == "latency_limit_s 1: no frame was admitted, held"


def test_a_live_run_says_what_its_bound_is_of() -> None:
    result = run()
    assert result.certificate is not None
    live = replace(result, live=True)
    assert any("the bound is of the profile's seconds" in text for text in live.doubts) and not result.doubts
    quick = replace(live, sums=live.sums | {"energy_j": 0.9 * live.sums["energy_j"]})
    assert quick.certificate < 0 and "the certificate is negative: what was done took less" in str(quick)
    both = sp.compare([result, quick])
    assert [text for text in both.notes if "profile's seconds" in text] and not sp.compare([result]).notes


def test_a_v_that_nobody_chose_is_not_shown() -> None:
    greedy = sp.simulate(greedy_latency(control(V=0.1)), run().scene)
    assert str(greedy).startswith("greedy latency: 300 slots") and "e+12" not in str(greedy) + str(
        greedy.plot().axes[0].get_title("left")
    )
    both = sp.compare([run(), greedy])
    assert np.isnan(both.to_frame()["V"][1]) and "e+12" not in str(both) and "NaN" not in str(both).splitlines()[3]
    assert str(run()).startswith("joint, V 0.01: 300 slots")
    many = sp.simulate_many([greedy.policy, run().policy], [greedy.scene] * 2, bound=False)
    assert np.isnan(many["V"][0]) and many["V"][1] == 0.01
