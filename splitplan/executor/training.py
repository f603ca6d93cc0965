"""Training by a plan: on this machine's cores, or as a rank of the user's own torchrun."""

from __future__ import annotations

import os
import sys
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from splitplan.data.training_plan import TrainingPlan
from splitplan.errors import SplitplanError
from splitplan.executor.training_checks import check
from splitplan.executor.training_control import Control, Cores, Replan, replan_of
from splitplan.executor.training_job import THINGS, Task, Things, clear, held, make_folder
from splitplan.executor.training_report import TrainingReport, make_report
from splitplan.executor.training_watch import Progress, Records, watch

if TYPE_CHECKING:
    import pandas as pd

    from splitplan.formulations.training import HybridTraining


@dataclass(frozen=True)
class Trainer:
    """A training that has ended; the model holds the trained weights.

    Parameters
    ----------
    model : torch.nn.Module or Traced
    folder : Path
        Checkpoints, and what the workers wrote.
    checkpoint : Path
        The last one: where the weights are from.
    report : TrainingReport
    losses : DataFrame
        ``step, epoch, loss``, those of earlier runs in the same folder included; the loss of a step is the one before its update.
    """

    model: Any
    folder: Path
    checkpoint: Path
    report: TrainingReport
    losses: pd.DataFrame

    def __str__(self) -> str:
        return str(self.report)

    def _repr_html_(self) -> str:
        return self.report._repr_html_()


