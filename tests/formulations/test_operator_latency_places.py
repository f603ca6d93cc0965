"""OperatorLatency on the unlike places of a system: brute force = MILP, lists never below it, bounds that hold, audits, errors."""

from __future__ import annotations

import ast
import math
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import splitplan as sp
from benchmarks.instances import RANGES, REAL, TIES, Seeded
from splitplan.data.operators import OperatorGraph, OperatorSchedule
from splitplan.errors import DataError, InfeasibleError, NoSolutionError
from splitplan.formulations import latency_bounds, operator_latency_model
from splitplan.formulations.operator_latency import OperatorLatency
from splitplan.formulations.solution import Termination
from splitplan.solvers import clock, latency_milp
from splitplan.solvers.arrays import to_arrays
from splitplan.solvers.audit_latency import audit_latency
from splitplan.solvers.highs_run import Engine, Outcome
from splitplan.solvers.latency_list import LatencyList
from splitplan.solvers.latency_milp import LatencyMilp
from tests.formulations.latency_brute_force import least, random_layers
from tests.formulations.lp_files import least_of_file
from tests.generators import Drawn

GOLDEN = Path(__file__).parent / "golden_latency"


@pytest.mark.parametrize("block", range(5))
def test_brute_force_and_milp(block: int) -> None:
    solved = 0
    for seed in range(1000 * block, 1000 * block + 48):
        p = random_layers(Seeded(seed), list(RANGES.values())[seed % len(RANGES)])
        expected = least(p)
        if math.isinf(expected):
            with pytest.raises(InfeasibleError):
                p.solve(LatencyMilp(pairs=10_000))
            with pytest.raises((InfeasibleError, NoSolutionError)):
                p.solve(LatencyList(rounds=20))
            continue
        near = 1e-6 * max(expected, p.smallest)
        found = p.solve(LatencyMilp(pairs=10_000))
        assert found.objective == pytest.approx(expected, abs=near), seed
        assert found.gap is not None and found.gap <= 1e-6, seed
        assert p.bound <= expected + near, seed
        solved += 1
        try:
            listed = p.solve(LatencyList(rounds=50))
        except NoSolutionError:  # a list schedule may not find its way through memory and missing ways
            continue
        assert listed.objective >= expected - near, seed
        assert listed.bound is not None and listed.bound <= expected + near, seed
    assert solved >= 40


def test_the_model_alone_and_what_is_read_from_its_values() -> None:
    """No list schedule: the model's own horizon, and the schedule as it stands in HiGHS's values. Some operators take no time."""
    solved = 0
    for seed in range(1000, 1060):
        p = random_layers(Seeded(seed), TIES if seed % 2 else REAL)
        expected = least(p)
        if math.isinf(expected):
            continue
        values = Engine(to_arrays(p.build()), gap=0.0, verbose=False).run(None).values
        assert values is not None
        near = 1e-6 * max(expected, p.smallest)
        assert p.evaluate(p.read(values))["objective"] == pytest.approx(expected, abs=near), seed
        solved += 1
    assert solved >= 50


def test_an_operator_of_no_seconds_is_read_before_the_one_that_begins_with_it() -> None:
    quick = sp.Profile.given(FORK, SECONDS | {"box": SECONDS["box"] | {"c": 0.0}})
    p = OperatorLatency.of_profile(quick, cluster(), source="cam", sink="cam")
    device = {"input": 0, "a": 0, "b": 1, "c": 1, "d": 0, "output": 0}
    values = {f"x[{v},{e}]": float(e == d) for v, d in enumerate(device.values()) for e in range(3)}
    begin = {"input": 0.0, "a": 0.0, "b": 1.6, "c": 1.6, "d": 3.45, "output": 4.45}
    plan = p.read(values | {f"s[{v}]": s * p.scale for v, s in enumerate(begin.values())})
    assert plan.begin_s == pytest.approx(begin)


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_bounds_and_lists_around_brute_force(data: st.DataObject) -> None:
    ranges = data.draw(st.sampled_from(list(RANGES.values())))
    p = random_layers(Drawn(data.draw), ranges, most=3)  # type: ignore[arg-type]  # draws as @composite's do
    expected = least(p)
    near = 1e-6 * max(expected, p.smallest)
    assert p.bound <= expected + near
    try:
        found = p.solve(LatencyList(rounds=30))
    except InfeasibleError:
        found = None
        assert math.isinf(expected)
    except NoSolutionError:
        found = None
    if found is None:
        return
    assert found.objective >= expected - near
    assert not p.violations(found.plan)


