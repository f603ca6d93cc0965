"""The measuring processes of the training profiler: layers, whole steps and collectives, while as many workers compute as will train.

Run by `splitplan.executor.training_profiler` as ``python -m splitplan.executor.training_measure FOLDER RANK``, one for each worker of the
crowd, in the environment of a training worker. The first one prints what it found as JSON lines.
"""

from __future__ import annotations

import gc
import json
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from splitplan.errors import DataError, many
from splitplan.executor.environment import leave
from splitplan.executor.measure import REFUSED, about, middle_mean
from splitplan.executor.training_theirs import loss_of, optimizer_of
from splitplan.models.files import read_json, write_whole

if TYPE_CHECKING:
    import torch

    from splitplan.data.training_plan import TrainingPlan
    from splitplan.models.training import TrainingModel

TASK = "measure.json"
LEAST_WHOLE = 4
"""Whole iterations of each plan in each start, whatever the time, after those that warm up."""


@dataclass(frozen=True)
class MeasureTask:
    """What to measure in one start of a crowd.

    Parameters
    ----------
    threads, workers : int
    samples : tuple of int
        Micro-batches.
    layers_s : float or None
        About how long to measure layers, warm-up left out; None: neither them nor exchanges.
    whole_s : float
        About how long to measure whole iterations.
    least : int
        Fewest rounds, whatever the budget.
    kind : str
        The torch device.
    name : str or None
        Of the model.
    paths : tuple of str
        Where Python looks for modules.
    """

    threads: int
    workers: int
    samples: tuple[int, ...]
    layers_s: float | None
    whole_s: float
    least: int
    kind: str
    name: str | None
    paths: tuple[str, ...]

    def save(self, folder: Path) -> None:
        """Write it into the folder of the processes."""
        write_whole(folder / TASK, json.dumps(asdict(self)))

    @classmethod
    def read(cls, folder: Path) -> MeasureTask:
        """Read what `save` wrote."""
        body = read_json(folder / TASK)
        return cls(**body | {"samples": tuple(body["samples"]), "paths": tuple(body["paths"])})


def main(argv: list[str]) -> int:
    """Measure the task of a folder as worker ``argv[1]``."""
    from splitplan.errors import SplitplanError

    folder, rank = Path(argv[0]), int(argv[1])
    task = MeasureTask.read(folder)
    sys.path[:] = list(task.paths)
    # What the user's own functions print must not come between our lines.
    sys.stdout.flush()
    told = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        _measure(folder, rank, task, told)
    except SplitplanError as e:
        sys.stderr.write("\n".join([str(e), *getattr(e, "__notes__", ())]) + "\n")
        sys.stderr.flush()
        # The others wait for this one in a collective, and the parent ends them.
        os._exit(REFUSED)
    return 0


