"""The registry: a user's package adds a solver or a formulation by an entry point; unknown names list the known ones."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import splitplan as sp
from splitplan.errors import SolverError, UnknownNameError
from splitplan.formulations import registry
from splitplan.formulations.registry import Ladder, Solver

MODULE = '''
"""A user's package: all on the device, the first rung of all; and a formulation of its own."""
from dataclasses import dataclass
from typing import ClassVar
import numpy as np
from splitplan.formulations.registry import Ladder
from splitplan.formulations.solution import Audit, Found, Termination

@dataclass(frozen=True)
class AtHome:
    shout: bool = False
    refuses: bool = False
    name: ClassVar[str] = "at-home"
    solves: ClassVar[tuple[str, ...]] = ("split-point",)
    rung: ClassVar[Ladder] = Ladder.CLOSED_FORM
    exact: ClassVar[bool] = False
    def why_not(self, problem):
        return "it is told to refuse" if self.refuses else None
    def solve(self, problem, *, time_limit_s, gap, verbose):
        return Found(problem.plan_for(np.zeros(len(problem.profile.graph), bool)), Termination.FINISHED)

@dataclass(frozen=True)
class Odd:
    name: ClassVar[str] = "odd"
    solves: ClassVar[tuple[str, ...]] = ("something-else",)
    rung: ClassVar[Ladder] = Ladder.MILP
    exact: ClassVar[bool] = True
    def why_not(self, problem):
        return None
    def solve(self, problem, *, time_limit_s, gap, verbose):
        raise NotImplementedError
'''


@pytest.fixture
def users_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package that was installed with ``pip install``, as far as Python can tell."""
    (tmp_path / "athome_pkg.py").write_text(MODULE, encoding="utf-8")
    info = tmp_path / "athome_pkg-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: athome-pkg\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(
        "[splitplan.solvers]\nat-home = athome_pkg:AtHome\nodd = athome_pkg:Odd\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    registry._entries.cache_clear()
    yield
    monkeypatch.undo()
    sys.modules.pop("athome_pkg", None)
    registry._entries.cache_clear()


@pytest.fixture
def problem(diamond_profile: sp.Profile, system: sp.System) -> sp.SplitPoint:
    return sp.SplitPoint(diamond_profile, system)


def test_a_users_solver_is_found_in_its_place_on_the_ladder(users_package: None, problem: sp.SplitPoint) -> None:
    assert problem.solvers == ("at-home", "min-cut", "ideals", "highs-lp", "highs")
    found = problem.solve("at-home")
    assert (found.status, found.gap, found.plan.server_layers) == ("feasible", None, ())
    assert problem.solve("at-home", shout=True).solver == "at-home"
    with pytest.raises(SolverError, match="'at-home' has no option 'loud'; it has: shout, refuses"):
        problem.solve("at-home", loud=True)
    with pytest.raises(SolverError, match="cannot solve this split-point: it is told to refuse. Use solver='auto'"):
        problem.solve("at-home", refuses=True)
    auto = problem.solve()
    assert [(r.solver, r.used, r.reason) for r in auto.rungs] == [("at-home", True, "heuristic")]


def test_our_own_come_in_order_of_the_ladder(problem: sp.SplitPoint) -> None:
    assert problem.solvers == ("min-cut", "ideals", "highs-lp", "highs")
    rungs = [s.rung for s in registry.solvers_for("split-point")]
    assert rungs == sorted(rungs)
    assert [s.name for s in registry.solvers_for("rate-allocation")] == ["kkt", "cvxpy"]
    assert all(isinstance(s, Solver) for kind in ("split-point", "rate-allocation") for s in registry.solvers_for(kind))
    assert Ladder.CLOSED_FORM < Ladder.MIN_CUT < Ladder.DYNAMIC_PROGRAM < Ladder.CONVEX < Ladder.MILP < Ladder.HEURISTIC


def test_unknown_solver_lists_the_known(problem: sp.SplitPoint) -> None:
    with pytest.raises(UnknownNameError, match=r"'gurobi'; known: auto, min-cut, ideals, highs-lp, highs"):
        problem.solve("gurobi")
    # One that exists, but for another kind.
    with pytest.raises(UnknownNameError, match=r"solver for split-point 'kkt'"):
        problem.solve("kkt")


@pytest.mark.parametrize(
    ("solver", "option", "known"),
    [("highs", "threadz", "threads, node_limit"), ("ideals", "cup", "cap"), ("min-cut", "cap", "none")],
)
def test_unknown_option_lists_the_known(problem: sp.SplitPoint, solver: str, option: str, known: str) -> None:
    with pytest.raises(SolverError, match=f"solver '{solver}' has no option '{option}'; it has: {known}"):
        problem.solve(solver, **{option: 1})


def test_auto_takes_no_options(problem: sp.SplitPoint) -> None:
    with pytest.raises(SolverError, match=r"options \['cap'\] need a named solver"):
        problem.solve(cap=3)


def test_configured_objects(problem: sp.SplitPoint) -> None:
    assert problem.solve(sp.Ideals(cap=100)).solver == "ideals"
    with pytest.raises(SolverError, match="more than 2 heads"):
        problem.solve(sp.Ideals(cap=2))
    with pytest.raises(SolverError, match=r"options \['cap'\] beside a configured solver object"):
        problem.solve(sp.Ideals(), cap=3)
    with pytest.raises(SolverError, match="solver 'kkt' does not solve split-point; it solves rate-allocation"):
        problem.solve(sp.KKT())


@pytest.mark.parametrize("wrong", [3, None, object(), sp.Ideals])
def test_what_is_no_solver(problem: sp.SplitPoint, wrong: object) -> None:
    with pytest.raises(SolverError, match="neither a name nor a solver object; give solver='auto' or one of"):
        problem.solve(wrong)


def test_nothing_installed_says_so(problem: sp.SplitPoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_entries", lambda group: {})
    with pytest.raises(SolverError, match="none is registered: install the package"):
        problem.solve()


def test_formulations_can_be_looked_up() -> None:
    assert registry.load("splitplan.formulations", "split-point") is sp.SplitPoint
    assert registry.load("splitplan.formulations", "rate-allocation") is sp.RateAllocation
    with pytest.raises(UnknownNameError, match="unknown formulation 'slot'"):
        registry.load("splitplan.formulations", "slot")
