"""A worker that trains: the loop over batches, on one rank. ``python -m splitplan.executor.training_worker FOLDER`` under torchrun.

Under a torchrun of the user's own `splitplan.train` runs the `Loop` in the user's process.
"""

from __future__ import annotations

import json
import math
import os
import platform
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from splitplan.errors import DataError, SplitplanError, TrainingError
from splitplan.executor.environment import leave
from splitplan.executor.training_job import ASK, Task, Things, failed, refuse, refused, worker_file, write_done
from splitplan.executor.training_theirs import optimizer_of, scheduler_of, theirs

if TYPE_CHECKING:
    from splitplan.executor.training_data import Batch
    from splitplan.executor.training_steps import Engine


def main(argv: Sequence[str]) -> int:
    """Train as the rank that torchrun made this process; the exit code is not 0 when starting again may help."""
    folder = Path(argv[0])
    if (
        refused(folder) is not None
    ):  # it would fail again: end before anything is loaded, and torchrun has nothing to start again
        return 0
    _end_with_parent()
    rank = int(os.environ["RANK"])
    loop = None
    try:
        task = Task.read(folder)
        bind(task)
        sys.path[:0] = [p for p in task.paths if p not in sys.path]
        import torch.distributed as dist

        dist.init_process_group(backend_of(task))
        loop = Loop(task, Things.read(folder), folder)
        loop.run()
        dist.destroy_process_group()
    except SplitplanError as e:
        refuse(folder, rank, e, traceback.format_exc())
        sys.stderr.write(f"{e}\n")
        return 1  # the others wait for this one; torchrun ends them
    except Exception as e:
        step = loop.step if loop is not None else 0
        # torch raises this wherever this process is when a loader's own process has died.
        if "DataLoader worker" in str(e):
            refuse(folder, rank, TrainingError(f"the data loader failed at step {step}: {e}"), traceback.format_exc())
        elif failed(folder, rank, step, e, traceback.format_exc()):
            text = f"failed twice in the same way at step {step}: {type(e).__name__}: {e}"
            refuse(folder, rank, TrainingError(text), traceback.format_exc())
        raise
    return 0


def _end_with_parent() -> None:
    """The launcher's standard input, and so ours, is a pipe from the process that called `splitplan.train`: it ends when that does."""

    def wait() -> None:
        while os.read(0, 4096):
            pass
        os._exit(0)  # not an error: torchrun is to start nothing again

    threading.Thread(target=wait, name="splitplan parent watch", daemon=True).start()


def bind(task: Task) -> None:
    """Bind this process to its worker's cores among those that it may use, before it starts any thread.

    Raises
    ------
    DataError
        There are too few.
    """
    if not _can_bind(task):
        return
    k, threads = int(os.environ["LOCAL_RANK"]), task.plan.threads
    here = sorted(os.sched_getaffinity(0))
    mine = [here[i] for i in (task.order or range(len(here)))[k * threads : (k + 1) * threads]]
    if len(mine) < threads:
        needed = int(os.environ["LOCAL_WORLD_SIZE"]) * threads
        raise DataError(
            f"the plan's workers on this host need {needed} cores, and it has {len(here)}; give pin=False to try it, slower than predicted",
            "train",
        )
    os.sched_setaffinity(0, mine)


def _can_bind(task: Task) -> bool:
    return task.pin and hasattr(os, "sched_setaffinity")


def backend_of(task: Task) -> str:
    """Of torch's process group: what is agreed on is always on the CPU."""
    return "cpu:gloo,cuda:nccl" if task.device == "cuda" else "gloo"


