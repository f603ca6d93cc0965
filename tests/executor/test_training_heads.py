"""A loss that leaves out a head now and then, one that is no function of the outputs alone, and optimizers' state that begins late."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import splitplan as sp
from splitplan.data.training_plan import TrainingPlan, TrainingStage
from splitplan.errors import DataError
from splitplan.executor.training_ends import absent, is_absent
from splitplan.executor.training_state import checkpoints
from splitplan.models.training import training_model
from tests.executor.test_training import momentum, net, pairs, plan_of, rank, run, same

__all__ = ["rank"]

Data = Sequence[tuple[torch.Tensor, torch.Tensor]]


class Heads(nn.Module):
    """The second head has a layer of its own before it, which ends a first stage of two."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.before, self.first, self.second = (
            nn.Linear(6, 8),
            nn.Linear(8, 8),
            nn.Linear(8, 4),
            nn.Linear(8, 2),
        )

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.relu(self.body(x))
        k = torch.relu(self.before(x))
        return self.first(x), self.second(k)


def heads() -> Heads:
    torch.manual_seed(0)
    return Heads().train()


def sometimes(out: tuple[torch.Tensor, torch.Tensor], y: torch.Tensor) -> torch.Tensor:
    """The second head only where there is a sample of kind 3."""
    lost = nn.functional.cross_entropy(out[0], y)
    return lost + out[1].square().mean() if bool((y == 3).any()) else lost


def first_only(out: tuple[torch.Tensor, torch.Tensor], y: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(out[0], y)


def kinds() -> Data:
    """In quarters of a batch of 8, where samples of kind 3 are: in none, in one, in all of a half, in all."""
    made = torch.Generator().manual_seed(2)
    found = []
    for quarters in ((), (1,), (), (0, 1), (3,), (), (0, 1, 2, 3)):
        y = torch.randint(0, 3, (8,), generator=made)
        for k in quarters:
            y[2 * k] = 3
        found.append((torch.randn(8, 6, generator=made), y))
    return found


def decaying(parameters: Any) -> torch.optim.Optimizer:
    """By which a gradient of zeros is another thing than none."""
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=0.1)


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=0.01)


def heads_plan(stages: int = 1, replicas: int = 1, micro: int = 1, columns: tuple[str, ...] = ()) -> TrainingPlan:
    tm = training_model(heads(), kinds()[0][0], name="heads")
    names = [x.name for x in tm.layers]
    assert names == ["body", "before", "first", "second"]
    cuts = [0, 2, 4] if stages == 2 else [0, 4]
    made = tuple(
        TrainingStage(tuple(names[a:b]), replicas, tuple(c for c in columns if c in names[a:b]))
        for a, b in pairwise(cuts)
    )
    return TrainingPlan("heads", tm.fingerprint, 8, made, micro, "none" if stages == 1 else "1f1b")


def loop(
    model: nn.Module, data: Data, optimizer: Callable[..., torch.optim.Optimizer], loss_fn: Callable[..., torch.Tensor], parts: int = 1
) -> None:  # fmt: skip
    """The loop that a user would write."""
    torch.set_num_threads(1)
    made, size = optimizer(model.parameters()), 8 // parts
    for x, y in data:
        for at in (slice(j * size, (j + 1) * size) for j in range(parts)):
            (loss_fn(model(x[at]), y[at]) / parts).backward()
        made.step()
        made.zero_grad()


@pytest.mark.parametrize("optimizer", [decaying, adam])
@pytest.mark.usefixtures("rank")
def test_a_head_that_the_first_loss_leaves_out_is_trained_by_the_next(tmp_path: Path, optimizer: Any) -> None:
    model, other = heads(), heads()
    run(model, heads_plan(micro=2), kinds(), tmp_path, optimizer=optimizer, loss_fn=sometimes)
    loop(other, kinds(), optimizer, sometimes, 2)
    assert same(model, other)
    assert not torch.equal(model.second.weight, heads().second.weight)


