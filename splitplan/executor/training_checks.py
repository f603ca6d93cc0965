"""What of a training cannot be right, said before anything is started."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from splitplan.data.training_plan import TrainingPlan
from splitplan.errors import DataError, listed, raise_all
from splitplan.executor.environment import cores_here
from splitplan.executor.training_control import problem_of
from splitplan.executor.training_job import Task, Things

if TYPE_CHECKING:
    from splitplan.formulations.training import HybridTraining


def check(
    task: Task, things: Things, folder: Any, resume: Any, *, restarts: Any, problem: HybridTraining | None, on_slow: Any, launched: bool
) -> str | None:  # fmt: skip
    """Raise on what cannot be right; the checkpoint to begin from, when one was given.

    Parameters
    ----------
    task : Task
    things : Things
    folder, resume, restarts, problem, on_slow
        As `splitplan.train` was given them.
    launched : bool
        Whether torchrun has started this process.
    """
    if not isinstance(task.plan, TrainingPlan):
        what = type(task.plan).__name__
        raise DataError(
            f"the plan is a {what}; give a splitplan.TrainingPlan, as HybridTraining(…).solve().plan", "train"
        )
    problems = _things_problems(things) + mode_problems(things.model)
    wholes = (("epochs", task.epochs, 1), ("steps", task.steps, 1), ("checkpoint_every", task.checkpoint_every, 1), ("keep", task.keep, 1), ("restarts", restarts, 0))  # fmt: skip
    for name, value, least in wholes:
        if value is None and name in ("epochs", "steps"):
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            problems.append(f"{name} is {value!r}; give a whole number from {least}")
    if isinstance(task.seed, bool) or not isinstance(task.seed, int) or task.seed < 0:
        problems.append(f"seed is {task.seed!r}; give a whole number from 0")
    problems += plan_problems(task.plan, pin=task.pin and not launched) + problem_of(task.plan, problem)
    problems += _device_problems(task, things.model)
    if not callable(on_slow) and on_slow not in ("replan", "tell"):
        problems.append(f"on_slow is {on_slow!r}; give 'replan', 'tell' or a function")
    if launched:
        workers = task.plan.workers
        if (world := int(os.environ["WORLD_SIZE"])) != workers:
            problems.append(f"torchrun has started {world} workers, and the plan has {workers}; start as many as it has, or plan for {world}")  # fmt: skip
        if folder is None:
            problems.append("under torchrun give folder=, the same for all workers, on a disk that all hosts share")
    start, more = _start(folder, resume)
    raise_all(problems + more, "train")
    return start


def _things_problems(things: Things) -> list[str]:
    from torch import nn

    from splitplan.executor.training_data import check_data
    from splitplan.models.traced import Traced

    found = []
    if not isinstance(things.model, (nn.Module, Traced)):
        found.append(f"the model is a {type(things.model).__name__}; give a torch.nn.Module")
    found += _hook_problems(things.model)
    found += check_data(things.data)
    functions = {"optimizer": things.optimizer, "loss_fn": things.loss_fn}
    functions |= {"scheduler": things.scheduler} if things.scheduler is not None else {}
    return found + [
        f"{name} is a {type(f).__name__}; give a function" for name, f in functions.items() if not callable(f)
    ]


def _hook_problems(model: Any) -> list[str]:
    """Hooks of parameters are not pickled, and would see the gradients of a part of the batch."""
    from torch import nn

    own = model.named_parameters() if isinstance(model, nn.Module) else ()
    hooked = [n for n, p in own if p._backward_hooks or getattr(p, "_post_accumulate_grad_hooks", None)]
    text = (
        f"parameters have hooks, which do not come with them to the workers: {listed(hooked)}; remove them, and let the optimizer do it: "
        "what it is given are the gradients of the whole batch"
    )
    return [text] if hooked else []


def _device_problems(task: Task, model: Any) -> list[str]:
    import torch

    if task.device == "cpu":
        return []
    if task.device != "cuda":
        return [f"device is {task.device!r}; give 'cpu' or 'cuda'"]
    needed, here = int(os.environ.get("LOCAL_WORLD_SIZE", task.plan.workers)), torch.cuda.device_count()
    found = [] if here >= needed else [f"{needed} workers on this host need a GPU each, and torch sees {here}"]
    if not isinstance(model, torch.nn.Module):
        found.append("a Traced is trained on the CPU; give the module")
    return found


def plan_problems(plan: TrainingPlan, pin: bool) -> list[str]:
    """Why a plan cannot be run here."""
    found = []
    replicas = sorted({s.replicas for s in plan.stages})
    if len(replicas) > 1:
        found.append(
            f"stages have {' and '.join(map(str, replicas))} replicas; only plans with as many in every stage can be run, others are for study"
        )
    if plan.schedule == "1f1b" and plan.micro_batches < len(plan.stages):
        found.append(f"1f1b of {len(plan.stages)} stages needs as many micro-batches, and the plan has {plan.micro_batches}; take gpipe")  # fmt: skip
    here = cores_here()
    if pin and plan.cores > here:
        found.append(f"the plan uses {plan.cores} cores, and this process may use {here}; plan for {here}, or give pin=False to try it, slower than predicted")  # fmt: skip
    return found


def _start(folder: Any, resume: Any) -> tuple[str | None, list[str]]:
    from splitplan.executor.training_state import checkpoints

    has = checkpoints(Path(folder)) if folder is not None else []
    if resume == "auto":
        return None, []
    if resume is False:
        return None, [f"{folder} has checkpoints up to {has[-1].name}; give resume='auto' to go on, or another folder"] if has else []  # fmt: skip
    if not isinstance(resume, (str, os.PathLike)):
        return None, [f"resume is {resume!r}; give 'auto', a checkpoint or False"]
    path = Path(resume).absolute()
    inside = checkpoints(path)
    found = inside[-1] if inside else path
    if found not in checkpoints(found.parent):
        return None, [f"resume: {path} is no checkpoint, and holds none"]
    if has and found not in has:
        return None, [f"{folder} has checkpoints of its own, up to {has[-1].name}; give resume='auto' to go on from those, or another folder"]  # fmt: skip
    return str(found), []


def mode_problems(model: Any) -> list[str]:
    """Why a module cannot be trained as it is: in eval mode it would be another training, and its plan another model's."""
    if getattr(model, "training", True):
        return []
    return [
        "the model is in eval mode, in which it is not trained: call model.train() first; parts of it may be in eval mode"
    ]
