"""Training in processes that splitplan starts: lost workers, interrupts, slow ones; nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import nn

import splitplan as sp
from splitplan.data.training_plan import TrainingPlan
from splitplan.errors import DataError, TrainingError
from splitplan.executor.environment import worker_environment
from splitplan.executor.training_control import SLOW
from splitplan.executor.training_state import checkpoints
from splitplan.executor.training_watch import Records
from tests.executor.conftest import gone
from tests.executor.test_training import momentum, net, pairs, plain, plan_of, same
from tests.executor.test_training_heads import decaying, heads, heads_plan, kinds, loop, sometimes

ROOT = Path(__file__).parents[2]


def slowly(pause_s: float, rank: str | None = None) -> Any:
    """A loss that takes its time, on one rank or on all."""

    def loss_fn(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled() and rank in (None, os.environ["RANK"]):
            time.sleep(pause_s)
        return nn.functional.cross_entropy(out, y)

    return loss_fn


def pids(folder: Path, workers: int) -> list[int]:
    """Of the workers that were started last."""
    records = Records(folder, workers, 1, "")
    records.read(of_all_runs=True)
    return [s[-1]["pid"] for s in records.starts if s]


def launch(model: nn.Module, plan: TrainingPlan, folder: Path, **options: Any) -> sp.Trainer:
    options = {"optimizer": momentum, "loss_fn": nn.functional.cross_entropy, "pin": False} | options
    return sp.train(model, plan, options.pop("data", pairs()), folder=folder, **options)


def test_a_worker_that_is_killed_changes_nothing(tmp_path: Path, nothing_left: Path) -> None:
    """Two stages; the second one is killed once a checkpoint is there."""
    model, other = net(p=0.5), net(p=0.5)
    told: list[tuple[str, float]] = []
    killed: list[int] = []

    def progress(text: str, share: float) -> None:
        told.append((text, share))
        if not killed and text.startswith("step 5"):
            killed.append(pids(tmp_path, 2)[1])
            os.kill(killed[0], signal.SIGKILL)

    trainer = launch(
        model, plan_of(model, stages=2, micro=2), tmp_path, steps=10, checkpoint_every=2, loss_fn=slowly(0.2), progress=progress
    )  # fmt: skip
    plain(other, [pairs()[k % 6] for k in range(10)], momentum, 2, dropping=True)
    assert same(model, other)
    assert trainer.report.counts["restarts"] == 1
    lost = "worker 1 was ended by SIGKILL, as when memory runs out: all were started again, from step"
    assert any(note.startswith(lost) for note in trainer.report.notes)
    assert trainer.losses["step"].tolist() == list(range(1, 11))
    assert told[-1][1] == 1.0
    assert killed[0] not in pids(tmp_path, 2)
    assert not any(map(psutil.pid_exists, pids(tmp_path, 2)))


def test_a_worker_that_is_killed_before_all_weights_had_a_gradient(tmp_path: Path, nothing_left: Path) -> None:
    """The second head's first gradient is that of step 2, by two replicas; the checkpoint is that of step 1."""
    model, other = heads(), heads()
    killed: list[int] = []

    def slowed(out: Any, y: torch.Tensor) -> torch.Tensor:
        time.sleep(0.2)
        return sometimes(out, y)

    def progress(text: str, share: float) -> None:
        if not killed and checkpoints(tmp_path):
            killed.append(pids(tmp_path, 2)[1])
            os.kill(killed[0], signal.SIGKILL)

    trainer = launch(
        model, heads_plan(replicas=2), tmp_path, data=kinds(), checkpoint_every=1, optimizer=decaying, loss_fn=slowed, progress=progress
    )  # fmt: skip
    loop(other, kinds(), decaying, sometimes, 2)
    assert same(model, other, atol=1e-6)
    assert trainer.report.counts["restarts"] == 1


