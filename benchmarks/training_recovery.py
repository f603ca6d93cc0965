"""Training on real cores when a worker is killed: seconds until it goes on, iterations lost, and whether the weights are as if nothing had happened."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

import splitplan as sp
from benchmarks.registry import Progress, Study, register
from benchmarks.training import images, optimizer, perceptron
from splitplan.data.training_plan import TrainingPlan, TrainingStage
from splitplan.executor.training_watch import Records
from splitplan.models.training import training_model

EVERY, KILLED, STEPS = 5, 8, 12
"""Iterations between checkpoints, the one after which a worker is killed, and those in all."""


def recovery(smoke: bool, progress: Progress) -> tuple[pd.DataFrame, str]:
    """Every way of training a network, uninterrupted and with a worker that is killed."""
    cases = (("perceptron", slow_perceptron, 8),) if smoke else (
        ("alexnet, 64 px", images("alexnet", 64), 32), ("resnet18, 64 px", images("resnet18", 64), 32)
    )  # fmt: skip
    rows = []
    for name, make, batch in cases:
        model = make(batch)[0]
        for way, plan in _plans(model, make(batch)[2], batch, name).items():
            if smoke and way != "copies":
                continue
            progress(f"{name}: {way}, uninterrupted")
            usual, _ = _train(make, batch, plan, None)
            for worker in range(smoke, plan.workers):
                progress(f"{name}: {way}, worker {worker} is killed")
                killed, told = _train(make, batch, plan, worker)
                weights = zip(usual.state_dict().values(), killed.state_dict().values(), strict=True)
                rows.append({"model": name, "way": way, "killed": f"worker {worker} of {plan.workers}", **told, "same_weights": all(torch.equal(a, b) for a, b in weights)})  # fmt: skip
    table = pd.DataFrame(rows)
    return table, (
        f"kill -9 once iteration {KILLED} is done, a checkpoint every {EVERY}. back_s: from the kill to the beginning of the first iteration "
        "after it, with new processes, torch imported, the model exported, the checkpoint loaded; iterations done again are not in it. "
        f"Median {table['back_s'].median():.1f} s, most {table['back_s'].max():.1f} s; the weights after {STEPS} iterations are bit for bit "
        f"those of the run that nobody interrupted in {int(table['same_weights'].sum())} of {len(table)} runs."
    )


def slow_perceptron(batch: int) -> tuple[nn.Module, Callable[..., Any], Any, Any]:
    """A tiny network whose iterations last long enough to be interrupted."""
    model, loss_fn, x, y = perceptron(batch)

    def slowly(made: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        time.sleep(0.2)
        lost: torch.Tensor = loss_fn(made, wanted)
        return lost

    return model, slowly, x, y


def _plans(model: nn.Module, x: Any, batch: int, name: str) -> dict[str, TrainingPlan]:
    tm = training_model(model, x[:2], name=name)
    names = tuple(v.name for v in tm.layers)
    middle = next(i for i in range(len(names) // 2, len(names)) if i not in tm.uncuttable)

    def plan(stages: tuple[TrainingStage, ...], micro: int, schedule: Any, threads: int = 1) -> TrainingPlan:
        return TrainingPlan(name, tm.fingerprint, batch, stages, micro, schedule, threads)

    return {
        "threads": plan((TrainingStage(names),), 1, "none", 2),
        "copies": plan((TrainingStage(names, 2),), 1, "none"),
        "pipeline": plan((TrainingStage(names[:middle]), TrainingStage(names[middle:])), 4, "1f1b"),
    }


def _train(make: Any, batch: int, plan: TrainingPlan, worker: int | None) -> tuple[nn.Module, dict[str, Any]]:
    """The model after all iterations; what happened when a worker was killed."""
    model, loss_fn, x, y = make(batch)
    killed: list[float] = []
    done: list[int] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def seen(text: str, share: float) -> None:
            if worker is None or killed or not text.startswith(f"step {KILLED}"):
                return
            records = _records(folder, plan)
            os.kill(records.starts[worker][-1]["pid"], signal.SIGKILL)
            killed.append(time.monotonic())
            done.append(max(records.whole()))

        trainer = sp.train(
            model, plan, [(x, y)] * STEPS, optimizer=optimizer, loss_fn=loss_fn, steps=STEPS, checkpoint_every=EVERY, folder=folder,
            progress=seen, on_slow="tell",
        )  # fmt: skip
        if worker is None:
            return model, {}
        again = _records(folder, plan).starts[worker][-1]["from_step"]
        # Iterations that were done again have overwritten what they were before, so their beginning is that after the kill.
        begun = min(s[again + 1]["start"] for s in _records(folder, plan).steps)
        return model, {
            "iteration_s": float(next(r.measured for r in trainer.report.rows if r.quantity == "iteration")),
            "back_s": begun - killed[0],
            "done_again": done[0] - again,
        }


def _records(folder: Path, plan: TrainingPlan) -> Records:
    records = Records(folder, plan.workers, plan.stages[0].replicas, "")
    records.read(of_all_runs=True)
    return records


register(
    Study(
        "training-recovery",
        "A worker that is killed while training",
        "training goes on from the last checkpoint within seconds, the weights as uninterrupted",
        recovery,
    )
)
