"""Whole iterations in a crowd of measuring processes, by the engine that trains: what copies and columns take while workers compute."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.utils import _pytree as pytree

from splitplan.data.training_plan import TrainingPlan, TrainingStage
from splitplan.executor.training_data import Batch
from splitplan.executor.training_steps import Engine, Place, now
from splitplan.executor.training_theirs import optimizer_of
from splitplan.executor.training_watch import WARMING
from splitplan.models.training_layer import TrainingLayer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from splitplan.executor.training_job import Things
    from splitplan.models.training import TrainingModel

MOST = 40
"""Iterations of one plan in one start, however quick they are."""


def whole_plans(
    model: str, fingerprint: str, layers: Sequence[TrainingLayer], threads: int, workers: int, samples: Sequence[int]
) -> dict[str, TrainingPlan]:
    """The plans that a crowd runs: of one worker the batch at once (``alone``) and in ``parts``, the smallest micro-batches that divide it;
    of several ``all_reduce``, copies of all layers, and ``columns``, in which every layer is shared by columns that can be.

    Parameters
    ----------
    model, fingerprint : str
    layers : sequence of TrainingLayer
    threads, workers : int
    samples : sequence of int
        Micro-batches that are measured, ascending: a worker's share is at least the first, the batch at most the last.

    Returns
    -------
    dict of str to TrainingPlan
        Empty where so many workers cannot share such a batch.
    """
    names, batch = tuple(x.name for x in layers), samples[-1] // workers * workers
    if batch < workers * samples[0]:
        return {}

    def plan(columns: tuple[str, ...], micro_batches: int = 1) -> TrainingPlan:
        stage = TrainingStage(names, workers, columns)
        return TrainingPlan(model, fingerprint, batch, (stage,), micro_batches, threads=threads)

    found = {}
    if workers == 1:
        found["alone"] = plan(())
        if parts := [batch // s for s in samples if batch % s == 0 and s < batch]:
            found["parts"] = plan((), max(parts))
        return found
    if any(x.parameter_bytes for x in layers):
        found["all_reduce"] = plan(())
    if shared := tuple(x.name for x in layers if x.columns >= workers):
        found["columns"] = plan(shared)
    return found


def whole_iterations(
    tm: TrainingModel, plan: TrainingPlan, things: Things, device: torch.device, budget_s: float, least: int
) -> list[float]:
    """Seconds of iterations one after another, of the slowest worker; the first ones (`WARMING`) are left out.

    Each does what an iteration of `splitplan.train` does: gradients, what the samples lose added up over workers, the optimizer.

    Parameters
    ----------
    tm : TrainingModel
    plan : TrainingPlan
        Of one stage, on as many workers as torch's process group has.
    things : Things
        ``data`` is a batch, of which the first samples are taken.
    device : torch.device
    budget_s : float
        About how long to measure.
    least : int
        Fewest iterations, whatever the budget.
    """
    mesh = init_device_mesh(device.type, (1, plan.workers), mesh_dim_names=("pp", "dp"))
    few = pytree.tree_map_only(torch.Tensor, lambda t: t[: plan.batch], things.data)
    batch = Batch(0, 0, *few).to(device)
    told: list[tuple[torch.Tensor, Any]] = []

    def tell(lost: float) -> None:
        by_all = torch.tensor([lost, 0.0], dtype=torch.float64)
        told.append((by_all, dist.all_reduce(by_all, async_op=True)))

    engine = Engine(tm, plan, Place.of(plan, dist.get_rank()), mesh, things.loss_fn, 0, batch, tell)
    optimizers = [optimizer_of(things.optimizer, weights) for weights in engine.weights()]

    def iterations(first: int, count: int) -> torch.Tensor:
        ends = [now()]
        for n in range(first, first + count):
            engine.step(n, batch)
            told.pop()[1].wait()
            for optimizer in optimizers:
                optimizer.step()
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            ends.append(now())
        slowest = torch.tensor(np.diff(ends))
        dist.all_reduce(slowest, dist.ReduceOp.MAX)
        return slowest

    iterations(0, WARMING)
    seconds: list[float] = iterations(WARMING, least).tolist()
    more = min(MOST, int(budget_s / max(min(seconds), 1e-6))) - least
    return seconds + (iterations(WARMING + least, more).tolist() if more > 0 else [])