def train(
    model: Any,
    plan: TrainingPlan,
    data: Any,
    *,
    optimizer: Callable[..., Any],
    loss_fn: Callable[..., Any],
    scheduler: Callable[..., Any] | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    folder: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 50,
    keep: int = 2,
    seed: int = 0,
    resume: str | os.PathLike[str] | bool = "auto",
    restarts: int = 3,
    pin: bool = True,
    device: Literal["cpu", "cuda"] = "cpu",
    problem: HybridTraining | None = None,
    on_slow: Literal["replan", "tell"] | Replan = "replan",
    progress: bool | Progress | None = None,
) -> Trainer:
    """Train a model by a plan, on torch's own engines, with the same result as one process would have.

    Workers are processes that torchrun starts on this machine, each bound to the cores that the plan gives it: copies of a stage are
    torch's DistributedDataParallel, linear layers by columns its ColwiseParallel, stages its PipelineStage under ScheduleGPipe or
    Schedule1F1B, on gloo. Called in a process that torchrun has started already, on one host or several, it trains as that rank in
    this process; every rank calls it with the same arguments and a folder on a disk that all hosts share. Where that torchrun is to start
    lost workers again, set ``TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1`` for it: else they may find each other's old addresses.

    Each iteration takes a batch in micro-batches and adds up their gradients, as ``(loss_fn(model(x), y) / m).backward()`` for each
    of them does. With one copy of each stage the weights are those of that loop bit by bit, at the same number of threads; with more,
    sums have another order, and agree within rounding. Dropout's masks depend on the sample, the layer, the step and the seed, not on
    the plan. Batch norm normalises over the samples that a worker has of a micro-batch, as torch's does; its running statistics
    are those of the first copy.

    Parameters
    ----------
    model : torch.nn.Module or Traced
        In train mode; its weights are replaced by the trained ones, in place.
    plan : TrainingPlan
    data : iterable, or callable from an epoch's number to one
        Batches ``(x, y)`` of exactly ``plan.batch`` samples: a DataLoader, a list. Every worker goes through all of them and takes
        its own part; torch's, Python's and NumPy's random numbers, and a DataLoader's own generators, begin at ``seed + epoch``.
    optimizer : callable
        From a list of weights to a ``torch.optim.Optimizer``: ``lambda p: torch.optim.SGD(p, lr=0.01)``. Each worker makes one of its own weights.
    loss_fn : callable
        ``loss_fn(output, y)``, a mean over the samples.
    scheduler : callable, optional
        From an optimizer to a learning rate scheduler, which takes a step after each iteration.
    epochs, steps : int, optional
        It ends after either, counted from the very beginning when it is resumed; without both, after one epoch.
    folder : path, optional
        Where checkpoints are; a new one among temporary files when not given, which stays (``Trainer.folder``). Trusted like code: loading a checkpoint unpickles.
    checkpoint_every : int
        Iterations between checkpoints. There is always one at the end.
    keep : int
        How many checkpoints stay.
    seed : int
    resume : "auto", path or False
        ``"auto"`` goes on from the folder's newest checkpoint where there is one, which any plan may have written; a path begins from
        that checkpoint; False wants a folder without any.
    restarts : int
        How often the workers may be started again, from the last checkpoint, when one is lost.
    pin : bool
        Whether workers are bound to their cores. Without it there may be more of them than cores, to try a plan.
    device : {"cpu", "cuda"}
        ``"cuda"``: each worker computes on a GPU of its own, and they exchange by NCCL. Written for GPUs, never run on one here.
    problem : HybridTraining, optional
        That the plan is of: what is slow is then told by its predictions, and the report shows a predicted iteration beside a measured one.
    on_slow : "replan", "tell" or callable
        What to do about a worker that is slower than planned. ``"replan"`` solves the problem again with the speeds that were measured;
        when that saves more than 5 % of an iteration, and, where their number is known, more in those that are left than starting workers
        takes, training goes on by the new plan from a checkpoint, its workers on the fastest cores first. If measured iterations do not
        become that much shorter, no other plan is looked for any more; if they become that much longer, or it cannot be run, training goes
        back. ``"tell"``, or no problem, only writes it into the report. A callable makes another plan from the speed of each core, the
        fastest first and as 1.
    progress : bool or callable, optional
        Show a live table of what the workers do; by default when standard error is a terminal. A callable is told a text and the part
        that is done instead.

    Returns
    -------
    Trainer

    Raises
    ------
    DataError
        Arguments that do not fit together, batches of another size, a loss that is no mean.
    TraceError, FingerprintError
        The model cannot be cut into stages, or is not the plan's.
    TrainingError
        A loss that is NaN, a loader that dies, a disk that is full, workers that are lost too often. The last checkpoint stays.
    """
    task = Task(
        plan, uuid.uuid4().hex, 1 if epochs is None and steps is None else epochs, steps, checkpoint_every, keep, seed,
        None, pin, device, paths=import_paths(),
    )  # fmt: skip
    things = Things(model, data, optimizer, loss_fn, scheduler)
    launched = under_torchrun()
    start = check(task, things, folder, resume, restarts=restarts, problem=problem, on_slow=on_slow, launched=launched)
    task = replace(task, resume=start)
    if launched:
        assert folder is not None
        return _as_rank(task, things, make_folder(folder), problem)
    path = Path(tempfile.mkdtemp(prefix="splitplan-train-")) if folder is None else make_folder(folder)
    replan = (
        on_slow if callable(on_slow) else replan_of(problem) if on_slow == "replan" and problem is not None else None
    )
    with held(path):
        return _ended(model, path, *launch(task, things, path, restarts, progress, problem, replan))


def under_torchrun() -> bool:
    """Whether torchrun has started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def import_paths() -> tuple[str, ...]:
    """Where Python looks for modules, for workers to do so too."""
    return tuple(p for p in sys.path if p)


def launch(
    task: Task, things: Things, path: Path, restarts: int = 0, progress: bool | Progress | None = None,
    problem: HybridTraining | None = None, replan: Replan | None = None,
) -> tuple[list[tuple[TrainingPlan, Records]], list[str], list[HybridTraining | None]]:  # fmt: skip
    """Train in processes of one's own, in a folder that is nobody else's: each plan and what its workers wrote, notes, each plan's problem."""
    try:
        things.save(path)
        return _run(task, path, _total(task, things.data), restarts, progress, problem, replan)
    finally:
        (path / THINGS).unlink(missing_ok=True)  # the data is in it


