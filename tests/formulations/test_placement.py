"""OperatorPlacement: bad data is told at once; the audit rejects what was changed; plans, files and words."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import placement_instances as instances
from splitplan.data.operators import Operator, OperatorGraph, OperatorPlan
from splitplan.errors import AuditError, DataError, FingerprintError, InfeasibleError, NotApplicable
from splitplan.formulations import placement_model
from splitplan.formulations.placement import OperatorPlacement
from splitplan.formulations.solution import Status
from splitplan.solvers.audit_placement import audit_placement
from tests.formulations.placement_brute_force import random_placement
from tests.solvers.test_audit import Fake, Found, Termination

GOLDEN = Path(__file__).parent / "golden_placement"


@pytest.fixture
def graph() -> OperatorGraph:
    """a → b → d, a → c → d, and the way back from d to a; c and its gradient on a CPU."""
    ops = [
        Operator("a", 1.0, 4.0, 0.25, 10.0, "1"),
        Operator("b", 2.0, 8.0, 0.5, 20.0, "2"),
        Operator("c", None, 1.0, 0.125, 30.0, "3"),
        Operator("d", 3.0, 9.0, 0.0, 40.0),
        Operator("gd", 3.0, 9.0, 0.5, 5.0, "", True),
        Operator("gb", 1.0, 2.0, 0.25, 5.0, "2", True),
    ]
    edges = (("a", "b"), ("a", "c"), ("b", "d"), ("c", "d"), ("d", "gd"), ("gd", "gb"))
    return OperatorGraph("net", tuple(ops), edges, accelerators=2, cpus=1, accelerator_bytes=80.0)


def free(graph: OperatorGraph) -> OperatorPlacement:
    return OperatorPlacement(graph)


def row(graph: OperatorGraph) -> OperatorPlacement:
    return OperatorPlacement(graph, contiguous=True)


# -- what it says -----------------------------------------------------------------------------------------


def test_defaults_come_from_the_graph(graph: OperatorGraph) -> None:
    p = OperatorPlacement(graph)
    assert (p.accelerators, p.cpus, p.memory_bytes, p.contiguous) == (2, 1, 80.0, False)
    assert p.devices == ("acc0", "acc1", "cpu0")
    assert p.describe() == "OperatorPlacement: least time of the busiest device for 'net' (2 accelerators, 1 CPUs, 8e-08 GB each; not contiguous)"  # fmt: skip
    assert str(OperatorPlacement(graph, 3, True, 2)).endswith("(3 accelerators, 2 CPUs, 8e-08 GB each; contiguous)")


def test_costs_by_hand(graph: OperatorGraph) -> None:
    at = {"a": "acc0", "b": "acc0", "c": "cpu0", "d": "acc1", "gd": "acc1", "gb": "acc0"}
    plan = OperatorPlan("net", graph.fingerprint, ("acc0", "acc1", "cpu0"), at)
    # acc0: 1 + 2 + 1, a to c, b to d, gd in; acc1: 3 + 3, b and c in, gd out
    expected = {"objective": 7.125, "acc0_s": 4 + 0.25 + 0.5 + 0.5, "acc1_s": 6 + 0.5 + 0.125 + 0.5, "cpu0_s": 1.0}
    assert free(graph).evaluate(plan) == pytest.approx(expected)
    assert free(graph).violations(plan) == []
    assert audit_placement(free(graph), plan, {}).objective == pytest.approx(7.125)


def test_a_tensor_is_moved_once_a_device() -> None:
    ops = [Operator(n, 1.0, 1.0, 0.5 if n == "a" else 0.0) for n in "abcd"]
    net = OperatorGraph("fan", tuple(ops), (("a", "b"), ("a", "c"), ("a", "d")))
    p = OperatorPlacement(net, 2, cpus=1)
    at = {"a": "acc0", "b": "acc1", "c": "acc1", "d": "cpu0"}
    terms = p.evaluate(OperatorPlan("fan", net.fingerprint, p.devices, at))
    assert (terms["acc0_s"], terms["acc1_s"], terms["cpu0_s"]) == (1.5, 2.5, 1.0)


def test_solutions_tell_who_found_them(graph: OperatorGraph) -> None:
    found = row(graph).solve()
    assert found.solver == "placement-dp"
    assert found.status is Status.OPTIMAL
    assert "order ideals" in found.bound_by
    assert found.plan.contiguous
    assert found.objective >= free(graph).solve().objective
    text = str(found)
    assert "all on acc0" in text
    assert found.to_frame()["value"].notna().any()
    assert set(found.plan.to_frame()["device"]) <= {"acc0", "acc1", "cpu0"}
    found.to_json()
    assert "operators on" in str(found.plan)


def test_the_dynamic_program_is_for_contiguous_plans(graph: OperatorGraph) -> None:
    with pytest.raises(NotApplicable, match="no chains of order ideals"):
        free(graph).solve("placement-dp")


def test_too_many_ideals_are_left_to_the_search() -> None:
    wide = instances.random_wide(1, 60, accelerators=3)
    problem = OperatorPlacement(wide, contiguous=True)
    with pytest.raises(NotApplicable, match="more than 500 order ideals"):
        problem.solve("placement-dp", cap=500)
    found = problem.solve("placement", time_limit_s=3.0)
    assert found.bound is not None
    assert 0 < found.bound <= found.objective
    assert found.plan.contiguous
    assert "families of order ideals" in found.log


# -- bad data ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"accelerators": -1}, "accelerators is -1; give a whole number from 0"),
        ({"accelerators": 1.5, "cpus": True}, "cpus is True; give a whole number from 0"),
        ({"accelerators": 0, "cpus": 0}, "there are no devices; give accelerators or cpus"),
        ({"contiguous": "yes"}, "contiguous is 'yes'; give True or False"),
        ({"memory_bytes": -5.0}, "memory_bytes is -5.0"),
        ({"cpus": 0}, "operators 'c' can run on none of 2 accelerators and 0 CPUs"),
        ({"accelerators": 0, "cpus": 1, "memory_bytes": float("inf")}, "memory_bytes is inf"),
    ],
)
def test_bad_data(graph: OperatorGraph, options: dict[str, Any], text: str) -> None:
    with pytest.raises(DataError) as e:
        OperatorPlacement(graph, **options)
    assert any(text in problem for problem in e.value.problems), e.value.problems


def test_what_fits_nowhere_is_named_with_its_excess(graph: OperatorGraph) -> None:
    heavy = replace(graph, operators=tuple(replace(o, cpu_s=None) if o.name == "d" else o for o in graph.operators))
    with pytest.raises(DataError, match="operators 'd' take 40 bytes, 10 more than an accelerator has \\(30\\)"):
        OperatorPlacement(heavy, memory_bytes=30.0)


def test_no_graph_and_no_count() -> None:
    with pytest.raises(DataError, match="splitplan.OperatorGraph"):
        OperatorPlacement("bert.json")  # type: ignore[arg-type]
    bare = OperatorGraph("bare", (Operator("a", 1.0),), ())
    with pytest.raises(DataError, match="does not say how many accelerators there are; give accelerators="):
        OperatorPlacement(bare)
    assert OperatorPlacement(bare, 2).cpus == 0


def test_memory_that_cannot_be_shared_out() -> None:
    ops = tuple(Operator(f"v{i}", 1.0, None, 0.0, 6.0) for i in range(3))
    problem = OperatorPlacement(OperatorGraph("full", ops, ()), 2, memory_bytes=10.0)
    for solver in ("placement-milp", "placement"):
        with pytest.raises(InfeasibleError, match="18 together, 2 accelerators have 20. Give more memory_bytes"):
            problem.solve(solver, time_limit_s=10.0)
    with pytest.raises(InfeasibleError, match="or contiguous=False"):
        replace(problem, contiguous=True).solve("placement-dp")


# -- the audit --------------------------------------------------------------------------------------------


def moved(**changes: str) -> Callable[[OperatorPlan], OperatorPlan]:
    return lambda plan: replace(plan, placement={**plan.placement, **changes})


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (moved(c="acc0"), "'c' cannot run on acc0"),
        (moved(gb="cpu0", b="acc0"), "colour '2' is on"),
        (moved(a="acc0", b="acc0", d="acc0", gd="acc0", gb="acc0", c="cpu0"), "data flow|feeds"),
        (
            lambda plan: replace(plan, devices=("acc0", "cpu0", "acc1", "acc2")),
            "the plan is for acc0, cpu0, acc1, acc2",
        ),
        (lambda plan: replace(plan, placement={k: v for k, v in plan.placement.items() if k != "a"}), "'a'"),
        (lambda plan: replace(plan, fingerprint="other"), "made for fingerprint other"),
    ],
)
def test_the_audit_rejects_what_was_changed(graph: OperatorGraph, change: Callable[[OperatorPlan], OperatorPlan], text: str) -> None:  # fmt: skip
    problem = row(graph)
    changed = change(problem.solve().plan)
    fake = replace(Fake(lambda p: Found(changed, Termination.FINISHED)))
    object.__setattr__(fake, "solves", ("operator-placement",))
    with pytest.raises(AuditError, match=text):
        problem.solve(fake)


def test_the_audit_keeps_memory(graph: OperatorGraph) -> None:
    tight = replace(row(graph), memory_bytes=45.0)
    plan = row(graph).solve().plan
    if tight.violations(plan):
        assert audit_placement(tight, plan, {}).violations


def test_a_claim_that_is_too_good_is_rejected(graph: OperatorGraph) -> None:
    problem = free(graph)
    plan = problem.solve().plan
    for lie in ({"objective": 0.1, "bound": 0.1}, {"bound": 100.0}):
        fake = Fake(lambda p, lie=lie: Found(plan, Termination.CONVERGED, **lie))  # type: ignore[misc]
        object.__setattr__(fake, "solves", ("operator-placement",))
        with pytest.raises(AuditError):
            problem.solve(fake)


@pytest.mark.parametrize("seed", range(60))
def test_audit_and_formulation_agree_on_any_plan(seed: int) -> None:
    problem = random_placement(2000 + seed)
    if problem is None:
        return
    draw = np.random.default_rng(seed)
    for _ in range(10):
        at = draw.choice(problem.devices, len(problem.graph))
        plan = OperatorPlan(
            problem.graph.name,
            problem.graph.fingerprint,
            tuple(draw.permutation(problem.devices).tolist()),
            dict(zip(problem.graph.index, at.tolist(), strict=True)),
            problem.contiguous,
        )
        audit = audit_placement(problem, plan, {})
        assert bool(audit.violations) == bool(problem.violations(plan))
        if not audit.violations:
            assert problem.evaluate(plan)["objective"] == pytest.approx(audit.objective, rel=1e-12)


def test_a_plan_of_another_graph(graph: OperatorGraph) -> None:
    other = replace(graph, cpus=2)
    with pytest.raises(FingerprintError):
        free(other).evaluate(free(graph).solve().plan)


# -- the model --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(40))
def test_values_of_a_plan_are_read_back(seed: int) -> None:
    """A plan as the model's variables meets every row, costs what it costs, and comes back as the same plan."""
    problem = random_placement(seed)
    if problem is None:
        return
    try:
        solved = problem.solve("placement-dp" if problem.contiguous else "placement-milp")
    except InfeasibleError:
        return
    at = {name: i for i, name in enumerate(problem.devices)}
    device = np.zeros(len(problem.parts), int)
    for o, g in zip(problem.graph.operators, problem.parts.of.tolist(), strict=True):
        device[g] = at[solved.plan.placement[o.name]]
    used = set(device.tolist())
    order = np.array([at[d] for d in solved.plan.devices if at[d] in used]) if problem.contiguous else None
    values = placement_model.values(problem, device, order)
    model = problem.build()
    for variable in model.component_data_objects(placement_model.pyo.Var):
        variable.set_value(values[variable.name])
    for c in model.component_data_objects(placement_model.pyo.Constraint):
        assert c.slack() >= -1e-6, c.name
    assert values["T"] / problem.scale == pytest.approx(solved.objective)
    back = problem.read(values)
    assert problem.violations(back) == []
    assert problem.evaluate(back)["objective"] == pytest.approx(solved.objective)