def pin(rank: int, threads: int) -> None:
    """Bind this process to its own cores, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        mine = cores[rank * threads : (rank + 1) * threads]
        if len(mine) == threads:
            os.sched_setaffinity(0, mine)


def _say(told: TextIO, message: dict[str, Any]) -> None:
    """One line of JSON to the profiler."""
    told.write(json.dumps(message) + "\n")
    told.flush()


def _measure(folder: Path, rank: int, task: MeasureTask, told: TextIO) -> None:
    import torch
    import torch.distributed as dist

    from splitplan.executor.training_exchanges import add_s, agree_s, collectives
    from splitplan.executor.training_job import Things
    from splitplan.executor.training_whole import whole_iterations, whole_plans
    from splitplan.models.training import training_model

    pin(rank, task.threads)
    torch.set_num_threads(task.threads)
    torch.manual_seed(0)
    things = Things.read(folder)
    x, y = things.data
    device = torch.device(task.kind)
    model = things.model.to(device) if hasattr(things.model, "to") else things.model
    tm = training_model(model, x, name=task.name)
    plans: dict[str, TrainingPlan] = {}
    if task.kind == "cpu":  # GPUs exchange through other means than the ones here
        plans = whole_plans(tm.name, tm.fingerprint, tm.layers, task.threads, task.workers, task.samples)
    if task.layers_s is None:
        plans.pop("parts", None)  # what is beside the layers of a micro-batch: once is enough
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=task.workers)
    try:
        result: dict[str, Any] = {}
        if task.layers_s is not None:
            runs: list[Runs] = []
            for b in task.samples:
                runs.append(Runs(tm, things.loss_fn, things.optimizer, x, y, b, device, runs[0] if runs else None))
            result = _rounds(runs, rank, task, len(plans), told)
            if rank == 0:
                result |= _facts(tm, runs[0]) | about(task.kind)
            del runs  # their optimizers' states
            result["collectives"] = collectives(tm, task.workers, max(task.samples), rank)
            result["agree_s"] = agree_s()
            result["add_s"] = add_s(tm)
        result["whole"] = {}
        for what, plan in plans.items():
            gc.collect()  # engines and their optimizers' states are in circles
            seconds = whole_iterations(tm, plan, things, device, task.whole_s / len(plans), LEAST_WHOLE)
            result["whole"][what] = seconds
            if rank == 0:
                done = result.get("rounds", 0)
                _say(told, {"done": done + len(result["whole"]), "of": done + len(plans)})
    finally:
        dist.destroy_process_group()
    if rank == 0:
        _say(told, {"result": result})


def _facts(tm: TrainingModel, run: Runs) -> dict[str, Any]:
    return {
        "model": tm.name,
        "fingerprint": tm.fingerprint,
        "layer_facts": [asdict(x) for x in tm.layers],
        "crossing_bytes": list(tm.crossing_bytes),
        "uncuttable": list(tm.uncuttable),
        "state_factor": run.state_factor,
        "mixes": tm.mixes,
    }


class Runs:
    """One micro-batch through the model, whole and run by run of layers between positions at which it can be cut.

    Parameters
    ----------
    tm : TrainingModel
    loss_fn, optimizer : callable
    x, y : tensors
        A batch, of which the first samples are taken.
    samples : int
    device : torch.device
    other : Runs, optional
        Of the same model, whose optimizers are taken: they are of the same weights, and each has a state.
    """

    _lost: torch.Tensor | None = None

    def __init__(
        self, tm: TrainingModel, loss_fn: Callable[..., Any], optimizer: Callable[..., Any], x: Any, y: Any, samples: int,
        device: torch.device, other: Runs | None = None,
    ) -> None:  # fmt: skip
        import torch
        from torch.utils import _pytree as pytree

        def first(value: Any) -> Any:
            return pytree.tree_map_only(torch.Tensor, lambda t: t[:samples].to(device), value)

        self.tm, self.samples = tm, samples
        self._inputs: tuple[torch.Tensor, ...] = tm.inputs(first(x))
        target = first(y)
        self._loss: Callable[[Any], Any] = lambda made: loss_of(
            loss_fn, tm.unflatten(made), target, f" on the first {many(samples, 'sample')}"
        )
        n = len(tm.layers)
        ends = [0, *(i for i in range(1, n) if i not in set(tm.uncuttable)), n]
        self.runs = list(pairwise(ends))
        self._stages = [tm.stage(i, j, samples) for i, j in self.runs]
        self._whole = tm.stage(0, n, samples)
        self._optimizers: list[Any] = (
            other._optimizers if other else [self._optimizer(optimizer, s) for s in self._stages]
        )
        self._all: Any = other._all if other else self._optimizer(optimizer, self._whole)
        self._cuda = device.type == "cuda"

    @staticmethod
    def _optimizer(make: Callable[..., Any], stage: Any) -> Any:
        weights = [p for p in stage.parameters() if p.requires_grad]
        return optimizer_of(make, weights) if weights else None

    def _now(self) -> float:
        if self._cuda:
            import torch

            torch.cuda.synchronize()
        return time.perf_counter()

    def whole(self) -> tuple[float, float, float]:
        """Seconds forward, backward (the loss with it) and of the optimizer, of the model in one piece."""
        self._whole.at(0)
        start = self._now()
        made = self._whole(*self._inputs)
        there = self._now()
        loss = self._loss(made)
        loss.backward()
        back = self._now()
        if self._all is not None:
            self._all.step()
        end = self._now()
        self._clear()
        self._lost = loss.detach() if self._lost is None else self._lost
        return there - start, back - there, end - back

    def check_loss(self) -> None:
        """Raise unless the first loss was a number: seconds of NaN are those of no training."""
        lost = 0.0 if self._lost is None else float(self._lost)
        if not math.isfinite(lost):
            raise DataError(
                f"the loss of the first {self.samples} samples is {lost}; look at the inputs, the targets and the weights"
            )

    def parts(self) -> np.ndarray:
        """Seconds forward, backward and of the optimizer of each run of layers, shape (3, runs); the last one's include the loss."""
        import torch

        seconds = np.zeros((3, len(self.runs)))
        entered, left = [], []
        values: tuple[torch.Tensor, ...] = self._inputs
        for k, stage in enumerate(self._stages):
            stage.at(0)
            taken = tuple(v.detach().requires_grad_(k > 0 and v.is_floating_point()) for v in values)
            start = self._now()
            made = stage(*taken)
            seconds[0, k] = self._now() - start
            values = made if isinstance(made, tuple) else (made,)
            entered.append(taken)
            left.append(values)
        start = self._now()
        leaves = tuple(v.detach().requires_grad_(v.requires_grad) for v in values)
        self._loss(leaves if len(leaves) > 1 else leaves[0]).backward()
        seconds[1, -1] = self._now() - start
        gradients = [v.grad for v in leaves]
        for k in reversed(range(len(self._stages))):
            pairs = [(v, g) for v, g in zip(left[k], gradients, strict=True) if v.requires_grad and g is not None]
            start = self._now()
            if pairs:
                torch.autograd.backward([v for v, _ in pairs], [g for _, g in pairs])
            seconds[1, k] += self._now() - start
            gradients = [v.grad for v in entered[k]]
            left[k] = ()
        for k, optimizer in enumerate(self._optimizers):
            start = self._now()
            if optimizer is not None:
                optimizer.step()
            seconds[2, k] = self._now() - start
        self._clear()
        return seconds

    def _clear(self) -> None:
        for p in self._whole.parameters():
            p.grad = None

    @property
    def state_factor(self) -> float:
        """Bytes of the optimizer's state over bytes of weights."""
        import torch

        if self._all is None:
            return 0.0
        weights = sum(p.numel() * p.element_size() for g in self._all.param_groups for p in g["params"])
        state = sum(
            t.numel() * t.element_size()
            for s in self._all.state.values()
            for t in s.values()
            if isinstance(t, torch.Tensor)
        )
        return float(state / weights) if weights else 0.0

    def by_layer(self, seconds: np.ndarray) -> np.ndarray:
        """Of runs of several layers each has an even share: no cut can tell them apart."""
        found = np.zeros((len(seconds), len(self.tm.layers)))
        for k, (i, j) in enumerate(self.runs):
            found[:, i:j] = seconds[:, [k]] / (j - i)
        return found


