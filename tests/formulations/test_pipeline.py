"""PipelinePlacement: each cost by hand, each defect of the data, the model, the words."""

from __future__ import annotations

from typing import Any

import pytest

import splitplan as sp
from splitplan.data.pipeline_plan import PipelinePlan, Stage
from splitplan.errors import DataError, InfeasibleError
from splitplan.formulations.pipeline import PipelinePlacement

WIRE = sp.Link("wire", 8e3, 4e3, 0.02, overhead=1.5, header_bytes=10.0)
TIMES = {
    "x": {"a": 0.4, "b": 0.1, "c": 0.6, "d": 0.2},
    "y": {"a": 0.2, "b": 0.2, "c": 0.3, "d": 0.1},
    "z": {"a": 0.3, "b": 0.3, "c": 0.3, "d": 0.3},
}


def problem(graph: sp.LayerGraph, memory: dict[str, float] | None = None, **options: Any) -> PipelinePlacement:
    devices = {p: sp.Device(p, memory_bytes=(memory or {}).get(p)) for p in TIMES}
    joined = options.pop("joined", {"links": {("x", "y"): WIRE, ("y", "z"): WIRE, ("x", "z"): WIRE}})
    return PipelinePlacement(sp.Profile.given(graph, TIMES), sp.System(**joined, **devices), **options)


def plan(p: PipelinePlacement, *stages: tuple[str, int]) -> PipelinePlan:
    cuts, at = [], 0
    for _, count in stages[:-1]:
        at += count
        cuts.append(at)
    return p.plan_for([p.costs.index[e] for e, _ in stages], cuts)


def test_a_plan_of_ones_own_is_priced_as_any_other(diamond: sp.LayerGraph) -> None:
    p = problem(diamond, max_stages=2)
    own = p.plan({"y": 1, "x": 3})
    assert own == plan(p, ("y", 1), ("x", 3)) != p.plan({"x": 1, "y": 3}), "the order of the mapping is the stages'"
    assert own.places == ("y", "x") and [s.layers for s in own.stages] == [("a",), ("b", "c", "d")]
    assert own.predicted["period_s"] == p.evaluate(own)["objective"] and not p.violations(own)
    assert own.max_stages == 2, "what replanning keeps"
    assert p.plan({"z": 4}).places == ("z",)
    assert problem(diamond, rows=False).solve().objective <= own.predicted["period_s"]


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"x": 2, "yy": 2}, "names place 'yy', which the system has not; it has x, y, z; did you mean 'y'?"),
        ({"x": 2, "y": 1}, "the layers are 2 + 1 = 3, and must be 4, as many as the 'diamond' of the profile has: 1 are missing"),
        ({"x": 4, "y": 2}, "the layers are 4 + 2 = 6, and must be 4, as many as the 'diamond' of the profile has: 2 too many"),
        ({"x": 5}, "the layers are 5, and must be 4"),
        ({}, "the layers are nothing, and must be 4"),
        ({"x": 4, "y": 0}, "'y' has 0 layers; give a whole number from 1, or leave out a place that computes nothing"),
        ({"x": 5, "y": -1}, "'y' has -1 layers; give a whole number from 1"),
        ({"x": 2.0, "y": 2}, "'x' has 2.0 layers; give a whole number"),
        ({"x": True, "y": 3}, "'x' has True layers; give a whole number"),
        ([("x", 2), ("y", 2)], "give places and how many layers each computes, in order: {'x': 10, 'y': 1}"),
        ({"x": 1, "y": 1, "z": 2}, "the problem forbids it: max_stages=2: the plan has 3 stages"),
    ],
)  # fmt: skip
def test_a_plan_of_ones_own_that_cannot_be(diamond: sp.LayerGraph, counts: Any, message: str) -> None:
    with pytest.raises(DataError) as caught:
        problem(diamond, max_stages=2).plan(counts)
    assert len(caught.value.problems) == 1 and message in str(caught.value)
    assert str(caught.value).startswith("plan for 'diamond': ")


def test_all_that_is_wrong_with_a_plan_of_ones_own_is_told_at_once(diamond: sp.LayerGraph) -> None:
    with pytest.raises(DataError) as caught:
        problem(diamond).plan({"q": 2, "x": 0, "y": -2})
    assert len(caught.value.problems) == 3
    apart = {"links": {("x", "y"): WIRE, ("y", "z"): WIRE}}
    with pytest.raises(DataError, match="the problem forbids it: nothing leads from x to z"):
        problem(diamond, joined=apart).plan({"x": 2, "z": 2})


def test_what_crosses(diamond: sp.LayerGraph) -> None:
    """ta is read by b and c: it lives across positions 1 and 2, tb across 2 and 3 as well."""
    p = problem(diamond)
    assert p.costs.payload_bytes.tolist() == [4000, 2000, 2800, 1600, 0]
    assert problem(diamond, sink="z").costs.payload_bytes.tolist() == [4000, 2000, 2800, 1600, 40]
    assert problem(diamond, wire="fp16").costs.payload_bytes.tolist() == [2000, 1000, 1400, 800, 0]