CASES = {"free": {}, "row": {"contiguous": True}}


def lp(graph: OperatorGraph, name: str, folder: Path) -> str:
    problem = OperatorPlacement(graph, **CASES[name])  # type: ignore[arg-type]
    problem.write_lp(folder / f"{name}.lp")
    lines = (folder / f"{name}.lp").read_text(encoding="utf-8").splitlines()
    kept = [line.rstrip() for line in lines if line.strip() and not line.startswith("\\")]
    return "\n".join(re.sub(r"[+-]?\d+\.\d+(e[+-]?\d+)?", lambda m: f"{float(m[0]):+.12g}", x) for x in kept) + "\n"


@pytest.mark.parametrize("name", CASES)
def test_golden_files(graph: OperatorGraph, name: str, tmp_path: Path) -> None:
    small = replace(graph, operators=graph.operators[:4], edges=graph.edges[:4], accelerator_bytes=50.0)
    text = lp(small, name, tmp_path)
    golden = GOLDEN / f"{name}.lp"
    assert golden.exists(), f"write it: {text}"
    assert text == golden.read_text(encoding="utf-8")


def test_every_constraint_has_its_equation_and_a_golden_row() -> None:
    tree = ast.parse(Path(placement_model.__file__).read_text(encoding="utf-8"))
    functions = {n.name: ast.get_docstring(n) or "" for n in tree.body if isinstance(n, ast.FunctionDef) and n.name.startswith("constraint_")}  # fmt: skip
    assert set(functions) == {f"constraint_{n}" for n in ("somewhere", "memory", "moves", "busiest", "names", "whole", "row", "kinds")}  # fmt: skip
    numbers = set(re.findall(r"^    \((\d+)\)", OperatorPlacement.__doc__ or "", re.MULTILINE))
    assert {n for text in functions.values() for n in re.findall(r"\((\d+)\)", text)} <= numbers
    rows = "".join(p.read_text(encoding="utf-8") for p in GOLDEN.glob("*.lp"))
    for name in functions:
        short = name.removeprefix("constraint_")
        if short != "whole":  # a solver's own rows
            assert re.search(rf"^c_\w_{short}[(_]", rows, re.MULTILINE), short