class Loop:
    """The loop of one rank of torch's process group.

    Parameters
    ----------
    task : Task
    things : Things
    folder : Path
    share_weights : bool
        Begin with the weights of rank 0: scripts that several processes run may have made others.
    """

    def __init__(self, task: Task, things: Things, folder: Path, share_weights: bool = False) -> None:
        import torch
        import torch.distributed as dist

        from splitplan.executor.training_data import Batches
        from splitplan.executor.training_state import weights_of

        torch.set_num_threads(task.plan.threads)
        self.step = 0
        """That it works on."""
        self._task, self._things, self._folder = task, things, folder
        self._device = torch.device("cpu")
        if task.device == "cuda":
            self._device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(self._device)
            things.model.to(self._device)
        self._rank, self._asked = dist.get_rank(), False
        self._file = worker_file(folder, self._rank)
        self._batches = Batches(things.data, task.plan.batch, task.seed)
        self._first: int | None = None
        if share_weights:
            for value in weights_of(things.model).values():
                dist.broadcast(value.detach(), src=0)

    def run(self) -> None:
        """Train, to the end or until it is asked to stop.

        Raises
        ------
        TrainingError, DataError
            What starting again would not mend.
        """
        import torch.distributed as dist

        from splitplan.executor.training_data import checksum
        from splitplan.executor.training_state import checkpoints, read_facts

        task = self._task
        path = self._from()
        epoch = 0 if path is None else read_facts(path).epoch
        first = self._batches.first(epoch if task.epochs is None else min(epoch, task.epochs - 1))
        self._prepare(first.to(self._device))
        start = self._facts(0, 0, 0) if path is None else self._state.load(path, self._facts(0, 0, 0))
        step, epoch, skip = start.step, start.epoch, start.position
        if skip and first.epoch == epoch:
            self._first = checksum(first)
            start.check_first(self._first, str(path))
        self._say(
            {
                "run": task.run,
                "pid": os.getpid(),
                "host": platform.node(),
                "from_step": step,
                "cores": sorted(os.sched_getaffinity(0)) if _can_bind(task) else [],
                "restarts": _restarts(),
            }
        )
        saved, asked = step, False
        position = skip
        while not asked and not self._over(step, epoch):
            for batch in self._batches.epoch(epoch, skip):
                if batch.position == 0:
                    self._check_alike(batch)
                step, position = step + 1, batch.position + 1
                self.step = step
                asked = self._step(step, batch.to(self._device))
                over = self._over(step, epoch)
                if asked or over or step % task.checkpoint_every == 0:
                    self._save(step, epoch, position)
                    saved = step
                if asked or over:
                    break
            else:
                epoch, skip, position = epoch + 1, 0, 0
        if saved != step or not checkpoints(self._folder):
            self._save(step, epoch, position)
        if self._rank == 0:
            write_done(self._folder, step, asked)
        dist.barrier()  # rank 0 has written all that the others read

    # -- before the first step -----------------------------------------------------------------------

    def _prepare(self, first: Batch) -> None:
        import torch
        from torch.distributed.device_mesh import init_device_mesh
        from torch.utils import _pytree as pytree

        from splitplan.executor.training_state import State
        from splitplan.executor.training_steps import Engine, Place
        from splitplan.models.training import training_model

        task, plan = self._task, self._task.plan
        few = pytree.tree_map_only(torch.Tensor, lambda t: t[:2] if len(t) > 1 else torch.cat([t, t]), first.x)
        self._tm = training_model(self._things.model, few, name=plan.model, verify=_restarts() == 0)
        _check_model(self._tm, plan)
        if self._tm.mixes and (plan.micro_batches > 1 or any(s.replicas > 1 for s in plan.stages)):
            raise DataError(
                "what comes of a sample depends on the others of its batch, and not by batch norm alone, so that a batch in parts would be "
                "another training; plan with whole_batch=True, or have the model treat samples one by one",
                f"model {plan.model!r}",
            )
        mesh = init_device_mesh(task.device, (len(plan.stages), plan.stages[0].replicas), mesh_dim_names=("pp", "dp"))
        place = Place.of(plan, self._rank)
        self._engine: Engine = Engine(self._tm, plan, place, mesh, self._things.loss_fn, task.seed, first, self._tell)
        self._optimizers = [optimizer_of(self._things.optimizer, w) for w in self._engine.weights()]
        schedule = self._things.scheduler
        self._schedulers = [scheduler_of(schedule, o) for o in self._optimizers] if schedule else []
        self._state = State(self._engine.module, self._optimizers, self._schedulers, mesh["dp"].get_group())

    def _facts(self, step: int, epoch: int, position: int) -> Any:
        from splitplan.executor.training_state import Facts

        plan = self._task.plan
        first = self._first if position else None
        return Facts(step, epoch, position, self._task.seed, plan.batch, self._tm.fingerprint, first)

    def _from(self) -> Path | None:
        """The checkpoint to begin from."""
        from splitplan.executor.training_state import checkpoints

        kept = checkpoints(self._folder)
        if kept:
            return kept[-1]
        return Path(self._task.resume) if self._task.resume is not None else None

    # -- steps ---------------------------------------------------------------------------------------

    def _over(self, step: int, epoch: int) -> bool:
        task = self._task
        return (task.steps is not None and step >= task.steps) or (task.epochs is not None and epoch >= task.epochs)

    def _check_alike(self, batch: Batch) -> None:
        import torch
        import torch.distributed as dist

        from splitplan.executor.training_data import checksum

        self._first = checksum(batch)
        mine = torch.tensor([self._first])
        all_of_them = [torch.zeros_like(mine) for _ in range(dist.get_world_size())]
        dist.all_gather(all_of_them, mine)
        others = [k for k, x in enumerate(all_of_them) if int(x) != int(all_of_them[0])]
        if others:
            raise DataError(
                f"gives worker {others[0]} another first batch than worker 0. Each worker takes its own part of the same batches: seed the loader "
                "(torch's, Python's and NumPy's global random numbers are seeded before each epoch), and give it no DistributedSampler",
                f"data, epoch {batch.epoch}",
            )

    def _tell(self, lost: float) -> None:
        """Begin to add up what all workers lose: it is done in the background, long before the last gradients are there."""
        import torch
        import torch.distributed as dist

        self._told = torch.tensor([lost, float(self._asked)], dtype=torch.float64)
        self._agreed: Any = dist.all_reduce(self._told, async_op=True)

    def _step(self, step: int, batch: Batch) -> bool:
        """One iteration; whether workers were asked to stop."""
        start = time.monotonic()
        self._asked = self._rank == 0 and (self._folder / ASK).exists()
        self._engine.step(step, batch)
        computed = time.monotonic()
        self._agreed.wait()
        loss, asked = float(self._told[0]), bool(self._told[1])
        if not math.isfinite(loss):
            from splitplan.executor.training_state import last_one

            raise TrainingError(
                f"the loss is {loss} at step {step} (epoch {batch.epoch}, batch {batch.position}); its gradients were not used. {last_one(self._folder)}"
            )
        begin = time.monotonic()
        for optimizer in self._optimizers:
            theirs("optimizer", optimizer.step, when=f" at step {step}")
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)
        for scheduler in self._schedulers:
            theirs("scheduler", scheduler.step, when=f" at step {step}")
        end = time.monotonic()
        events = self._engine.events
        self._say(
            {
                "step": step, "epoch": batch.epoch, "loss": loss, "start": start, "end": end,
                "forward_s": events.seconds("forward", "loss"), "backward_s": events.seconds("backward"),
                "sync_s": events.seconds("sync"), "agree_s": begin - computed, "update_s": end - begin, "events": events.all,
            }
        )  # fmt: skip
        return asked

    def _save(self, step: int, epoch: int, position: int) -> None:
        start = time.monotonic()
        self._state.save(self._folder, self._facts(step, epoch, position), self._task.keep)
        self._say({"saved": step, "checkpoint_s": time.monotonic() - start})

    def _say(self, line: dict[str, Any]) -> None:
        with self._file.open("a", encoding="utf-8") as file:
            # One that was killed while it wrote has left a line without an end.
            file.write("\n" * ("run" in line) + json.dumps(line) + "\n")