def test_what_a_worker_refuses_comes_back_whole(tmp_path: Path, nothing_left: Path) -> None:
    def dies(epoch: int) -> Any:
        yield pairs()[0]
        raise OSError("the cable was pulled")

    model = net()
    with pytest.raises(TrainingError, match="epoch 0, batch 1: OSError: the cable was pulled") as found:
        launch(model, plan_of(model), tmp_path, data=dies)
    assert "Traceback" in "".join(found.value.__notes__)
    assert not list(tmp_path.glob("*.part"))


def test_too_many_lost_workers_end_it_and_the_checkpoint_stays(tmp_path: Path, nothing_left: Path) -> None:
    def loss_fn(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if len(list(tmp_path.glob("step-*"))):
            os.kill(os.getpid(), signal.SIGKILL)
        return nn.functional.cross_entropy(out, y)

    model = net()
    with pytest.raises(TrainingError, match=r"^worker 0 was ended by SIGKILL, as when memory runs out; the workers ended with code 1\. The last checkpoint is .*step-000002"):  # fmt: skip
        launch(model, plan_of(model), tmp_path, loss_fn=loss_fn, checkpoint_every=2, restarts=0)
    assert [p.name for p in checkpoints(tmp_path)] == ["step-000002"]


class Centred(nn.Module):
    """What comes of a sample depends on the others."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(192, 8), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = self.one(x.flatten(1))
        out: torch.Tensor = self.two(made - made.mean(0))
        return out


def test_a_model_that_mixes_samples_is_not_trained_in_parts(tmp_path: Path, nothing_left: Path) -> None:
    model = Centred().train()
    text = "what comes of a sample depends on the others of its batch, and not by batch norm alone"
    with pytest.raises(DataError, match=text):
        launch(model, plan_of(model, micro=2), tmp_path)
    assert launch(model, plan_of(model), tmp_path, steps=1).losses["step"].tolist() == [1]


def test_a_folder_is_one_training_s(tmp_path: Path, nothing_left: Path) -> None:
    """A second one, begun while the first one runs, is refused; a file is no folder."""
    model, refused = net(), []

    def progress(text: str, share: float) -> None:
        if not refused:
            with pytest.raises(DataError, match="another training is under way in it") as found:
                launch(model, plan_of(model), tmp_path / "run", steps=1)
            refused.append(found.value)

    launch(model, plan_of(model), tmp_path / "run", steps=2, progress=progress)
    assert len(refused) == 1 and "run" in str(refused[0])
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file.*cannot be made: File exists; give another folder"):
        launch(model, plan_of(model), tmp_path / "file", steps=1)


def test_what_fails_twice_in_the_same_way_is_not_tried_again(tmp_path: Path, nothing_left: Path) -> None:
    model = net()
    plan = plan_of(model)

    class Broken(type(model)):  # type: ignore[misc]  # the same layers, and what torch itself refuses
        def __setstate__(self, state: Any) -> None:
            raise RuntimeError("no such kernel")

    model.__class__ = Broken
    with pytest.raises(TrainingError, match="failed twice in the same way at step 0: RuntimeError: no such kernel"):
        launch(model, plan, tmp_path)


SCRIPT = """
import sys
from pathlib import Path
from tests.executor.test_training_launch import launch, slowly
from tests.executor.test_training import Net, plan_of
class Own(Net):  # workers cannot import what a script or a notebook defines
    pass
model = Own().train()
launch(model, plan_of(model), Path(sys.argv[1]), steps=1000, epochs=None, loss_fn=slowly(0.05), checkpoint_every=5)
"""


def test_workers_end_with_the_process_that_called(tmp_path: Path) -> None:
    """Interrupted, or killed; both at once, to save time."""
    environment = worker_environment(1) | {"PYTHONPATH": str(ROOT)}
    folders = {signal.SIGINT: tmp_path / "interrupted", signal.SIGKILL: tmp_path / "killed"}
    processes = {
        how: subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder)], env=environment, cwd=ROOT, stderr=subprocess.DEVNULL)
        for how, folder in folders.items()
    }  # fmt: skip
    for how, process in processes.items():
        end = time.monotonic() + 60
        while not checkpoints(folders[how]) and time.monotonic() < end:
            time.sleep(0.1)
        (worker,) = pids(folders[how], 1)
        launcher = psutil.Process(worker).parent()
        assert launcher is not None
        process.send_signal(how)
        assert process.wait(30) != 0
        assert gone(worker)
        assert gone(launcher.pid)


def test_a_slow_worker_has_training_go_on_by_another_plan(tmp_path: Path, nothing_left: Path) -> None:
    """Two copies, of which one computes slowly; the other plan has one worker, on which nothing is slow."""
    model, other = net(norm=False), net(norm=False)
    alone = plan_of(model, micro=2)
    asked: list[tuple[float, ...]] = []

    def replan(speeds: tuple[float, ...]) -> TrainingPlan:
        asked.append(speeds)
        return TrainingPlan.from_dict(alone.to_dict() | {"predicted": {"iteration_s": 0.001}})

    trainer = launch(
        model, plan_of(model, replicas=2), tmp_path, epochs=5, data=lambda _: pairs(), loss_fn=slowly(0.1, "1"), on_slow=replan,
        checkpoint_every=100,
    )  # fmt: skip
    assert len(asked) == 1
    assert asked[0][0] == 1.0
    assert asked[0][1] < 1 / SLOW
    assert [p.workers for p in trainer.report.plans] == [2, 1]
    assert any("planned anew" in note for note in trainer.report.notes)
    for part, plan, text in zip(trainer.report.parts, trainer.report.plans, ("2 workers", "1 worker"), strict=True):
        assert part.plans == (plan,) and part.rows[0].measured is not None and text in str(trainer.report)
    assert trainer.report.rows == trainer.report.parts[trainer.report.number].rows
    assert trainer.losses["step"].tolist() == list(range(1, 31))
    plain(other, [pairs()[k % 6] for k in range(30)], momentum)
    assert same(model, other, atol=1e-5)


def test_another_plan_that_cannot_be_run_is_given_up(tmp_path: Path, nothing_left: Path) -> None:
    model, other = net(norm=False), net(norm=False)
    plan = plan_of(model, replicas=2)
    wrong = plan_of(model).to_dict()
    wrong["stages"][0]["layers"] = ["nothing", *wrong["stages"][0]["layers"][1:]]

    def replan(speeds: tuple[float, ...]) -> TrainingPlan:
        return TrainingPlan.from_dict(wrong | {"predicted": {"iteration_s": 0.001}})

    trainer = launch(
        model, plan, tmp_path, epochs=3, data=lambda _: pairs(), loss_fn=slowly(0.1, "1"), on_slow=replan, checkpoint_every=100
    )  # fmt: skip
    assert [p.workers for p in trainer.report.plans] == [2, 2]
    assert any("could not be run, and training went on by the one before: " in note for note in trainer.report.notes)
    assert trainer.losses["step"].tolist() == list(range(1, 19))
    plain(other, [pairs()[k % 6] for k in range(18)], momentum)
    assert same(model, other, atol=1e-5)


class Dying(torch.utils.data.Dataset[Any]):
    """Its own process is killed at the second batch."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, i: int) -> Any:
        if i == 9:
            os.kill(os.getpid(), signal.SIGKILL)
        x, y = pairs()[0]
        return x[0], y[0]


def test_a_loader_s_own_process_that_is_killed_is_no_lost_worker(tmp_path: Path, nothing_left: Path) -> None:
    model = net()
    loader = torch.utils.data.DataLoader(Dying(), batch_size=len(pairs()[0][0]), num_workers=1)
    with pytest.raises(TrainingError, match=r"the data loader failed at .*DataLoader worker"):
        launch(model, plan_of(model), tmp_path, data=loader)