def test_the_file_says_what_its_variables_are(graph: OperatorGraph, tmp_path: Path) -> None:
    free(graph).write_lp(tmp_path / "m.lp")
    text = (tmp_path / "m.lp").read_text(encoding="utf-8")
    assert "group 1: operators b, gb" in text
    assert "y(t_d)" in text


# -- numbers at the edge ----------------------------------------------------------------------------------


def chain(accelerator_s: list[float], cpu_s: list[float], output_s: float = 0.5, size: float = 0.0) -> OperatorGraph:
    ops = (Operator(f"v{i}", a, b, output_s, size) for i, (a, b) in enumerate(zip(accelerator_s, cpu_s, strict=True)))
    return OperatorGraph("chain", tuple(ops), tuple((f"v{i}", f"v{i + 1}") for i in range(len(cpu_s) - 1)))


@pytest.mark.parametrize("contiguous", [True, False])
def test_plans_that_cost_nothing(contiguous: bool) -> None:
    for output_s in (0.0, 0.5):
        found = OperatorPlacement(chain([0.0] * 4, [0.0] * 4, output_s), 2, contiguous, 1).solve(time_limit_s=5.0)
        assert (found.objective, found.status) == (0.0, Status.OPTIMAL)
    # No plan is known to begin with: v0 with v1, v2 with v3 alone fit.
    tight = OperatorPlacement(chain([0.0] * 4, [1.0] * 4, 0.0, 5.0), 2, contiguous, 0, 10.0)
    assert tight.solve(time_limit_s=5.0).objective == 0.0