def test_audit_and_formulation_refuse_the_same_mutations() -> None:
    """What is accepted is never better than the optimum; an operator that begins sooner than it can is always seen."""
    refused = accepted = 0
    for seed in range(40):
        p = random_layers(Seeded(seed), REAL)
        rng = np.random.default_rng(seed)
        try:
            solution = p.solve(LatencyMilp(pairs=10_000))
        except InfeasibleError:
            continue
        plan, best = solution.plan, solution.objective
        for v, begin in plan.begin_s.items():
            mutants = [replace(plan, placement=plan.placement | {v: str(rng.choice(p.devices))})]
            if begin > 1e-6 * best:
                sooner = replace(plan, begin_s=plan.begin_s | {v: begin * (1 - 1e-5)})
                assert audit_latency(p, sooner, {}).violations, (seed, v)
                mutants.append(sooner)
            mutants.append(replace(plan, begin_s=plan.begin_s | {v: begin + best * float(rng.random())}))
            for mutant in mutants:
                audit = audit_latency(p, mutant, {})
                assert bool(audit.violations) == bool(p.violations(mutant)), (seed, v)
                refused += bool(audit.violations)
                if not audit.violations:
                    accepted += 1
                    assert audit.objective == pytest.approx(p.evaluate(mutant)["objective"], rel=1e-9)
                    assert audit.objective >= best * (1 - 1e-6)
    assert refused > 100 and accepted > 20


# -- by hand ---------------------------------------------------------------------------------------------

FORK = sp.LayerGraph(
    "fork",
    tuple(
        sp.Layer(name, parameters=parameters, memory_bytes=10.0)
        for name, parameters in (("a", ()), ("b", ("shared",)), ("c", ("shared",)), ("d", ("own",)))
    ),
    (
        sp.Tensor("x", "input", ("a",), 1e6),
        sp.Tensor("ta", "a", ("b", "c"), 5e5),
        sp.Tensor("tb", "b", ("d",), 2.5e5),
        sp.Tensor("tc", "c", ("d",), 2.5e5),
        sp.Tensor("td", "d", (), 1e5, is_output=True),
    ),
    {"shared": 100.0, "own": 50.0},
)
SECONDS = {
    "cam": {"a": 1.0, "b": 4.0, "c": 4.0, "d": 1.0},
    "box": {"a": 1.0, "b": 1.5, "c": 9.0, "d": 2.0},
    "hall": {"a": 9.0, "b": 9.0, "c": 1.5, "d": 9.0},
}
WAY = sp.Link("a microsecond a byte", 8e6, 8e6, 0.2)


def cluster(**rooms: float) -> sp.System:
    places = {name: sp.Device(name, memory_bytes=rooms.get(name)) for name in SECONDS}
    return sp.System(links={("cam", "box"): WAY, ("cam", "hall"): WAY}, **places)


def fork(source: str | None = "cam", sink: str | None = "cam", wire: str = "fp32", **rooms: float) -> OperatorLatency:
    return OperatorLatency.of_profile(sp.Profile.given(FORK, SECONDS), cluster(**rooms), wire, source, sink)  # type: ignore[arg-type]


