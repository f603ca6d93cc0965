"""PipelinePlan: stages there and back, what cannot be a plan, what is no plan for a graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from splitplan.data.pipeline_plan import PipelinePlan, RowBlock, Stage
from splitplan.errors import DataError, FingerprintError
from splitplan.models.graph import LayerGraph


def plan(**changes: Any) -> PipelinePlan:
    fields: dict[str, Any] = {
        "model": "diamond",
        "fingerprint": "f" * 64,
        "stages": (Stage(("a", "b"), ("x",)), Stage(("c",), ("y",)), Stage(("d",), ("z",))),
        "predicted": {"period_s": 0.5},
    }
    return PipelinePlan(**{**fields, **changes})


def test_there_and_back(tmp_path: Path, diamond: LayerGraph) -> None:
    rows = Stage(("a", "b"), ("x", "w"), (RowBlock(("a",), (6, 4)), RowBlock(("b",), (10, 0))))
    made = plan(stages=(rows, Stage(("c", "d"), ("y",))), source="x", sink="z", overlap=False, wire="fp16")
    made.save(tmp_path / "plan.json")
    back = PipelinePlan.read(tmp_path / "plan.json")
    assert back == made
    assert back.stages[0].blocks[1].rows == (10, 0)
    back.check(diamond)
    assert back.places == ("x", "w", "y")
    assert back.placement == {"a": "x", "b": "x", "c": "y", "d": "y"}


def test_in_words() -> None:
    text = str(plan(source="x"))
    assert "x: 2 layers, 'a' to 'b' → y: 1 layers, 'c' → z: 1 layers, 'd'" in text
    assert "communication overlapped" in text
    assert "source x" in text
    assert plan().label == "x 2, y 1, z 1"
    assert plan().to_frame()["places"].tolist() == ["x", "y", "z"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: plan(stages=()), "has no stages"),
        (lambda: plan(stages="abc"), "give a list of stages"),
        (lambda: plan(stages=({"layers": ["a"]},)), "missing"),
        (lambda: plan(stages=(3,)), "give a splitplan.Stage"),
        (lambda: plan(stages=(Stage(("a",), ("x",)), Stage(("b",), ("x",)))), "place 'x' is in more than one stage"),
        (lambda: plan(stages=(Stage(("a",), ("x",)), Stage(("a",), ("y",)))), "layer 'a' is in more than one stage"),
        (lambda: plan(wire="fp8"), "wire is 'fp8'"),
        (lambda: plan(overlap=1), "overlap is 1; give True or False"),
        (lambda: plan(source=3), "source is 3"),
        (lambda: plan(predicted={"period_s": float("nan")}), "finite"),
        (lambda: Stage((), ("x",)), "has no layers"),
        (lambda: Stage("ab", ("x",)), "give layer names"),
        (lambda: Stage(("a",), ("x", "x")), "named 2 times"),
        (lambda: Stage(("a",), ("x",), (RowBlock(("a",), (3,)),)), "is alone and has blocks"),
        (lambda: Stage(("a", "b"), ("x", "y"), (RowBlock(("a",), (3, 3)),)), "do not make up its layers"),
        (lambda: Stage(("a",), ("x", "y"), (RowBlock(("a",), (3, 3, 3)),)), "rows for 3 places, the stage has 2"),
        (lambda: RowBlock(("a",), (0, 0)), "all 0"),
        (lambda: RowBlock(("a",), (-1, 2)), "whole numbers from 0"),
        (lambda: RowBlock(("a",), (1.5, 2)), "whole numbers from 0"),  # type: ignore[arg-type]
    ],
)
def test_each_defect(make: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make()


def test_not_for_this_graph(diamond: LayerGraph) -> None:
    plan().check(diamond)
    with pytest.raises(FingerprintError, match="Solve again for this model"):
        plan(fingerprint="0" * 64).check(diamond)
    with pytest.raises(DataError, match="layer 'd' is not placed"):
        plan(stages=(Stage(("a", "b", "c"), ("x",)),)).check(diamond)
    with pytest.raises(DataError, match="'c' comes after 'a', which is not the execution order"):
        plan(stages=(Stage(("a", "c"), ("x",)), Stage(("b", "d"), ("y",)))).check(diamond)
