"""Golden LP files of HybridTraining's MILP: every constraint is in one, and what a file says is what the problem means."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from splitplan.formulations import training_model
from splitplan.formulations.training import HybridTraining
from tests.formulations.lp_files import least_of_file
from tests.formulations.test_lp_files import normalised
from tests.formulations.test_training import problem

GOLDEN = Path(__file__).parent / "golden_training"

CASES: dict[str, Callable[[], HybridTraining]] = {
    "single": lambda: problem(max_stages=1, micro_batches=(1, 2)),
    "gpipe": lambda: problem(threads=(1,), micro_batches=(2,), schedules=("gpipe",), memory=2100.0),
    "1f1b": lambda: problem(threads=(1,), micro_batches=(2,), schedules=("1f1b",), uncuttable=(1,)),
    "any_replicas": lambda: problem(
        hosts=2, threads=(1,), micro_batches=(2,), schedules=("none", "gpipe"), replicas="any", uncuttable=(2,), max_stages=2
    ),
}  # fmt: skip
ROWS = {
    "one_configuration": r"c_e_one_:",
    "stages_follow": r"c_e_follow\(\d+\)_:",
    "single": r"c_\w_rows\(\d+\)_:",
    "gpipe": r"c_\w_rows\(\d+\)_:\n(?:[+-].*\n)*\+1 ahead_\d+",
    "1f1b": r"c_\w_rows\(\d+\)_:\n(?:[+-].*\n)*\+1 end_\d+\(backward_\d_\d\)",
}
"""What each constraint function writes into a file: its rows' names, and the variables that only it uses."""


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str, tmp_path: Path) -> None:
    """Written anew by ``UPDATE_GOLDEN=1``; read the difference."""
    CASES[name]().write_lp(tmp_path / "model.lp")
    written = (tmp_path / "model.lp").read_text(encoding="utf-8")
    assert written.isascii()
    text, golden = normalised(written), GOLDEN / f"{name}.lp"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")


def test_the_files_mean_what_the_problem_means(tmp_path: Path) -> None:
    for name, make in CASES.items():
        p = make()
        p.write_lp(tmp_path / f"{name}.lp")
        value = least_of_file(tmp_path / f"{name}.lp") / p.scale + p.profile.step_s
        assert value == pytest.approx(p.solve("training-dp").objective, rel=1e-6), name
        assert value == pytest.approx(p.solve("training-milp").objective, rel=1e-6), name


def test_every_constraint_has_its_equation_and_a_golden_row() -> None:
    tree = ast.parse(Path(str(training_model.__file__)).read_text(encoding="utf-8"))
    functions = {
        f.name.removeprefix("constraint_"): f
        for f in tree.body
        if isinstance(f, ast.FunctionDef) and f.name.startswith("constraint_")
    }
    assert set(functions) == set(ROWS)
    assert {f.stem for f in GOLDEN.glob("*.lp")} == set(CASES)
    numbers = set(re.findall(r"^    \((\d+)\)", HybridTraining.__doc__ or "", re.MULTILINE))
    assert numbers == {str(k) for k in range(1, 9)}
    files = {name: (GOLDEN / f"{name}.lp").read_text(encoding="utf-8") for name in CASES}
    for name, f in functions.items():
        if name != "one_configuration":
            assert set(re.findall(r"\((\d)\)", ast.get_docstring(f) or "")) <= numbers and "(" in (
                ast.get_docstring(f) or ""
            )
        assert re.search(ROWS[name], "".join(files.values()), re.MULTILINE), f"{name} is in no golden file"
    # Each schedule's rows are in the file of that schedule, and in no other's.
    for name in ("gpipe", "1f1b"):
        assert {k for k, text in files.items() if re.search(ROWS[name], text, re.MULTILINE)} == (
            {"gpipe", "any_replicas"} if name == "gpipe" else {"1f1b"}
        )


def test_the_file_says_what_its_variables_are(tmp_path: Path) -> None:
    p = CASES["any_replicas"]()
    p.write_lp(tmp_path / "m.lp")
    text = (tmp_path / "m.lp").read_text(encoding="utf-8")
    notes = " ".join(line.removeprefix("\\ ") for line in text.splitlines() if line.startswith("\\ "))
    assert notes.startswith(p.describe())
    assert f"T is in seconds times {p.scale!r}, without the 0.125 s of an iteration beside its layers." in notes
    assert "u(0): configuration 0: stages 1, workers 1, replicas of a stage 1, threads of a worker 1, micro-batches 2, schedule none" in notes  # fmt: skip
    assert "stage 1: layers 'b' to 'c' on workers 1 to 2, columns of 'b' shared, after a stage of 1" in notes
    model = p.build()
    named = set(re.findall(r"([uz]\(\d+\)):", notes))
    rows = text[text.index("s.t.") :]
    assert len(named) == len(model.u) + len(model.z)
    assert [n for n in named if f" {n}\n" not in rows] == []
    kinds = set(re.findall(r" ([a-zT]\w*)[(\n]", rows))
    assert {k.rpartition("_")[0] or k for k in kinds if not k.startswith("c_")} >= {"u", "z", "T", "ahead", "back"}