def test_by_hand() -> None:
    """a on the camera till 1 s; b and c get it at 1.6 elsewhere, are done at 3.1, and back at 3.45, where d takes 1 s."""
    p = fork()
    solution = p.solve()
    assert solution.objective == pytest.approx(4.45) and solution.status == sp.Status.OPTIMAL
    assert solution.plan.placement == {"input": "cam", "a": "cam", "b": "box", "c": "hall", "d": "cam", "output": "cam"}
    assert solution.plan.begin_s["b"] == pytest.approx(1.6) and solution.plan.begin_s["d"] == pytest.approx(3.45)
    busy = {k: v for k, v in solution.terms.items() if k.startswith("busy_")}
    assert busy == pytest.approx({"busy_cam→box_s": 0.5, "busy_cam→hall_s": 0.5, "busy_box→cam_s": 0.25, "busy_hall→cam_s": 0.25})  # fmt: skip
    assert solution.terms["cam_s"] == pytest.approx(2.0)
    others = {a.name: a.objective for a in p.alternatives(solution.plan)}
    assert others == pytest.approx({"all on cam": 10.0, "all on box": 1.1 + 13.5 + 0.2, "all on hall": 1.1 + 28.5 + 0.2})  # fmt: skip
    frame = solution.plan.to_frame()
    assert list(frame["operator"])[:2] == ["input", "a"] and len(frame) == 6
    assert "4 layers, 3 places, links by pair, wire fp32, source cam, sink cam" in solution.problem
    assert fork("box", "box").solve().objective > 4.45


def test_where_the_input_is_and_results_go() -> None:
    free = fork(None, None).solve()
    assert "output" not in free.plan.placement and free.objective == pytest.approx(4.45)
    assert fork("hall", "cam").solve().objective == pytest.approx(5.55)  # the input comes to the camera in 1.1 s
    there = fork("cam", "box").solve()
    assert there.plan.placement["output"] == "box"
    assert there.objective == pytest.approx(4.65)  # and the result from there in 0.2 s
    half = fork(wire="fp16").solve()
    assert half.objective == pytest.approx(1 + 0.35 + 1.5 + 0.225 + 1)


def test_layers_that_read_the_same_get_it_once() -> None:
    p = fork()
    at = dict.fromkeys(("input", "a", "d", "output"), "cam") | {"b": "box", "c": "box"}
    assert p.layers is not None
    assert p.layers.busy_s(at) == pytest.approx({"cam→box": 0.5, "box→cam": 0.5})


def test_star_and_shared_media_and_a_network_with_a_layer_called_output() -> None:
    star = sp.System(star={"cam": WAY, "box": WAY.but(rate_down_bps=4e6)}, cam=sp.Device("cam"), box=sp.Device("box"))
    net = sp.LayerGraph(
        "one", (sp.Layer("output"),), (sp.Tensor("x", "input", ("output",), 1e6), sp.Tensor("y", "output", (), 0.0, is_output=True))
    )  # fmt: skip
    profile = sp.Profile.given(net, {"cam": {"output": 9.0}, "box": {"output": 1.0}})
    solution = OperatorLatency.of_profile(profile, star, source="cam", sink="cam").solve()
    assert solution.objective == pytest.approx(2.0 + 0.2 + 1.0 + 0.2)
    assert set(solution.plan.placement) == {"input", "output", "output'"}
    assert solution.terms["busy_cam up_s"] == solution.terms["busy_box down_s"] == pytest.approx(2.0)
    shared = sp.System(shared=WAY, cam=sp.Device("cam"), box=sp.Device("box"))
    solution = OperatorLatency.of_profile(profile, shared, source="cam", sink="cam").solve()
    assert solution.objective == pytest.approx(1.1 + 1.0 + 0.1) and solution.terms["busy_medium_s"] == pytest.approx(
        1.0
    )


