"""Buffers that a model writes into and reads, those that no checkpoint holds, and hooks of parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import splitplan as sp
from splitplan.data.training_plan import TrainingPlan, TrainingStage
from splitplan.errors import DataError
from splitplan.models.training import training_model
from tests.executor.test_training import momentum, net, pairs, plan_of, rank, run, same

__all__ = ["rank"]


class Mean(nn.Module):
    """Takes off a running mean, or only keeps it."""

    def __init__(self, persistent: bool = True, takes: bool = True) -> None:
        super().__init__()
        self.body, self.head, self.takes = nn.Linear(192, 8), nn.Linear(8, 4), takes
        self.register_buffer("mean", torch.zeros(8), persistent=persistent)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(x.flatten(1))
        self.mean.mul_(0.9).add_(0.1 * x.detach().mean(0))
        return self.head(torch.relu(x - self.mean if self.takes else x))


def mean(persistent: bool = True, takes: bool = True) -> Mean:
    torch.manual_seed(0)
    return Mean(persistent, takes).train()


def mean_plan(model: nn.Module, replicas: int = 1, micro: int = 1) -> TrainingPlan:
    tm = training_model(model, pairs(1)[0][0], name="mean")
    return TrainingPlan("mean", tm.fingerprint, 8, (TrainingStage(tuple(x.name for x in tm.layers), replicas),), micro)


def names(model: nn.Module, **given: bool) -> list[str]:
    return [w.name for w in training_model(model, pairs(1)[0][0]).written_buffers(**given)]


def test_which_buffers_are_written_and_which_of_them_steer() -> None:
    norm = ["norm.running_mean", "norm.running_var", "norm.num_batches_tracked"]
    assert sorted(names(net())) == sorted(norm)
    assert names(net(), steering=True) == []
    assert names(net().eval()) == []
    assert names(mean()) == names(mean(), steering=True) == ["mean"]
    assert names(mean(takes=False)) == ["mean"]
    assert names(mean(takes=False), steering=True) == []


def test_a_buffer_that_is_read_by_way_of_other_memory_steers() -> None:
    class Copied(Mean):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.body(x.flatten(1))
            self.mean.mul_(0.9)
            kept = torch.empty_like(x[0].detach())
            kept[2:].copy_(self.mean[2:])
            kept[:2].fill_(0.0)
            return self.head(x + kept)

    assert names(Copied().train(), steering=True) == ["mean"]


@pytest.mark.usefixtures("rank")
def test_a_buffer_that_steers_is_gone_on_from(tmp_path: Path) -> None:
    whole, parts = mean(), mean()
    plan = mean_plan(whole, micro=2)
    run(whole, plan, pairs(), tmp_path / "whole")
    run(parts, plan, pairs(), tmp_path / "parts", steps=3)
    parts = mean()
    run(parts, plan, pairs(), tmp_path / "parts")
    assert same(whole, parts)
    assert not torch.equal(whole.mean, torch.zeros(8))


@pytest.mark.usefixtures("rank")
def test_what_no_checkpoint_holds_may_not_be_written(tmp_path: Path) -> None:
    model = mean(persistent=False)
    with pytest.raises(DataError, match=r"model 'mean': forward writes into 'mean', .*persistent=True"):
        run(model, mean_plan(model), pairs(), tmp_path)


def test_copies_do_not_write_what_they_read(tmp_path: Path) -> None:
    model = mean()
    given: Any = {"optimizer": momentum, "loss_fn": nn.functional.cross_entropy, "pin": False}
    with pytest.raises(DataError, match=r"forward writes into 'mean' and its output depends on it: .*whole_batch=True"):
        sp.train(model, mean_plan(model, replicas=2), pairs(), folder=tmp_path, **given)


@pytest.mark.usefixtures("rank")
def test_hooks_of_parameters_are_refused(tmp_path: Path) -> None:
    model = net()
    plan = plan_of(model)
    hooks = [
        model.head.weight.register_hook(lambda g: g.clamp(-0.01, 0.01)),
        model.wide.bias.register_post_accumulate_grad_hook(lambda p: None),
    ]
    with pytest.raises(DataError, match=r"parameters have hooks.*'wide.bias', 'head.weight'; remove them"):
        run(model, plan, pairs(1), tmp_path)
    for hook in hooks:
        hook.remove()
    run(model, plan, pairs(1), tmp_path)