def _rounds(runs: list[Runs], rank: int, task: MeasureTask, more: int, told: TextIO) -> dict[str, Any]:
    """Rounds of all sizes, whole and in parts in turn; all workers begin each run together. So much more comes afterwards."""
    import torch
    import torch.distributed as dist

    for run in runs:
        run.whole()
        run.check_loss()
        run.parts()
    whole: list[list[tuple[float, float, float]]] = [[] for _ in runs]
    parts: list[list[np.ndarray]] = [[] for _ in runs]
    rounds, done, start = task.least, 0, time.perf_counter()
    while done < rounds:
        for k, run in enumerate(runs):
            dist.barrier()
            whole[k].append(run.whole())
            dist.barrier()
            parts[k].append(run.parts())
        done += 1
        if done == 1:
            took = torch.tensor([time.perf_counter() - start])
            dist.all_reduce(took, dist.ReduceOp.MAX)
            rounds = max(task.least, int((task.layers_s or 0.0) / max(float(took), 1e-6)))
        if rank == 0:
            _say(told, {"done": done, "of": rounds + more})
    times, updates, steps_of = {}, [], {}
    for run, w, p in zip(runs, whole, parts, strict=True):
        steps = np.array(w)
        typical = middle_mean(np.array([x.reshape(-1) for x in p])).reshape(3, -1)
        both = float(np.median(steps[:, :2].sum(axis=1)))
        typical[:2] *= both / max(typical[:2].sum(), 1e-12)
        typical[2] *= float(np.median(steps[:, 2])) / max(typical[2].sum(), 1e-12)
        layers = run.by_layer(typical)
        times[run.samples] = layers[:2].tolist()
        updates.append(layers[2])
        if 2 * run.samples >= max(task.samples):  # small micro-batches vary by more than an iteration does
            slowest = torch.tensor(steps.sum(axis=1))
            dist.all_reduce(slowest, dist.ReduceOp.MAX)
            steps_of[run.samples] = slowest.tolist()
    return {"times": times, "updates": np.median(updates, axis=0).tolist(), "steps": steps_of, "rounds": rounds}


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
