"""Plans that are trained in turn: what is measured of them, what is said of it, and that nothing else happens."""

from __future__ import annotations

import copy
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

import splitplan as sp
from splitplan.errors import DataError, TrainingError
from splitplan.executor.training_compare import COLUMNS, TrainingComparison, compare_training
from splitplan.executor.training_watch import WARMING
from tests.executor.test_training import BATCH, momentum, net, pairs, plan_of
from tests.executor.test_training_launch import slowly

OPTIONS: dict[str, Any] = {
    "optimizer": momentum,
    "loss_fn": nn.functional.cross_entropy,
    "pin": False,
    "progress": False,
}


def made(*starts: tuple[float, ...]) -> TrainingComparison:
    """By plan the seconds of its starts, in two iterations each."""
    model = net()
    plans = [
        replace(plan_of(model, micro=k + 1), predicted={"iteration_s": 2.0, "latest_s": 2.5})
        for k in range(len(starts))
    ]
    rows = [(k, n, step, s) for k, mine in enumerate(starts) for n, s in enumerate(mine) for step in (4, 5)]
    return TrainingComparison(tuple(plans), pd.DataFrame(rows, columns=list(COLUMNS)))


def test_the_least_median_over_starts_is_the_fastest() -> None:
    found = made((2.0, 2.2, 9.0), (2.4, 2.3, 2.5))
    assert found.measured_s == [2.2, 2.4]
    assert found.fastest is found.plans[0]
    table = found.to_frame()
    assert table["name"].tolist() == ["one core", "one core, 2 micro-batches"]
    assert table["slower_%"].tolist() == pytest.approx([0, 100 * (2.4 / 2.2 - 1)])
    assert table["error_%"].tolist() == pytest.approx([100 * (2 / 2.2 - 1), 100 * (2 / 2.4 - 1)])
    assert table["slower_in"].tolist() == ["0 of 3", "2 of 3"]
    assert table["within_latest"].tolist() == ["4 of 6", "6 of 6"]
    assert "one core, 2 micro-batches may be as fast" in str(found)


def test_what_is_slower_in_every_start_is_told_apart() -> None:
    found = made((2.0, 2.2, 2.1), (1.9, 2.1, 2.0))
    assert found.fastest is found.plans[1]
    assert found.to_frame()["name"].tolist()[0] == "one core, 2 micro-batches"
    assert (
        "the fastest is that in each of 3 starts; of two equally fast plans one is in 0.25 of such comparisons"
        in str(found)
    )
    assert "by start 1.9, 2.1, 2" in str(found)
    assert "in the only start; of two equally fast plans one is in 1 of such comparisons" in str(made((1.0,), (2.0,)))
    assert "note" not in str(made((1.0,)))


def test_plans_of_one_name_are_numbered_and_what_was_not_predicted_is_empty() -> None:
    plan = plan_of(net())
    frame = pd.DataFrame([(k, 0, 4, 1.0 + k) for k in range(2)], columns=list(COLUMNS))
    found = TrainingComparison((plan, plan), frame)
    assert found.names == ["one core (plan 1)", "one core (plan 2)"]
    table = found.to_frame()
    assert table[["predicted_s", "error_%", "latest_s", "within_latest"]].isna().all().all()
    assert "predicted" not in str(found)
    assert found.plot().axes[0].get_yticklabels()[1].get_text() == "one core (plan 2)"
    assert "<table" in found._repr_html_()


def test_plans_are_trained_in_turn_and_the_model_stays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, nothing_left: Path
) -> None:
    """The loss takes its time on the second rank, which one core does not have."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model = net()
    before = copy.deepcopy(model.state_dict())
    plans = (plan_of(model, replicas=2), plan_of(model))
    told: list[tuple[str, float]] = []
    options = OPTIONS | {"loss_fn": slowly(0.3, "1"), "progress": lambda *x: told.append(x)}
    found = sp.compare_training(model, plans, pairs(), starts=2, iterations=2, **options)
    assert found.plans == plans
    assert found.fastest is plans[1]
    assert found.to_frame()["slower_in"].tolist() == ["0 of 2", "2 of 2"]
    assert found.iterations.groupby(["plan", "start"])["step"].apply(list).tolist() == [[WARMING + 1, WARMING + 2]] * 4
    assert (found.iterations["iteration_s"] > 0).all()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    order = list(dict.fromkeys(what for what, _ in told))
    assert order == [
        "data parallel, start 1 of 2",
        "one core, start 1 of 2",
        "one core, start 2 of 2",
        "data parallel, start 2 of 2",
    ]
    assert told[-1][1] == 1.0
    assert [x for x in tmp_path.iterdir() if x.name.startswith("splitplan")] == []


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"plans": ()}, "give TrainingPlans"),
        ({"plans": "abc"}, "give TrainingPlans"),
        ({"plans": [3]}, "plans has a int"),
        ({"starts": 0}, "starts is 0"),
        ({"iterations": True}, "iterations is True"),
        ({"optimizer": 3}, "plan 1, one core: optimizer is a int"),
    ],
)
def test_what_cannot_be_compared_is_said_before_anything_starts(change: dict[str, Any], text: str) -> None:
    model = net()
    given = {"plans": [plan_of(model)], "data": pairs()} | OPTIONS | change
    with pytest.raises(DataError, match="compare_training") as found:
        compare_training(model, **given)
    assert text in str(found.value)


def test_batches_of_several_sizes_and_a_torchrun_of_ones_own_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = net()
    plans = [plan_of(model), replace(plan_of(model), batch=2 * BATCH)]
    with pytest.raises(DataError, match=f"of batches of {BATCH} and {2 * BATCH} samples"):
        compare_training(model, plans, pairs(), **OPTIONS)
    other = replace(plan_of(model), fingerprint="another", model="other")
    with pytest.raises(DataError, match="the plans are of several models .*net.*other"):
        compare_training(model, [*plans[:1], other], pairs(), **OPTIONS)
    monkeypatch.setitem(os.environ, "RANK", "0")
    monkeypatch.setitem(os.environ, "WORLD_SIZE", "1")
    with pytest.raises(DataError, match="outside torchrun"):
        compare_training(model, plans[:1], pairs(), **OPTIONS)


def test_a_plan_that_fails_ends_the_comparison(nothing_left: Path) -> None:
    def loss_fn(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(out, y) * float("nan")

    model = net()
    with pytest.raises(TrainingError, match="the loss is nan at step 1") as found:
        compare_training(model, [plan_of(model)], pairs(), **OPTIONS | {"loss_fn": loss_fn})
    assert found.value.__notes__[-1].startswith("That was plan 1, one core, start 1 of 3: one core: ")