def test_period_by_hand(diamond: sp.LayerGraph) -> None:
    p = problem(diamond)
    terms = p.evaluate(plan(p, ("x", 2), ("y", 2)))
    seconds = 8 * (2800 * 1.5 + 10) / 8e3
    assert terms["x_to_y_s"] == pytest.approx(seconds)
    assert (terms["at_x_s"], terms["at_y_s"]) == (pytest.approx(0.5), pytest.approx(0.4))
    assert terms["objective"] == terms["period_s"] == pytest.approx(seconds)
    assert terms["latency_s"] == pytest.approx(0.9 + seconds + 0.01)
    assert terms["throughput_hz"] == pytest.approx(1 / seconds)
    back = p.evaluate(plan(p, ("y", 2), ("x", 2)))
    assert back["y_to_x_s"] == pytest.approx(2 * seconds)
    added = problem(diamond, overlap=False)
    terms = added.evaluate(plan(added, ("x", 2), ("y", 2)))
    assert terms["busy_x_s"] == terms["objective"] == pytest.approx(0.5 + seconds)
    assert terms["busy_y_s"] == pytest.approx(0.4 + seconds)


def test_source_and_sink_by_hand(diamond: sp.LayerGraph) -> None:
    p = problem(diamond, overlap=False, source="z", sink="x")
    enter, hop, leave = (8 * (size * 1.5 + 10) / rate for size, rate in ((4000, 4e3), (2840, 8e3), (40, 4e3)))
    # x: 2 layers, then y: 2 layers. z sends the inputs to x (down), y sends the result to x (down).
    assert p.costs.payload_bytes.tolist() == [4000, 2000, 2800, 1600, 40]
    hop = 8 * (2800 * 1.5 + 10) / 8e3
    terms = p.evaluate(plan(p, ("x", 2), ("y", 2)))
    assert terms["busy_z_s"] == pytest.approx(enter)
    assert terms["busy_x_s"] == pytest.approx(enter + 0.5 + hop + leave)
    assert terms["busy_y_s"] == pytest.approx(hop + 0.4 + leave)
    # A source that has a later stage sends the inputs beside it.
    terms = p.evaluate(plan(p, ("x", 2), ("z", 2)))
    assert terms["busy_z_s"] == pytest.approx(enter + hop + 0.6 + leave)


def test_star_and_shared_by_hand(diamond: sp.LayerGraph) -> None:
    star = problem(diamond, joined={"star": {"x": WIRE, "y": WIRE, "z": WIRE}}, source="z", sink="z")
    one, two = 8 * (2000 * 1.5 + 10) / 4e3, 8 * (1600 * 1.5 + 10) / 4e3
    enter, leave = 8 * (4000 * 1.5 + 10) / 4e3, 8 * (40 * 1.5 + 10) / 4e3
    terms = star.evaluate(plan(star, ("x", 1), ("z", 2), ("y", 1)))
    assert terms["busy_z up_s"] == pytest.approx(enter + two)
    assert terms["busy_z down_s"] == pytest.approx(one + leave)
    assert terms["objective"] == pytest.approx(enter + two)
    shared = problem(diamond, joined={"shared": WIRE}, source="z", sink="z")
    terms = shared.evaluate(plan(shared, ("x", 1), ("z", 2), ("y", 1)))
    assert terms["busy_medium_s"] == terms["objective"] == pytest.approx((one + two + enter + leave) / 2)


def test_memory_by_hand() -> None:
    graph = sp.LayerGraph(
        "tied",
        (sp.Layer("a", parameters=("p",), memory_bytes=50.0), sp.Layer("b", parameters=("p", "q"), memory_bytes=70.0)),
        (sp.Tensor("i", "input", ("a",), 5.0), sp.Tensor("t", "a", ("b",), 7.0), sp.Tensor("o", "b", (), 9.0, is_output=True)),
        {"p": 1000.0, "q": 300.0},
    )  # fmt: skip
    profile = sp.Profile.given(graph, {p: {"a": 1.0, "b": 1.0} for p in ("x", "y")})
    system = sp.System(x=sp.Device("x", memory_bytes=1380.0), y=sp.Device("y", memory_bytes=1062.0), link=WIRE)
    p = PipelinePlacement(profile, system)
    assert p.costs.memory[0, 1] == 1000 + 50 + 5 + 7
    assert p.costs.memory[1, 2] == 1300 + 70 + 7
    assert p.costs.memory[0, 2] == 1300 + 70 + 5
    assert PipelinePlacement(profile, system, sink="x").costs.memory[0, 2] == 1300 + 70 + 5 + 9
    assert p.solve().objective == pytest.approx(1.0)
    crossed = p.plan_for([0, 1], [1])
    assert p.violations(crossed) == ["memory of y: 1377 of 1062 bytes"]
    assert p.violations(p.plan_for([0], [])) == []
    assert p.violations(p.plan_for([1, 0], [1])) == []