def test_memory_counts_shared_parameters_once_and_the_largest_working_set() -> None:
    p = fork(box=160.0)
    assert p.table.held([2, 3]) == 110.0 and p.table.held([2, 3, 4]) == 160.0 and p.table.held([]) == 0.0
    assert fork(box=110.0).solve().plan.placement["b"] == "box"
    assert fork(box=109.0).solve().plan.placement["b"] != "box"
    held = p.held_bytes(p.solve().plan)
    assert held == {"cam": 60.0, "box": 110.0, "hall": 110.0}
    plan = fork().solve().plan
    assert any("memory of box: 110 of 90" in x for x in fork(box=90.0).violations(plan))
    assert any("memory of box: 110 of 90" in x for x in audit_latency(fork(box=90.0), plan, {}).violations)


def test_what_cannot_be_is_one_clear_error() -> None:
    with pytest.raises(InfeasibleError, match="memory: operator 'b' needs 110 B.* 109 B at box: 1 B short"):
        fork(cam=50.0, box=109.0, hall=50.0).solve()
    with pytest.raises(InfeasibleError, match="memory: the 6 operators keep 150 B together"):
        fork(cam=10.0, box=110.0, hall=10.0).solve()
    with pytest.raises(
        InfeasibleError, match="links: on no device can .*nothing leads from 'box to hall', 'hall to box'"
    ):
        fork("hall", "box", cam=5.0).solve()
    for solver in ("latency-list", "latency-milp"):
        with pytest.raises(InfeasibleError, match="short"):
            fork(cam=50.0, box=109.0, hall=50.0).solve(solver)
    with pytest.raises(InfeasibleError, match="operator 'b' can run on no device"):
        fork(cam=50.0, box=109.0, hall=50.0).build()
    with pytest.raises(InfeasibleError, match="memory: the 6 operators keep 150 B.*the devices have 130 B"):
        fork(cam=10.0, box=110.0, hall=10.0).solve("latency-list", rounds=5)
    with pytest.raises(NoSolutionError, match="none within memory and ways; memory: the 6 operators keep 150 B"):
        fork(cam=20.0, box=110.0, hall=20.0).solve("latency-list", rounds=5)


def test_bad_data_is_told_at_once() -> None:
    profile = sp.Profile.given(FORK, SECONDS)
    apart = sp.System(links={("cam", "box"): WAY}, **{p: sp.Device(p) for p in SECONDS})
    with pytest.raises(DataError, match="OperatorLatency for 'fork'") as e:
        OperatorLatency.of_profile(profile, apart, "fp8", source="attic")  # type: ignore[arg-type]
    text = str(e.value)
    assert "wire is 'fp8'" in text and "source: the system has no place 'attic'" in text
    assert "nothing joins 'cam', 'box' with 'hall'" in text
    less = sp.Profile.given(FORK, {k: v for k, v in SECONDS.items() if k != "hall"})
    with pytest.raises(DataError, match="no times for place 'hall'"):
        OperatorLatency.of_profile(less, cluster())
    with pytest.raises(DataError, match="a splitplan.Profile and a splitplan.System"):
        OperatorLatency.of_profile(cluster(), profile)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"OperatorLatency\.of_profile"):
        OperatorLatency(profile)  # type: ignore[arg-type]


def test_a_schedule_belongs_to_its_model(tmp_path: Path) -> None:
    p = fork()
    plan = p.solve().plan
    plan.save(tmp_path / "schedule.json")
    p.graph.save(tmp_path / "graph.json")
    OperatorSchedule.read(tmp_path / "schedule.json").check(OperatorGraph.read(tmp_path / "graph.json"))
    other = sp.Profile.given(replace(FORK, fingerprint="of other weights"), SECONDS)
    problem = OperatorLatency.of_profile(other, cluster(), source="cam", sink="cam")
    assert any("fingerprint" in x for x in audit_latency(problem, plan, {}).violations)
    elsewhere = audit_latency(fork("box"), plan, {}).violations
    assert any("'input' is at cam, and the source is box" in x for x in elsewhere)
    far = replace(plan, placement=plan.placement | {"d": "hall"})
    assert any("nothing leads from box to hall" in x for x in audit_latency(p, far, {}).violations)
    assert any("nothing leads from box to hall" in x for x in p.violations(far))


