"""docs/formulations.md stays true: every function that it names exists, every equation and constraint is in it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import numpy as np
import pytest

import splitplan as sp
from splitplan.formulations import registry

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "formulations.md").read_text(encoding="utf-8")
REALTIME = (ROOT / "docs" / "realtime.md").read_text(encoding="utf-8")
PLACES = "".join(
    (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in ("pipelines", "placement", "training")
)
NAMED = sorted(set(re.findall(r"`([a-z_/]+\.py):(\w+)`", TEXT + REALTIME + PLACES)))


def defined(file: str) -> set[str]:
    tree = ast.parse((ROOT / "splitplan" / file).read_text(encoding="utf-8"))
    return {n.name for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.ClassDef))}


@pytest.mark.parametrize(("file", "name"), NAMED, ids=lambda x: x)
def test_named_functions_exist(file: str, name: str) -> None:
    assert name in defined(file)


def test_named_tests_exist() -> None:
    for path in re.findall(r"`(tests/[\w/.]+)`", TEXT):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize(
    "file",
    [
        "formulations/split_model.py",
        "formulations/relay_model.py",
        "formulations/allocation.py",
        "formulations/pipeline_model.py",
        "formulations/placement_model.py",
        "formulations/training_model.py",
    ],
)
def test_every_equation_function_is_in_the_page(file: str) -> None:
    functions = {n for n in defined(file) if n.startswith("constraint_") or n == "objective"}
    assert len(functions) >= 4
    assert functions <= {n for f, n in NAMED if f == file}


@pytest.mark.parametrize("formulation", [sp.SplitPoint, sp.RelaySplit, sp.RateAllocation])
def test_the_same_numbers_as_in_the_docstrings(formulation: type) -> None:
    numbers = set(re.findall(r"^    \((\d)\)", formulation.__doc__, re.MULTILINE))
    section = TEXT.partition(f"## {formulation.__name__}\n")[2].partition("\n## ")[0]
    assert numbers == set(re.findall(r"^    \((\d)\)", section, re.MULTILINE))
    assert len(numbers) >= 6


@pytest.mark.parametrize("kind", ["split-point", "relay-split", "rate-allocation"])
def test_every_solver_is_in_the_page(kind: str) -> None:
    for solver in registry.solvers_for(kind):
        assert f"| `{solver.name}` |" in TEXT


def test_training_has_its_section_equations_and_solvers() -> None:
    assert "[HybridTraining](#hybridtraining)" in TEXT
    section = TEXT.partition("## HybridTraining\n")[2].partition("\n## ")[0]
    numbers = set(re.findall(r"^    \((\d)\)", sp.HybridTraining.__doc__ or "", re.MULTILINE))
    assert numbers == set(re.findall(r"\((\d)\)", section)) == {str(k) for k in range(1, 9)}
    for solver in registry.solvers_for("hybrid-training"):
        assert f"`{solver.name}`" in section


@pytest.mark.parametrize("kind", ["pipeline-placement", "operator-placement", "operator-latency", "hybrid-training"])
def test_every_solver_of_places_is_in_its_page(kind: str) -> None:
    for solver in registry.solvers_for(kind):
        assert f"`{solver.name}`" in PLACES


def test_files_that_the_pages_name_exist() -> None:
    for file in set(re.findall(r"`((?:data|models|formulations|solvers|executor|simulator)/\w+\.py)`", PLACES)):
        assert (ROOT / "splitplan" / file).exists(), file


def test_the_example_solver_runs(diamond_profile: sp.Profile, system: sp.System) -> None:
    code = re.search(r"```python\n(.*?)```", TEXT, re.DOTALL)[1]
    scope: dict[str, object] = {"__name__": "example"}
    exec(compile(code, "docs/formulations.md", "exec", dont_inherit=True), scope)
    mine = scope["Mine"](tries=3)
    solution = sp.SplitPoint(diamond_profile, system).solve(mine)
    assert (solution.solver, solution.status, solution.gap) == ("mine", "feasible", None)
    assert np.isfinite(solution.objective)