@pytest.mark.parametrize("contiguous", [True, False])
def test_no_memory_at_all(contiguous: bool, tmp_path: Path) -> None:
    ops = tuple(Operator(f"v{i}", 1.0, 2.0, 0.1, float(i % 3)) for i in range(5))
    problem = OperatorPlacement(OperatorGraph("none", ops, ()), 2, contiguous, 1, 0)
    problem.write_lp(tmp_path / "none.lp")
    assert problem.solve("placement-milp").objective == pytest.approx(6.0)
    assert problem.solve(time_limit_s=5.0).objective == pytest.approx(6.0)


@pytest.mark.parametrize("large", [1e7, 1e12, 1e30])
@pytest.mark.parametrize("contiguous", [True, False])
def test_times_that_mean_not_there(large: float, contiguous: bool) -> None:
    accelerator_s, cpu_s = [2.0, 9.0, 9.0, 9.0, 3.0], [4.0, 5.0, 6.0, 7.0, 4.0]
    for at in range(5):
        for which in (0, 1):
            times = [list(accelerator_s), list(cpu_s)]
            times[which][at] = large
            never = [[None if x == large else x for x in row] for row in times]
            best = OperatorPlacement(chain(*never), 2, contiguous, 1).solve("placement-milp").objective  # type: ignore[arg-type]
            for solver in ("auto", "placement-milp"):
                found = OperatorPlacement(chain(*times), 2, contiguous, 1).solve(solver, time_limit_s=10.0)
                assert found.objective == pytest.approx(best)
                assert found.status is Status.OPTIMAL


