"""Training on one core, in this process as the only rank: the same weights as a plain loop, resumed too; and everything that ends it."""

from __future__ import annotations

import errno
import json
import random
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import splitplan as sp
from splitplan.data.training_plan import TrainingPlan, TrainingStage
from splitplan.errors import DataError, FingerprintError, TrainingError
from splitplan.executor.training_checks import plan_problems
from splitplan.executor.training_state import checkpoints, read_facts
from splitplan.models.training import TrainingModel, training_model

BATCH = 8


class Net(nn.Module):
    """Convolution, batch norm, two linear layers; dropout where it is wanted."""

    def __init__(self, norm: bool = True, p: float = 0.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.norm = nn.BatchNorm2d(6) if norm else nn.Identity()
        self.drop = nn.Dropout(p)
        self.wide = nn.Linear(6 * 6 * 6, 16)
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        return self.head(self.drop(torch.relu_(self.wide(x.flatten(1)))))


def net(norm: bool = True, p: float = 0.0) -> Net:
    torch.manual_seed(3)
    return Net(norm, p).train()


def pairs(count: int = 6, batch: int = BATCH) -> list[tuple[torch.Tensor, torch.Tensor]]:
    made = torch.Generator().manual_seed(1)
    return [
        (torch.randn(batch, 3, 8, 8, generator=made), torch.randint(0, 4, (batch,), generator=made))
        for _ in range(count)
    ]


def momentum(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


def model_of(model: nn.Module) -> TrainingModel:
    return training_model(model, pairs(1)[0][0], name="net")


def plan_of(
    model: nn.Module, *, stages: int = 1, replicas: int = 1, micro: int = 1, columns: tuple[str, ...] = (), gpipe: bool = False
) -> TrainingPlan:  # fmt: skip
    """Stages of about as many layers."""
    tm = model_of(model)
    names = [x.name for x in tm.layers]
    cuts = [0, *(round(len(names) * k / stages) for k in range(1, stages)), len(names)]
    made = tuple(
        TrainingStage(tuple(names[a:b]), replicas, tuple(v for v in columns if v in names[a:b]))
        for a, b in pairwise(cuts)
    )
    schedule = "none" if stages == 1 else "gpipe" if gpipe else "1f1b"
    return TrainingPlan("net", tm.fingerprint, BATCH, made, micro, schedule)


def plain(
    model: nn.Module, data: list[tuple[torch.Tensor, torch.Tensor]], optimizer: Callable[..., torch.optim.Optimizer],
    micro: int = 1, parts: int = 1, dropping: bool = False, scheduler: Any = None,
) -> list[float]:  # fmt: skip
    """The loop that a user would write; each micro-batch in so many parts, as copies see it."""
    torch.set_num_threads(1)
    made = optimizer(model.parameters())
    schedule = scheduler(made) if scheduler else None
    size, losses = len(data[0][0]) // (micro * parts), []
    tm = model_of(model) if dropping else None
    for step, (x, y) in enumerate(data, 1):
        total = 0.0
        for j in range(micro * parts):
            at = slice(j * size, (j + 1) * size)
            if tm is None:
                out = model(x[at])
            else:
                with tm.same_dropout(size, step=step, first_sample=at.start):
                    out = model(x[at])
            loss = nn.functional.cross_entropy(out, y[at]) / (micro * parts)
            loss.backward()
            total += loss.item()
        made.step()
        made.zero_grad()
        if schedule:
            schedule.step()
        losses.append(total)
    return losses


def same(a: nn.Module, b: nn.Module, atol: float = 0.0) -> bool:
    pairs_ = zip(a.state_dict().items(), b.state_dict().items(), strict=True)
    return all(n == m and torch.allclose(x, y, rtol=0.0, atol=atol, equal_nan=False) for (n, x), (m, y) in pairs_)


@pytest.fixture
def rank(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process as the only rank of a torchrun: no start of other processes."""
    told = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}  # fmt: skip
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    yield
    if dist.is_initialized():  # stays for the next training of a script
        dist.destroy_process_group()
    torch.set_num_threads(1)


def run(model: nn.Module, plan: TrainingPlan, data: Any, folder: Path, **options: Any) -> sp.Trainer:
    options = {"optimizer": momentum, "loss_fn": nn.functional.cross_entropy, "pin": False} | options
    return sp.train(model, plan, data, folder=folder, **options)


@pytest.mark.parametrize("micro", [1, 4])
@pytest.mark.usefixtures("rank")
def test_one_core_trains_as_the_plain_loop_bit_by_bit(tmp_path: Path, micro: int) -> None:
    model, other = net(), net()
    trainer = run(model, plan_of(model, micro=micro), pairs(), tmp_path / "a")
    losses = plain(other, pairs(), momentum, micro)
    assert same(model, other)
    assert trainer.losses["loss"].tolist() == pytest.approx(losses, rel=1e-6)
    assert trainer.losses["step"].tolist() == list(range(1, 7))
    report = trainer.report
    assert report.counts == {"iterations": 6.0, "restarts": 0.0, "plans": 1.0}
    frame = report.to_frame().set_index("quantity")
    assert frame.loc["iteration", "n"] == 3, "three of six warm up"
    assert frame.loc["iteration", "measured"] >= frame.loc["compute", "measured"] > 0
    done = [(b.what, b.micro) for b in report.pieces]
    assert done == [(w, k) for k in range(micro) for w in ("forward", "loss", "backward")] + [("update", -1)]
    assert "worker 0" in str(trainer)
    assert "worker 0" in trainer._repr_html_()
    assert json.loads(json.dumps(report.to_dict()))["counts"]["iterations"] == 6
    assert report.plot().axes


@pytest.mark.usefixtures("rank")
def test_dropout_s_masks_are_those_of_the_samples(tmp_path: Path) -> None:
    model, other = net(p=0.5), net(p=0.5)
    run(model, plan_of(model, micro=2), pairs(3), tmp_path)
    plain(other, pairs(3), momentum, 2, dropping=True)
    assert same(model, other)


@pytest.mark.parametrize(
    "optimizer",
    [momentum, lambda p: torch.optim.AdamW(p, lr=0.01), lambda p: torch.optim.SGD(p, lr=0.1)],
    ids=["momentum", "adamw", "sgd"],
)
@pytest.mark.usefixtures("rank")
def test_a_resumed_training_ends_as_one_that_never_stopped(tmp_path: Path, optimizer: Callable[..., Any]) -> None:
    def scheduler(o: Any) -> Any:
        return torch.optim.lr_scheduler.OneCycleLR(o, max_lr=0.1, total_steps=20)

    given: dict[str, Any] = {"optimizer": optimizer, "scheduler": scheduler, "epochs": 2}
    x, y = (torch.cat(t) for t in zip(*pairs(4), strict=True))
    loader = DataLoader(TensorDataset(x, y), batch_size=BATCH, shuffle=True)
    model, whole = net(p=0.3), net(p=0.3)
    plan = plan_of(model)
    run(whole, plan, loader, tmp_path / "whole", **given)
    first = run(model, plan, loader, tmp_path / "parts", steps=3, **given)
    assert read_facts(first.checkpoint).step == 3
    begun = net(p=0.3)  # a new process would have the weights of the beginning
    second = run(begun, plan, loader, tmp_path / "parts", **given)
    assert same(begun, whole)
    assert not same(model, whole)
    assert second.losses["step"].tolist() == list(range(1, 9))
    elsewhere = net(p=0.3)
    run(elsewhere, plan, loader, tmp_path / "other", resume=first.folder / "step-000003", **given)
    assert same(elsewhere, whole)
    again = run(net(p=0.3), plan, loader, tmp_path / "parts", **given)  # nothing is left to do
    assert same(again.model, whole)


@pytest.mark.usefixtures("rank")
def test_the_last_checkpoints_are_kept(tmp_path: Path) -> None:
    model = net()
    run(model, plan_of(model), pairs(), tmp_path, checkpoint_every=2, steps=5, epochs=1, keep=2)
    assert [p.name for p in checkpoints(tmp_path)] == ["step-000004", "step-000005"]


@pytest.mark.usefixtures("rank")
def test_the_loader_alone_draws_from_the_seeded_random_numbers(tmp_path: Path) -> None:
    seen: list[list[float]] = []

    def data(epoch: int) -> Iterator[Any]:
        for pair in pairs(2):
            seen[-1].append(float(torch.rand(1)) + random.random() + np.random.rand())  # noqa: NPY002
            yield pair

    def loss_fn(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        torch.rand(drawn)
        random.random()
        return nn.functional.cross_entropy(out, y)

    for drawn in (1, 5):
        seen.append([])
        model = net()
        run(model, plan_of(model), data, tmp_path / str(drawn), loss_fn=loss_fn, epochs=2)
    assert seen[0] == seen[1]
    assert len(set(seen[0])) >= 4


# -- what ends it ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("rank")
def test_a_loss_that_is_nan_stops_before_the_update(tmp_path: Path) -> None:
    data = pairs()
    data[4] = (data[4][0] * float("nan"), data[4][1])
    model, other = net(norm=False), net(norm=False)
    with pytest.raises(TrainingError, match=r"the loss is nan at step 5 .*last checkpoint is .*step-000004") as found:
        run(model, plan_of(model), data, tmp_path, checkpoint_every=2)
    assert str(tmp_path) in str(found.value)
    plain(other, data[:4], momentum)
    again = net(norm=False)
    run(again, plan_of(again), data[:4], tmp_path)
    assert same(again, other)


@pytest.mark.usefixtures("rank")
def test_weights_that_are_nan_are_not_saved(tmp_path: Path) -> None:
    class Wild(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            with torch.no_grad():
                self.param_groups[0]["params"][1][0] = float("inf")

    model = net(norm=False)
    with pytest.raises(TrainingError, match="NaN or infinite, and were not saved"):
        run(model, plan_of(model), pairs(), tmp_path, optimizer=Wild, steps=1)
    assert checkpoints(tmp_path) == []


@pytest.mark.usefixtures("rank")
def test_a_loader_that_dies_is_told_with_its_place(tmp_path: Path) -> None:
    def data(epoch: int) -> Iterator[Any]:
        yield from pairs(3)
        if epoch == 1:
            raise OSError("the cable was pulled")

    model = net()
    with pytest.raises(
        TrainingError, match="the data loader failed at epoch 1, batch 3: OSError: the cable was pulled"
    ):
        run(model, plan_of(model), data, tmp_path, epochs=3, checkpoint_every=2)
    assert checkpoints(tmp_path)[-1].name == "step-000006"


BAD_DATA: dict[str, tuple[Any, str]] = {
    "smaller": ([*pairs(1), pairs(1, 5)[0]], r"epoch 0, batch 1: .*\n.*x has 5 samples.*\n.*y has 5 samples, the plan's batch has 8.*drop_last=True"),
    "no pair": ([pairs(1)[0][0]], "give pairs"),
    "no tensors": ([(1, 2)], "x holds no tensor"),
    "empty": ([], "epoch 0: gives no batches"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_DATA)
@pytest.mark.usefixtures("rank")
def test_batches_that_do_not_fit(tmp_path: Path, case: str) -> None:
    data, text = BAD_DATA[case]
    model = net()
    with pytest.raises(DataError, match=text):
        run(model, plan_of(model), data, tmp_path)


@pytest.mark.usefixtures("rank")
def test_a_loss_that_is_no_mean_is_refused_where_the_batch_is_shared(tmp_path: Path) -> None:
    def total(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(out, y, reduction="sum")

    model = net()
    with pytest.raises(DataError, match="loss_fn: is no mean over samples"):
        run(model, plan_of(model, micro=2), pairs(), tmp_path / "a", loss_fn=total)
    run(model, plan_of(model), pairs(), tmp_path / "b", loss_fn=total)  # a batch as a whole may have any


@pytest.mark.usefixtures("rank")
def test_functions_of_the_user_s_that_fail(tmp_path: Path) -> None:
    def broken(*_: Any) -> Any:
        raise KeyError("label")

    model = net()
    plan = plan_of(model)
    for name, text in (("loss_fn", "loss_fn failed at step 1: KeyError"), ("optimizer", "optimizer failed: KeyError")):
        with pytest.raises(TrainingError, match=text):
            run(model, plan, pairs(), tmp_path / name, **{name: broken})
    with pytest.raises(TrainingError, match="loss_fn gave float; give the mean loss"):
        run(model, plan, pairs(), tmp_path / "float", loss_fn=lambda out, y: 1.0)


@pytest.mark.usefixtures("rank")
def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = dcp.FileSystemWriter.write_data
    done = []

    def full(self: Any, *args: Any, **kwargs: Any) -> Any:
        done.append(1)
        if len(done) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, *args, **kwargs)

    monkeypatch.setattr(dcp.FileSystemWriter, "write_data", full)
    model = net()
    with pytest.raises(TrainingError, match=r"could not be written: .*No space left.*last checkpoint is .*step-000002"):
        run(model, plan_of(model), pairs(), tmp_path, checkpoint_every=2)
    assert [p.name for p in sorted(tmp_path.glob("step-*"))] == ["step-000002"]


@pytest.mark.usefixtures("rank")
@pytest.mark.parametrize("damage", ["*.distcp", ".metadata"])
def test_a_damaged_checkpoint_is_told_with_the_one_before(tmp_path: Path, damage: str) -> None:
    model = net()
    plan = plan_of(model)
    run(model, plan, pairs(2), tmp_path, checkpoint_every=1)
    (file, *_) = (tmp_path / "step-000002").glob(damage)
    file.write_bytes(b"")
    with pytest.raises(DataError, match=r"(?s)step-000002: cannot be read \(.*is it damaged\? When it is moved away training goes on from step-000001"):  # fmt: skip
        run(net(), plan, pairs(3), tmp_path)


@pytest.mark.usefixtures("rank")
def test_a_scheduler_that_is_none_is_told(tmp_path: Path) -> None:
    model = net()
    with pytest.raises(
        TrainingError, match="scheduler gave a NoneType, which has no step; give a function from an optimizer"
    ):
        run(model, plan_of(model), pairs(1), tmp_path, scheduler=lambda o: None)


@pytest.mark.usefixtures("rank")
def test_a_loss_of_each_sample_is_told(tmp_path: Path) -> None:
    model = net()
    with pytest.raises(TrainingError, match=r"loss_fn gave \(4,\); give the mean loss over the samples"):
        run(model, plan_of(model, micro=2), pairs(1), tmp_path, loss_fn=nn.CrossEntropyLoss(reduction="none"))


@pytest.mark.usefixtures("rank")
def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    model = net()
    plan = plan_of(model)
    run(model, plan, pairs(2), tmp_path)
    with pytest.raises(DataError, match="was written with seed 0, and now it is 1"):
        run(net(), plan, pairs(2), tmp_path, seed=1, epochs=2)
    with pytest.raises(DataError, match="has no 'optimizer"):
        run(net(), plan, pairs(2), tmp_path, optimizer=lambda p: torch.optim.Adam(p), epochs=2)
    with pytest.raises(DataError, match="without a learning rate scheduler"):
        run(net(), plan, pairs(2), tmp_path, scheduler=lambda o: torch.optim.lr_scheduler.StepLR(o, 1), epochs=2)
    with pytest.raises(DataError, match="has checkpoints up to step-000002; give resume='auto'"):
        run(net(), plan, pairs(2), tmp_path, resume=False)
    with pytest.raises(DataError, match="is no checkpoint, and holds none"):
        run(net(), plan, pairs(2), tmp_path / "b", resume=tmp_path / "nothing")
    run(model, plan, pairs(3), tmp_path / "b")
    with pytest.raises(DataError, match="has checkpoints of its own"):
        run(net(), plan, pairs(2), tmp_path / "b", resume=tmp_path)


@pytest.mark.usefixtures("rank")
def test_a_plan_for_another_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FingerprintError, match="profile this model and plan anew"):
        run(net(), plan_of(net(norm=False)), pairs(), tmp_path)
    stage = TrainingStage(("conv", "other"))
    wrong = TrainingPlan("net", model_of(net()).fingerprint, BATCH, (stage,))
    with pytest.raises(DataError, match="they part at position 1"):
        run(net(), wrong, pairs(), tmp_path)
    with pytest.raises(DataError, match="the model is in eval mode"):
        run(net().eval(), plan_of(net()), pairs(), tmp_path)


@pytest.mark.usefixtures("rank")
def test_a_training_that_is_done_says_so(tmp_path: Path) -> None:
    model = net()
    first = run(model, plan_of(model), pairs(2), tmp_path)
    again = run(model, plan_of(model), pairs(2), tmp_path)
    assert not any("no iteration was made" in note for note in first.report.notes)
    assert any("step-000002 is already where epochs= and steps= end" in note for note in again.report.notes)


@pytest.mark.usefixtures("rank")
def test_torchrun_must_have_started_as_many_workers_as_the_plan_has(tmp_path: Path) -> None:
    model = net()
    with pytest.raises(DataError, match="torchrun has started 1 workers, and the plan has 2"):
        run(model, plan_of(model, stages=2, micro=2), pairs(), tmp_path)
    with pytest.raises(DataError, match="under torchrun give folder="):
        sp.train(model, plan_of(model), pairs(), optimizer=momentum, loss_fn=nn.functional.cross_entropy)


def test_arguments_that_cannot_be_right_are_told_all_at_once() -> None:
    model = net()
    with pytest.raises(DataError) as found:
        sp.train(
            [], plan_of(model), iter(pairs()), optimizer=None, loss_fn=3, epochs=0, steps=True, checkpoint_every=0, keep=0,  # type: ignore[arg-type]
            restarts=-1, resume=7, device="tpu", on_slow="wait", problem=3, seed=-1,  # type: ignore[arg-type]
        )  # fmt: skip
    assert len(found.value.problems) == 14
    with pytest.raises(DataError, match="the plan is a dict"):
        sp.train(model, {}, [], optimizer=momentum, loss_fn=momentum)  # type: ignore[arg-type]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.usefixtures("rank")
def test_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    model = net()
    with pytest.raises(DataError, match="1 workers on this host need a GPU each, and torch sees 0"):
        run(model, plan_of(model), pairs(), tmp_path, device="cuda")


def test_plans_that_cannot_run() -> None:
    def stage(name: str, replicas: int) -> TrainingStage:
        return TrainingStage((name,), replicas)

    uneven = TrainingPlan("m", "f", 8, (stage("a", 1), stage("b", 2)), 2, "1f1b", threads=1000)
    problems = plan_problems(uneven, pin=True)
    assert len(problems) == 2
    assert "stages have 1 and 2 replicas" in problems[0]
    assert "the plan uses 3000 cores" in problems[1]
    assert len(plan_problems(uneven, pin=False)) == 1
    few = TrainingPlan("m", "f", 8, (stage("a", 1), stage("b", 1), stage("c", 1)), 2, "1f1b")
    assert "take gpipe" in plan_problems(few, pin=False)[0]


def test_things_that_cannot_be_handed_to_workers_are_named(tmp_path: Path) -> None:
    model = net()
    with (tmp_path / "open").open("w") as file, pytest.raises(DataError, match="train: data: cannot be handed"):
        sp.train(model, plan_of(model), [file], optimizer=momentum, loss_fn=nn.functional.cross_entropy, pin=False)
