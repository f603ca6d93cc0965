"""Every exact rung against brute force written from the equations, and against each other where brute force cannot go."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings

import splitplan as sp
from benchmarks import instances
from benchmarks.instances import Seeded
from splitplan.errors import InfeasibleError, NotApplicable
from splitplan.solvers.arrays import to_arrays
from splitplan.solvers.highs_run import solve_arrays
from splitplan.solvers.infeasible import rounded_up
from tests.formulations import brute_force
from tests.generators import split_problems

AGREE = 1e-9
NAMES = ("auto", "min-cut", "ideals", "highs-lp", "highs")


@dataclass
class Tally:
    """What was compared; printed by the seeded runs."""

    problems: int = 0
    solved: dict[str, int] = field(default_factory=dict)
    infeasible: int = 0
    slivers: int = 0
    worst: float = 0.0


def compare(p: sp.SplitPoint, tally: Tally | None = None) -> None:
    """All rungs against every subset of layers: same optimum, optimal status, or the same refusal."""
    tally = Tally() if tally is None else tally
    tally.problems += 1
    placements = list(brute_force.every_placement(p))
    best = brute_force.least(p, placements)
    # Limits are kept to 1e-9: plans in that sliver may count or not, so two optima can be right.
    strict = brute_force.least(p, placements, tolerance=0.0)
    used = []
    for name in NAMES:
        try:
            solution, refused = p.solve(name), None
        except NotApplicable:
            continue
        except InfeasibleError as e:
            solution, refused = None, e
        used.append(name)
        if solution is None:
            assert strict is None, f"{name}: {refused}; brute force found {best}"
            check_explanation(p, placements, refused)
            tally.infeasible += name == "auto"
            continue
        assert best is not None, f"{name} solved what cannot be solved: {solution}"
        assert solution.status == "optimal", f"{name}: {solution}"
        if strict is not None and strict != best:
            assert best * (1 - AGREE) <= solution.objective <= strict * (1 + AGREE)
            tally.slivers += 1
            continue
        difference = abs(solution.objective - best) / best if best else abs(solution.objective)
        assert difference <= AGREE, f"{name}: {solution.objective!r}, brute force {best!r}\n{solution}"
        assert solution.bound is not None
        assert solution.bound <= best * (1 + AGREE)
        tally.worst = max(tally.worst, difference)
        tally.solved[name] = tally.solved.get(name, 0) + 1
    assert {"auto", "ideals", "highs"} <= set(used)
    assert ("min-cut" in used) == (p.linear_objective is not None and not p.limits) == ("highs-lp" in used)


def check_explanation(p: sp.SplitPoint, placements: list[brute_force.Priced], error: InfeasibleError) -> None:
    """The limits named cannot be met together, each is needed for that, and each stated least value is right."""
    named = re.findall(r"^(\w+)=\S+: (the least|cannot)", "\n".join(error.conflicts), re.MULTILINE)
    names = [n for n, _ in named]
    assert names, error.conflicts
    assert set(names) <= set(brute_force.limits(p))
    assert not any(brute_force.within(p, x, names, tolerance=0.0) for x in placements)
    for line, (name, how) in zip(error.conflicts, named, strict=False):
        others = [n for n in names if n != name]
        meets = [getattr(x, brute_force.MEASURE_OF[name]) for x in placements if brute_force.within(p, x, others)]
        assert meets, f"{name} is not needed for the conflict: {error.conflicts}"
        assert how == "the least"
        under, stated = re.search(r"possible(?: with (.*))? is (\S+) \S+; (?:raise|but)", line).groups()
        told = re.findall(r"(\w+)=", under or "")
        assert set(told) >= set(others)
        least = min(getattr(x, brute_force.MEASURE_OF[name]) for x in placements if brute_force.within(p, x, told))
        assert least * (1 - AGREE) <= float(stated) <= least * (1 + 1.1e-5)


@settings(max_examples=120)
@given(split_problems())
def test_brute_force(p: sp.SplitPoint) -> None:
    compare(p)


@settings(max_examples=60)
@given(split_problems(linear=True, most=10))
def test_brute_force_weighted_sums(p: sp.SplitPoint) -> None:
    compare(p)


@pytest.mark.parametrize("ranges", ["real", "huge", "ties"])
def test_brute_force_seeded(ranges: str) -> None:
    for seed in range(40):
        choose = Seeded(seed)
        compare(instances.split_problem(choose, choose.whole(2, 10), instances.RANGES[ranges]))


@pytest.mark.slow
@pytest.mark.parametrize("ranges", ["real", "huge", "ties"])
@pytest.mark.parametrize("part", range(5))
def test_thousands_against_brute_force(ranges: str, part: int, capsys: pytest.CaptureFixture[str]) -> None:
    tally = Tally()
    for i in range(200):
        choose = Seeded(10_000 + 200 * part + i)
        layers = choose.whole(2, 14)
        if i % 2:
            p = instances.split_problem(choose, layers, instances.RANGES[ranges])
        else:
            p = instances.split_problem(
                choose, layers, instances.RANGES[ranges], objectives=instances.LINEAR_OBJECTIVES, limits=False
            )
        compare(p, tally)
    with capsys.disabled():
        print(f"\n{ranges} {part}: {tally}")


def large(seed: int, ranges: str, *, linear: bool) -> sp.SplitPoint:
    choose = Seeded(1_000_000 + seed)
    return instances.split_problem(
        choose,
        choose.whole(50, 500),
        instances.RANGES[ranges],
        objectives=instances.LINEAR_OBJECTIVES if linear else instances.OBJECTIVES,
        limits=not linear,
        reach=choose.whole(2, 8) if linear else 1,  # with limits: nearly chains, so that the ideals can be counted too
        dense=0.35 if linear else 0.02,
    )


def check_large(p: sp.SplitPoint) -> float:
    """Largest relative difference between min-cut, LP and MILP."""
    solutions = [p.solve(name) for name in ("min-cut", "highs-lp", "highs")]
    assert all(s.status == "optimal" for s in solutions), [str(s) for s in solutions]
    values = [s.objective for s in solutions]
    difference = (max(values) - min(values)) / max(max(values), 1e-300)
    assert difference <= AGREE, [str(s) for s in solutions]
    return difference


@pytest.mark.parametrize(("seed", "ranges"), [(0, "real"), (1, "huge"), (2, "ties"), (3, "real")])
def test_large_graphs(seed: int, ranges: str) -> None:
    check_large(large(seed, ranges, linear=True))


def test_an_optimum_that_highs_withdraws() -> None:
    """HiGHS finds it, sees a row of size 5,000 broken by 5e-9 in its own rounding, and reports a solve error."""
    p = large(12, "huge", linear=False)
    assert p.solve("highs").objective == pytest.approx(p.solve("ideals").objective, rel=AGREE)


@pytest.mark.slow
@pytest.mark.parametrize("ranges", ["real", "huge", "ties"])
def test_hundreds_of_large_graphs(ranges: str, capsys: pytest.CaptureFixture[str]) -> None:
    worst = max(check_large(large(seed, ranges, linear=True)) for seed in range(100, 180))
    with capsys.disabled():
        print(f"\n80 graphs of 50 to 500 layers, {ranges}: worst relative difference {worst:.2g}")


@pytest.mark.slow
@pytest.mark.parametrize("ranges", ["real", "huge", "ties"])
def test_large_graphs_with_limits(ranges: str, capsys: pytest.CaptureFixture[str]) -> None:
    compared = infeasible = 0
    for seed in range(40):
        p = large(seed, ranges, linear=False)
        try:
            priced = p.solve("ideals")
        except NotApplicable:
            continue
        except InfeasibleError:
            infeasible += 1
            with pytest.raises(InfeasibleError):
                p.solve("highs")
            continue
        milp = p.solve("highs")
        assert milp.status == "optimal"
        assert milp.objective == pytest.approx(priced.objective, rel=AGREE)
        compared += 1
    with capsys.disabled():
        print(f"\n{ranges}: {compared} graphs with limits agree, {infeasible} infeasible by both")
    assert compared >= 10


@settings(max_examples=60)
@given(split_problems())
def test_relaxation_is_a_lower_bound(p: sp.SplitPoint) -> None:
    arrays = to_arrays(p.build())
    relaxed, whole = solve_arrays(arrays, relax=True), solve_arrays(arrays)
    if whole.objective is None:
        return
    assert relaxed.objective is not None and relaxed.bound is not None
    assert relaxed.bound <= relaxed.objective + 1e-6
    assert relaxed.objective <= whole.objective + 1e-6 * max(1.0, abs(whole.objective))


def test_the_two_ways_to_be_infeasible_alone_and_together(diamond_profile: sp.Profile, system: sp.System) -> None:
    alone = sp.SplitPoint(diamond_profile, system, deadline_s=1e-3)
    with pytest.raises(InfeasibleError, match=r"deadline_s=0\.001: the least latency possible is 0\.013 s") as caught:
        alone.solve()
    assert len(caught.value.conflicts) == 1
    # Each can be met (all on the device takes 13 ms and 309 kB; all on the server 4 kB), but not both.
    together = sp.SplitPoint(diamond_profile, system, deadline_s=0.02, device_memory_bytes=1e5)
    with pytest.raises(InfeasibleError) as caught:
        together.solve()
    assert [c.partition("=")[0] for c in caught.value.conflicts] == ["deadline_s", "device_memory_bytes"]
    pinned = replace(alone, pin_device=("a",))
    with pytest.raises(InfeasibleError, match=r"the pins \(pin_device: 'a'\) hold throughout"):
        pinned.solve()


@settings(max_examples=40)
@given(split_problems())
def test_doing_as_the_explanation_says_makes_it_feasible(p: sp.SplitPoint) -> None:
    """At once, also where several conflicts have nothing to do with each other."""
    p = replace(p, deadline_s=1e-9)
    try:
        p.solve()
    except InfeasibleError as e:
        text = "\n".join(e.conflicts)
        raised = re.findall(r"^(\w+)=\S+: the least.*? is (\S+) \S+; raise", text, re.MULTILINE)[:1]
        raised = raised or re.findall(r"(\w+) to (\S+) (?:s|J|bytes)", text[text.index("raised together") :])
        replace(p, **{name: float(value) for name, value in raised}).solve()


@pytest.mark.parametrize("value", [0.0123454321, 0.0, 1.0, 123456.5, 1e-30 / 3, 9.999999999])
def test_rounded_up(value: float) -> None:
    assert value <= float(rounded_up(value)) <= value * (1 + 1.1e-5)


# -- relations that must hold ---------------------------------------------------------------------------


def value(p: sp.SplitPoint) -> float:
    try:
        return p.solve().objective
    except InfeasibleError:
        return math.inf


def no_worse(better: sp.SplitPoint, worse: sp.SplitPoint) -> None:
    assert value(better) <= value(worse) * (1 + AGREE)


@settings(max_examples=50)
@given(split_problems())
def test_more_bandwidth_never_hurts(p: sp.SplitPoint) -> None:
    if "energy" in p.measures and p.system.link.radio.up_w_per_bps:
        return  # a radio that sends faster draws more: bandwidth may cost energy
    no_worse(p.with_slot(rate_up_bps=2 * p.system.link.rate_up_bps), p)
    no_worse(p.with_slot(rate_down_bps=3 * p.system.link.rate_down_bps), p)
    no_worse(p, p.with_slot(delay_up_s=p.system.link.up_delay_s + 0.01))


@settings(max_examples=40)
@given(split_problems())
def test_wider_limits_and_fewer_pins_never_hurt(p: sp.SplitPoint) -> None:
    for name, (_, limit) in p.limits.items():
        no_worse(replace(p, **{name: 1.5 * limit}), p)
        no_worse(replace(p, **{name: None}), p)
    no_worse(replace(p, pin_device=(), pin_server=()), p)


@settings(max_examples=40)
@given(split_problems())
def test_narrower_wire_never_hurts(p: sp.SplitPoint) -> None:
    # Inputs share a given whole in proportion to what they are on the wire, so that one that is narrow already would get more of it.
    p = replace(p, input_bytes=None)
    no_worse(replace(p, wire="fp16"), replace(p, wire="fp32"))
    no_worse(replace(p, wire="int8"), replace(p, wire="fp16"))


@settings(max_examples=40)
@given(split_problems())
def test_more_freedom_for_the_result_never_hurts(p: sp.SplitPoint) -> None:
    no_worse(replace(p, result="anywhere"), replace(p, result="device"))
    no_worse(replace(p, result="anywhere"), replace(p, result="server"))


@settings(max_examples=40)
@given(split_problems())
def test_slower_layers_never_help(p: sp.SplitPoint) -> None:
    table = p.profile.to_frame()
    slower = table.assign(time_s=table["time_s"] * 1.7)
    no_worse(p, replace(p, profile=sp.Profile(p.profile.graph, slower, p.profile.origins)))