def test_a_time_that_is_needed_stays() -> None:
    problem = OperatorPlacement(chain([1e30, 1.0], [1e30, 1.0]), 1, True, 1)
    assert np.isfinite(problem.parts.accelerator_s).all()
    # Memory lets no accelerator have both, so that the slow CPU is needed.
    tight = OperatorPlacement(chain([1.0, 1.0], [1e6, 1e6], 0.0, 5.0), 1, False, 1, 7.0)
    assert tight.solve("placement-milp").objective == pytest.approx(1e6)
    plan = tight.plan_for(np.array([1, 1]))
    assert tight.evaluate(plan)["objective"] == 2e6


def test_numbers_beyond_floats() -> None:
    with pytest.raises(DataError, match="accelerator_s is a number of more than 308 digits"):
        OperatorGraph("large", (Operator("a", 10**400),), ())
    with pytest.raises(DataError, match="beyond 1e308; give smaller ones"):
        OperatorPlacement(chain([1e308] * 4, [1e308] * 4, 1e308), 2, True, 1)


def test_counts_of_numpy_are_counts(graph: OperatorGraph) -> None:
    problem = OperatorPlacement(graph, np.int64(3), cpus=np.int32(1))  # type: ignore[arg-type]
    assert problem.devices == ("acc0", "acc1", "acc2", "cpu0")
    assert type(problem.accelerators) is int


@pytest.mark.parametrize("contiguous", [True, False])
def test_too_little_memory_together_is_no_lack_of_time(contiguous: bool) -> None:
    tight = OperatorPlacement(chain([1.0] * 40, [1.0] * 40, 0.1, 6.0), 2, contiguous, 0, 100.0)
    with pytest.raises(InfeasibleError, match="240 together, 2 accelerators have 200"):
        tight.solve("placement", time_limit_s=0.5)