def test_the_work_bound_shares_out_over_unlike_devices() -> None:
    """Twelve layers side by side that take 1, 2 and 4 s: all places together do 1.75 a second, so 12/1.75 s, and little for ways."""
    names = [f"l{k}" for k in range(12)]
    net = sp.LayerGraph(
        "wide",
        tuple(sp.Layer(n) for n in names),
        (sp.Tensor("x", "input", tuple(names), 1.0), *(sp.Tensor(f"t{n}", n, (), 1.0, is_output=True) for n in names)),
    )
    profile = sp.Profile.given(net, {p: dict.fromkeys(names, s) for p, s in (("a", 1.0), ("b", 2.0), ("c", 4.0))})
    system = sp.System(shared=sp.Link("fast", 1e12, 1e12, 0.0), **{p: sp.Device(p) for p in "abc"})
    p = OperatorLatency.of_profile(profile, system)
    assert p.bound == pytest.approx(12 / 1.75, rel=1e-6) and p.bound <= 12 / 1.75 * (1 + 1e-12)
    assert p.solve(time_limit_s=5).objective == pytest.approx(8.0, rel=1e-6)  # in 7 s they do 7 + 3 + 1
    weights = latency_bounds.evened(np.array([[1.0, 2.0, np.inf], [np.inf, np.inf, 1.0]]), (1, 1, 1))
    assert weights.sum() == pytest.approx(1.0) and (weights >= 0).all()


@pytest.mark.parametrize("seed", range(3))
def test_a_chain_is_solved_by_looking_ahead(seed: int) -> None:
    """On a chain the longest path is a dynamic program over places, and a list schedule that looks ahead meets it."""
    rng, n = np.random.default_rng(seed), 60
    names = [f"l{k}" for k in range(n)]
    ends = ["input", *names]
    tensors = [sp.Tensor(f"t{k}", ends[k], (names[k],), float(rng.uniform(1e3, 1e6))) for k in range(n)]
    tensors.append(sp.Tensor("y", names[-1], (), 10.0, is_output=True))
    net = sp.LayerGraph("chain", tuple(sp.Layer(x) for x in names), tuple(tensors))
    places = [f"p{k}" for k in range(5)]
    profile = sp.Profile.given(net, {p: {x: float(rng.uniform(0.01, 1.0)) for x in names} for p in places})
    system = sp.System(
        links={(a, b): WAY.but(rate_bps=float(rng.uniform(1e7, 1e8))) for k, a in enumerate(places) for b in places[k + 1 :]},
        **{p: sp.Device(p) for p in places},
    )  # fmt: skip
    solution = OperatorLatency.of_profile(profile, system, source="p0", sink="p0").solve("latency-list", rounds=10)
    assert solution.status == sp.Status.OPTIMAL
    assert len(set(solution.plan.placement.values())) > 1


def test_what_is_too_large_for_the_milp_goes_to_the_list() -> None:
    p = fork()
    assert LatencyMilp().why_not(p) is None
    assert "3 choices" in (LatencyMilp(pairs=2).why_not(p) or "")
    assert "54 moves" in (LatencyMilp(moves=53).why_not(p) or "")
    listed = p.solve("latency-list", rounds=20)
    assert listed.bound == pytest.approx(4.45) and listed.status == sp.Status.OPTIMAL
    assert "longest path" in listed.bound_by