def _run(
    task: Task, path: Path, total: int | None, restarts: int, progress: bool | Progress | None, problem: HybridTraining | None,
    replan: Replan | None,
) -> tuple[list[tuple[TrainingPlan, Records]], list[str], list[HybridTraining | None]]:  # fmt: skip
    """Launch workers, and others again as often as the task controller has another plan."""
    runs: list[tuple[TrainingPlan, Records]] = []
    notes: list[str] = []
    problems: list[HybridTraining | None] = []
    cores, change, settled = Cores.of(task.plan, problem), None, False
    while True:
        clear(path)
        task.save(path)
        control = Control(task.plan, path, cores, problem, replan, total, change, settled)
        try:
            records, asked = watch(task, path, restarts=restarts, total=total, progress=progress, on_news=control)
        except SplitplanError as e:
            tried = Records(path, task.plan.workers, task.plan.stages[0].replicas, task.run)
            if change is None or (tried.read() and tried.whole()):
                raise
            why = str(e).splitlines()[0]
            notes.append(f"that plan could not be run, and training went on by the one before: {why}")
            task = replace(task, plan=change.before, run=uuid.uuid4().hex, order=change.cores_before.order)
            cores, change, settled = change.cores_before, None, True
            continue
        runs.append((task.plan, records))
        problems.append(problem.with_speeds(cores.speeds) if problem is not None else None)
        notes += control.notes
        if not asked or control.next is None:
            return runs, notes, problems
        change, settled, cores = control.next, control.settled, control.next.cores
        task = replace(task, plan=change.plan, run=uuid.uuid4().hex, order=cores.order)


def _as_rank(task: Task, things: Things, folder: Path, problem: HybridTraining | None) -> Trainer:
    """Train as a rank of the user's own torchrun."""
    import torch.distributed as dist

    from splitplan.executor.training_words import all_texts
    from splitplan.executor.training_worker import Loop, backend_of, bind

    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    bind(task)
    if not dist.is_initialized():
        dist.init_process_group(
            backend_of(task)
        )  # stays, so that a script can train again: torchrun's store serves one such start
    task = replace(task, run=all_texts(task.run)[0])
    if dist.get_rank() == 0:
        clear(folder)
    try:
        Loop(task, things, folder, share_weights=True).run()
    finally:
        if before is not None:
            os.sched_setaffinity(0, before)
    records = Records(folder, task.plan.workers, task.plan.stages[0].replicas, task.run)
    records.read()
    return _ended(things.model, folder, [(task.plan, records)], [], [problem])


def _ended(
    model: Any, folder: Path, runs: list[tuple[TrainingPlan, Records]], notes: list[str], problems: list[HybridTraining | None]
) -> Trainer:  # fmt: skip
    import pandas as pd

    from splitplan.executor.training_state import checkpoints, load_weights

    last = checkpoints(folder)[-1]
    load_weights(model, last)
    every = Records(folder, 1, 1, "")
    every.read(of_all_runs=True)
    lines = [line for _, line in sorted(every.steps[0].items())]
    losses = pd.DataFrame(
        [{k: line[k] for k in ("step", "epoch", "loss")} for line in lines], columns=["step", "epoch", "loss"]
    )
    if not any(records.whole() for _, records in runs):
        done = f"{last.name} is already where epochs= and steps= end, or beyond, so no iteration was made; give more of them to go on"
        notes = [*notes, done]
    return Trainer(model, folder, last, make_report(runs, notes, problems), losses)


def _total(task: Task, data: Any) -> int | None:
    """Steps in all, where they are known."""
    length = len(data) if hasattr(data, "__len__") else None
    known = [task.steps, task.epochs * length if task.epochs is not None and length is not None else None]
    return min((k for k in known if k is not None), default=None)