def _restarts() -> int:
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def _check_model(tm: Any, plan: Any) -> None:
    """Raise unless the plan is for this model."""
    from splitplan.errors import FingerprintError, listed, raise_all

    if tm.fingerprint != plan.fingerprint:
        raise FingerprintError(
            f"the plan is for a model {plan.model!r} with fingerprint {plan.fingerprint[:12]}…, this one's is {tm.fingerprint[:12]}…; profile this model and plan anew"
        )
    has, takes = [x.name for x in tm.layers], [v for s in plan.stages for v in s.layers]
    if has != takes:
        at = next((i for i, (a, b) in enumerate(zip(has, takes, strict=False)) if a != b), min(len(has), len(takes)))
        raise DataError(
            f"the plan's layers are not the model's {len(has)} in their order: they part at position {at}", "train"
        )
    lost = [w.name for w in tm.written_buffers() if not w.persistent]
    steering = [w.name for w in tm.written_buffers(steering=True)] if plan.stages[0].replicas > 1 else []
    problems = []
    if lost:
        problems.append(
            f"forward writes into {listed(lost)}, which no checkpoint would hold: it is not in the state_dict; give it to register_buffer with persistent=True"
        )
    if steering:
        problems.append(
            f"forward writes into {listed(steering)} and its output depends on it: replicas, each of which sees other samples, would train by "
            "other values, and go on from a checkpoint by those of the first; take a plan without replicas, as HybridTraining(…, whole_batch=True) finds"
        )
    raise_all(problems, f"model {tm.name!r}")


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