def crowded(layers: int = 30, places: int = 4, seed: int = 0) -> OperatorLatency:
    """A wide random network on unlike places that hold little more than it together: far too large for the MILP."""
    rng = np.random.default_rng(seed)
    names, readers = [f"l{k}" for k in range(layers)], dict[str, list[str]]()
    for k, v in enumerate(names):
        for u in [u for u in names[:k] if rng.random() < 0.15] or ["input"]:
            readers.setdefault(u, []).append(v)
    kept = {f"w{v}": float(rng.uniform(10, 100)) for v in names}
    net = sp.LayerGraph(
        "crowded",
        tuple(sp.Layer(v, parameters=(f"w{v}",), memory_bytes=1.0) for v in names),
        tuple(
            sp.Tensor(f"t{u}", u, tuple(readers.get(u, ())), float(rng.uniform(1e4, 1e6)), is_output=u not in readers)
            for u in ("input", *names)
        ),
        kept,
    )
    at = [f"p{k}" for k in range(places)]
    profile = sp.Profile.given(net, {p: {v: float(rng.uniform(0.1, 2.0)) for v in names} for p in at})
    room = 1.05 * sum(kept.values()) / places + 1.0
    links = {(a, b): WAY.but(rate_bps=float(rng.uniform(5e6, 5e7))) for k, a in enumerate(at) for b in at[k + 1 :]}
    system = sp.System(links=links, **{p: sp.Device(p, memory_bytes=room) for p in at})
    return OperatorLatency.of_profile(profile, system, source="p0", sink="p0")


@pytest.mark.parametrize("limit_s", [0.0, 0.05, 1.0])
def test_the_milp_at_its_time_limit_has_a_plan_and_a_bound(limit_s: float) -> None:
    p = crowded()
    solution = p.solve(LatencyMilp(pairs=10_000), time_limit_s=limit_s)
    assert (solution.status, solution.termination) == ("feasible", "time limit")
    assert solution.bound is not None and p.bound * (1 - 1e-9) <= solution.bound < solution.objective
    listed = p.solve(LatencyList(rounds=500))
    assert solution.bound <= listed.objective * (1 + 1e-9), "a bound below every plan"


def test_the_milp_is_stated_while_there_is_time() -> None:
    p, asked = crowded(), [0]

    def left() -> bool:
        asked[0] += 1
        return asked[0] < 100

    with pytest.raises(TimeoutError, match="not finished in time"):
        operator_latency_model.build(p, left=left)
    assert asked[0] == 100 < len(operator_latency_model.unrelated(p))
    nothing = fork(cam=20.0, box=110.0, hall=20.0)  # no list schedule finds room either
    with pytest.raises(NoSolutionError, match=f"time limit.*no schedule ends before {nothing.bound:.6g} s"):
        nothing.solve("latency-milp", time_limit_s=0.0)
    found = LatencyMilp().solve(nothing, time_limit_s=0.0, gap=0.0, verbose=False)
    assert (found.plan, found.termination, found.bound) == (None, "time limit", nothing.bound)