@pytest.mark.parametrize("loss_fn", [sometimes, first_only])
@pytest.mark.parametrize("optimizer", [decaying, adam])
@pytest.mark.usefixtures("rank")
def test_a_training_is_resumed_though_weights_had_no_gradient_yet(tmp_path: Path, optimizer: Any, loss_fn: Any) -> None:
    """Checkpoints after each step, each gone on from by a plan of other micro-batches; the second head's state begins at step 2."""
    other = heads()
    for steps in range(1, 5):
        model = heads()
        given = {"optimizer": optimizer, "loss_fn": loss_fn, "steps": steps}
        run(model, heads_plan(micro=4 if steps % 2 else 1), kinds(), tmp_path, **given)
    torch.set_num_threads(1)
    made = optimizer(other.parameters())
    for (x, y), parts in zip(kinds()[:4], (4, 1, 4, 1), strict=True):
        for xs, ys in zip(x.split(8 // parts), y.split(8 // parts), strict=True):
            (loss_fn(other(xs), ys) / parts).backward()
        made.step()
        made.zero_grad()
    assert same(model, other)


@pytest.mark.usefixtures("rank")
def test_a_checkpoint_of_weights_none_of_which_had_a_gradient_changes_nothing(tmp_path: Path) -> None:
    """All weights of a stage, or of an optimizer, may be such; torch makes up a state for them when it is asked for it."""

    class Idle(torch.optim.AdamW):
        def __init__(self, parameters: Any) -> None:
            super().__init__(parameters, lr=0.1)
            self.calls = 0

        def step(self, closure: Any = None) -> Any:
            self.calls += 1
            if self.calls == 1:  # as if no weight had had a gradient
                self.zero_grad()
            return super().step(closure)

    def trained(folder: Path, every: int) -> nn.Module:
        model = heads()
        run(model, heads_plan(), kinds(), folder, optimizer=Idle, loss_fn=first_only, checkpoint_every=every, keep=9)
        return model

    assert same(trained(tmp_path / "a", 1), trained(tmp_path / "b", 50))


@pytest.mark.usefixtures("rank")
def test_a_loss_on_weights_is_refused_where_it_would_not_train_them(tmp_path: Path) -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.turn = nn.Parameter(torch.eye(4))

        def forward(self, out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return nn.functional.cross_entropy(out @ self.turn, y)

    model = net()
    with pytest.raises(
        DataError, match=r"loss_fn: depends on parameters .*'loss_fn.turn'.*put parameters .* into the model"
    ):
        run(model, plan_of(model), pairs(2), tmp_path / "own", loss_fn=Own())
    assert checkpoints(tmp_path / "own") == []
    frozen = Own().requires_grad_(False)
    run(model, plan_of(model), pairs(2), tmp_path / "frozen", loss_fn=frozen)


@pytest.mark.usefixtures("rank")
def test_a_penalty_on_weights_of_the_one_stage_is_trained(tmp_path: Path) -> None:
    def penalised(model: nn.Module) -> Any:
        return lambda out, y: first_only(out, y) + 0.1 * sum(p.square().sum() for p in model.parameters())

    model, other = heads(), heads()
    run(model, heads_plan(micro=2), kinds(), tmp_path, optimizer=decaying, loss_fn=penalised(model))
    loop(other, kinds(), decaying, penalised(other), 2)
    assert same(model, other)


@pytest.mark.usefixtures("rank")
def test_a_sum_is_refused_of_single_samples_too(tmp_path: Path) -> None:
    def total(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(out, y, reduction="sum")

    model = net(norm=False)
    with pytest.raises(DataError, match=r"is no mean over samples: of 2 samples .* in 8 parts"):
        run(model, plan_of(model, micro=8), pairs(2), tmp_path / "a", loss_fn=total)
    run(model, plan_of(model, micro=8), pairs(2), tmp_path / "b")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64])
def test_an_absent_gradient_is_no_other(dtype: torch.dtype) -> None:
    cpu = torch.device("cpu")
    for shape in ((), (1,), (3, 2)):
        assert is_absent(absent(shape, dtype, cpu))
        assert absent(shape, dtype, cpu).isnan().all()
        zeros = torch.zeros(shape, dtype=dtype)
        for other in (zeros, zeros + float("nan"), zeros / zeros, zeros - float("inf"), -absent(shape, dtype, cpu)):
            assert not is_absent(other)


def test_a_loss_of_weights_in_a_pipeline_is_refused_by_the_worker_that_computes_it(tmp_path: Path) -> None:
    model = heads()

    def penalised(out: tuple[torch.Tensor, torch.Tensor], y: torch.Tensor) -> torch.Tensor:
        return first_only(out, y) + 0.1 * sum(p.square().sum() for p in model.parameters())  # type: ignore[no-any-return]

    with pytest.raises(DataError, match=r"would not train them by this plan: .*'body.weight'.*weight_decay"):
        sp.train(
            model, heads_plan(2, micro=2), kinds(), optimizer=momentum, loss_fn=penalised, folder=tmp_path, pin=False
        )