def test_words(diamond: sp.LayerGraph) -> None:
    p = problem(diamond, max_stages=2, source="x", overlap=False)
    text = p.describe()
    for word in ("4 layers", "3 places", "links by pair", "communication added", "at most 2 stages", "source x"):
        assert word in text
    solution = p.solve()
    for word in ("all at", "the best single place", "equal layers", "FLOPs in proportion to speed", "bottleneck"):
        assert word in str(solution)
    assert solution.unit == "s"
    assert solution.to_dict()["plan"]["kind"] == "splitplan.PipelinePlan"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"wire": "fp8"}, "wire is 'fp8'"),
        ({"overlap": 1}, "overlap is 1; give True or False"),
        ({"max_stages": 0}, "max_stages is 0; give a whole number from 1"),
        ({"max_stages": True}, "max_stages is True"),
        ({"max_stages": 1.5}, "max_stages is 1.5"),
        ({"source": "q"}, "source: the system has no place 'q'; it has x, y, z"),
        ({"sink": "xx"}, "sink: the system has no place 'xx'.*did you mean 'x'"),
        ({"joined": {"links": {("x", "y"): WIRE}}}, "the system is disconnected: nothing joins 'x', 'y' with 'z'"),
        ({"joined": {"star": {"x": WIRE, "y": WIRE}}}, "the system is disconnected: nothing joins 'x', 'y' with 'z'"),
    ],
)
def test_each_defect(diamond: sp.LayerGraph, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        problem(diamond, **options)


def test_a_place_without_speed(diamond: sp.LayerGraph) -> None:
    system = sp.System(x=sp.Device("x"), y=sp.Device("y"), link=WIRE)
    with pytest.raises(DataError, match="the profile has no times for place 'y'"):
        PipelinePlacement(sp.Profile.given(diamond, {"x": TIMES["x"]}), system)
    with pytest.raises(DataError, match="layer 'd'.*place 'y'|place 'y'.*layer 'd'|'d'"):
        sp.Profile.given(diamond, {"x": TIMES["x"], "y": {k: v for k, v in TIMES["y"].items() if k != "d"}})
    with pytest.raises(DataError, match="give PipelinePlacement"):
        PipelinePlacement(diamond, system)  # type: ignore[arg-type]


@pytest.mark.parametrize("solver", ["pipeline-dp", "pipeline-milp", "particle-swarm", "random-keys"])
def test_memory_that_nothing_fits(diamond: sp.LayerGraph, solver: str) -> None:
    p = problem(diamond, memory={"x": 1e4, "y": 5e4, "z": 1e5})
    with pytest.raises(InfeasibleError) as caught:
        p.solve(solver)
    text = str(caught.value)
    # Cheapest with b and d beside it: 200 kB of parameters, a working set of 2 kB, ta comes in (2 kB), nothing goes out.
    assert "layer 'c' needs 204 kB" in text
    assert "the most that any place has is 100 kB at z" in text
    assert "104 kB short" in text


def test_memory_that_is_too_little_together(diamond: sp.LayerGraph) -> None:
    p = problem(diamond, memory={"x": 1e4, "y": 5e4, "z": 2.1e5})
    with pytest.raises(
        InfeasibleError, match=r"memory: without limits there would be a plan \(the parameters take 300 kB"
    ):
        p.solve()


def test_too_few_stages_and_missing_links(diamond: sp.LayerGraph) -> None:
    with pytest.raises(InfeasibleError, match="max_stages=1: with more stages there would be a plan"):
        problem(diamond, memory={"x": 1.5e5, "y": 2.2e5, "z": 1e4}, max_stages=1).solve()
    chain = {"links": {("x", "y"): WIRE, ("y", "z"): WIRE}}
    with pytest.raises(InfeasibleError, match="links: with one between every two places .*missing: 'x–z'"):
        problem(diamond, memory={"x": 1.2e5, "y": 1e3, "z": 2.2e5}, joined=chain).solve()


def test_a_plan_for_other_places(diamond: sp.LayerGraph) -> None:
    p = problem(diamond)
    stages = (Stage(("a", "b", "c", "d"), ("q",)),)
    with pytest.raises(DataError, match="names place 'q', which the system has not"):
        p.evaluate(PipelinePlan("diamond", "f" * 64, stages))


def test_the_single_place() -> None:
    graph = sp.LayerGraph(
        "one", (sp.Layer("a"),), (sp.Tensor("i", "input", ("a",), 5.0), sp.Tensor("o", "a", (), 9.0, is_output=True))
    )
    p = PipelinePlacement(sp.Profile.given(graph, {"x": {"a": 0.5}}), sp.System(x=sp.Device("x")))
    for solver in p.solvers:
        assert p.solve(solver).objective == 0.5
