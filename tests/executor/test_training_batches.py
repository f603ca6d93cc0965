"""The same batches again: loaders with random numbers of their own, and such as do not give them again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from splitplan.errors import DataError
from splitplan.executor.training_state import read_facts
from tests.executor.test_training import BATCH, momentum, net, pairs, plain, plan_of, rank, run, same

__all__ = ["rank"]


def dataset() -> TensorDataset:
    return TensorDataset(*(torch.cat(t) for t in zip(*pairs(4), strict=True)))


def own_generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def shuffled() -> DataLoader[Any]:
    return DataLoader(dataset(), batch_size=BATCH, shuffle=True, generator=own_generator())


def sampled() -> DataLoader[Any]:
    data = dataset()
    return DataLoader(data, batch_size=BATCH, sampler=RandomSampler(data, generator=own_generator()))


def sampled_in_batches() -> DataLoader[Any]:
    data = dataset()
    return DataLoader(data, batch_sampler=BatchSampler(RandomSampler(data, generator=own_generator()), BATCH, True))


@pytest.mark.parametrize("loader", [shuffled, sampled, sampled_in_batches])
@pytest.mark.usefixtures("rank")
def test_a_loader_s_own_generator_begins_each_epoch_at_the_seed(tmp_path: Path, loader: Any) -> None:
    whole, parts, other = net(), net(), net()
    plan = plan_of(whole)
    run(whole, plan, loader(), tmp_path / "whole", epochs=3, seed=5)
    for steps in (4, 6, 12):  # at an epoch's end, and within the next
        parts = net()
        run(parts, plan, loader(), tmp_path / "parts", epochs=3, steps=steps, seed=5)
    assert same(parts, whole)
    expected = []
    for epoch in range(3):
        made = loader()
        holder = made.batch_sampler.sampler
        holder.generator.manual_seed(5 + epoch)
        if made.generator is not None:  # torch draws the seed of its workers first, of the same one
            assert made.generator is holder.generator
        expected += list(made)
    plain(other, expected, momentum)
    assert same(whole, other)


@pytest.mark.usefixtures("rank")
def test_processes_that_outlive_an_epoch_are_refused(tmp_path: Path) -> None:
    def lasting(epoch: int = 0) -> DataLoader[Any]:
        return DataLoader(dataset(), batch_size=BATCH, num_workers=1, persistent_workers=True)

    model = net()
    for k, data in enumerate((lasting(), lasting)):
        with pytest.raises(DataError, match="give persistent_workers=False"):
            run(model, plan_of(model), data, tmp_path / str(k))


@pytest.mark.usefixtures("rank")
def test_a_loader_is_begun_once_for_each_epoch(tmp_path: Path) -> None:
    begun = []

    def data(epoch: int) -> Iterator[Any]:
        begun.append(epoch)
        yield from pairs(4)[epoch:]

    model = net()
    run(model, plan_of(model), data, tmp_path, epochs=2)
    assert begun == [0, 1]
    run(model, plan_of(model), data, tmp_path, epochs=4, steps=8)
    assert begun == [0, 1, 2]
    run(model, plan_of(model), data, tmp_path, epochs=4)
    assert begun == [0, 1, 2, 2, 3]


@pytest.mark.usefixtures("rank")
def test_other_batches_than_before_are_refused(tmp_path: Path) -> None:
    class Drawing:
        """Each time it is gone through it draws on."""

        def __init__(self) -> None:
            self.made = own_generator()

        def __iter__(self) -> Iterator[Any]:
            for x, y in pairs(4):
                yield x + torch.rand(x.shape, generator=self.made), y

    data, model = Drawing(), net()
    plan = plan_of(model)
    first = run(model, plan, data, tmp_path, steps=3)
    assert read_facts(first.checkpoint).first is not None
    with pytest.raises(DataError, match=r"step-000003: epoch 0 began with another batch .*or begin anew"):
        run(net(), plan, data, tmp_path, epochs=1)
    run(net(), plan, Drawing(), tmp_path, epochs=1)  # the same again
    ended = net()
    trainer = run(
        ended, plan, pairs(4), tmp_path, epochs=2, loss_fn=nn.functional.cross_entropy
    )  # between epochs any may follow
    assert read_facts(trainer.checkpoint).step == 8


@pytest.mark.usefixtures("rank")
def test_a_learning_rate_is_the_checkpoint_s_unless_a_function_gives_it(tmp_path: Path) -> None:
    def sgd(rate: float) -> Any:
        return lambda p: torch.optim.SGD(p, lr=rate)

    def times(factor: float) -> Any:
        return lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: factor)

    def trained(folder: str, *calls: dict[str, Any]) -> nn.Module:
        for k, given in enumerate(calls, 1):
            model = net()
            run(model, plan_of(model), pairs(4), tmp_path / folder, steps=2 * k, **given)
        return model

    small = {"optimizer": sgd(0.01)}
    assert same(trained("a", small, {"optimizer": sgd(0.1)}), trained("b", small, small))
    other = net()
    made = sgd(0.01)(other.parameters())
    for rate, (x, y) in zip(
        (0.01, 0.01, 0.01, 0.1), pairs(4), strict=True
    ):  # the new function is asked after the third
        made.param_groups[0]["lr"] = rate
        nn.functional.cross_entropy(other(x), y).backward()
        made.step()
        made.zero_grad()
    assert same(trained("c", small | {"scheduler": times(1)}, small | {"scheduler": times(10)}), other)