@pytest.mark.parametrize("over", ["build", "to_arrays"])
def test_the_milp_begins_nothing_when_its_time_is_over(over: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the arrays after the model nor HiGHS after the arrays."""
    p, now, begun = crowded(), [0.0], list[str]()
    monkeypatch.setattr(clock, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    module = operator_latency_model if over == "build" else latency_milp

    def late(*args: object) -> object:
        now[0] = 20.0
        return ""

    monkeypatch.setattr(module, over, late)
    if over == "build":
        monkeypatch.setattr(latency_milp, "to_arrays", lambda model: begun.append("arrays"))
    monkeypatch.setattr(latency_milp, "Engine", lambda *args, **options: begun.append("HiGHS"))
    solution = p.solve(LatencyMilp(pairs=10_000), time_limit_s=10.0)
    assert (solution.status, solution.termination, begun) == ("feasible", "time limit", [])


def test_a_list_schedule_is_not_called_optimal_on_one_run_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """HiGHS finds nothing shorter, and the time is over before it is asked again."""
    p, asked = crowded(), list[str]()

    def run(self: Engine, time_limit_s: float | None, interruptible: bool) -> Outcome:
        asked.append("")
        why = Termination.TIME_LIMIT if len(asked) == 2 else Termination.INFEASIBLE
        return Outcome(why, None, None, None, "", "HiGHS's word")

    monkeypatch.setattr(Engine, "_run", run)
    solver = LatencyMilp(pairs=10_000)
    solution = p.solve(solver, time_limit_s=600.0)
    assert (len(asked), solution.status, solution.termination) == (2, "feasible", "time limit")
    assert solution.bound == pytest.approx(p.bound) and solution.bound_by.startswith("longest path")
    assert p.solve(solver, time_limit_s=600.0).status == "optimal", "where both say so"


def test_a_traced_network() -> None:
    model = sp.zoo("tiny-branch")
    traced = sp.trace(model, sp.zoo_example("tiny-branch"))
    rng = np.random.default_rng(5)
    names = [x.name for x in traced.graph.layers]
    profile = sp.Profile.given(traced.graph, {p: {x: float(rng.uniform(1, 9)) * 1e-3 for x in names} for p in SECONDS})
    system = sp.System(
        star=dict.fromkeys(SECONDS, sp.Link("lan", 1e8, 1e8, 1e-4)), **{p: sp.Device(p) for p in SECONDS}
    )
    p = sp.OperatorLatency.of_profile(profile, system, source="cam", sink="cam")
    schedule = p.solve()
    assert schedule.gap is not None and schedule.gap <= 1e-6
    assert set(schedule.plan.placement) == {"input", *names, "output"}
    assert len(schedule.plan.to_frame()) == len(names) + 2
    assert schedule.objective < min(a.objective for a in p.alternatives(schedule.plan))
    assert schedule.plan.predicted["latency_s"] == pytest.approx(schedule.objective)


# -- the model -------------------------------------------------------------------------------------------


def lp(folder: Path) -> str:
    fork(box=150.0).write_lp(folder / "places.lp")
    lines = (folder / "places.lp").read_text(encoding="utf-8").splitlines()
    kept = [line.rstrip() for line in lines if line.strip() and not line.startswith("\\")]
    return "\n".join(re.sub(r"[+-]?\d+\.\d+(e[+-]?\d+)?", lambda m: f"{float(m[0]):+.9g}", x) for x in kept) + "\n"


def test_golden_file(tmp_path: Path) -> None:
    text = lp(tmp_path)
    golden = GOLDEN / "places.lp"
    assert golden.exists(), f"write it: {text}"
    assert text == golden.read_text(encoding="utf-8")


def test_the_file_means_what_the_problem_means(tmp_path: Path) -> None:
    p = fork(box=150.0)
    p.write_lp(tmp_path / "m.lp")
    assert least_of_file(tmp_path / "m.lp") / p.scale == pytest.approx(p.solve().objective, rel=1e-6)
    notes = (tmp_path / "m.lp").read_text(encoding="utf-8")
    assert "Devices: 0: cam, 1: box, 2: hall." in notes and "2: b" in notes


def test_every_constraint_has_its_equation_and_a_golden_row() -> None:
    tree = ast.parse(Path(operator_latency_model.__file__).read_text(encoding="utf-8"))
    functions = {n.name: ast.get_docstring(n) or "" for n in tree.body if isinstance(n, ast.FunctionDef) and n.name.startswith("constraint_")}  # fmt: skip
    names = ("somewhere", "memory", "moves", "after", "one_at_a_time", "end", "implied")
    assert set(functions) == {f"constraint_{n}" for n in names}
    numbers = re.findall(r"^    \((\d+)\)", OperatorLatency.__doc__ or "", re.MULTILINE)
    assert numbers == [n for text in functions.values() for n in re.findall(r"^\((\d+)\)", text)]
    rows = (GOLDEN / "places.lp").read_text(encoding="utf-8")
    for name in names:
        assert re.search(rf"^c_\w_{name}[(_]", rows, re.MULTILINE), name
