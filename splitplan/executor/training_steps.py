"""One iteration on one worker: plain, data parallel, by columns, or as a stage of a pipeline, on torch's own engines."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, parallelize_module
from torch.nn.parallel import DistributedDataParallel

from splitplan.data.training_plan import TrainingPlan
from splitplan.executor.training_data import Batch, Share, tensors
from splitplan.executor.training_ends import enter, leave
from splitplan.executor.training_probe import Probed, check_weights, probe
from splitplan.executor.training_theirs import loss_of


@dataclass(frozen=True)
class Place:
    """Which worker this is.

    Parameters
    ----------
    stage, replica : int
    share : Share
        What it takes of a batch.
    """

    stage: int
    replica: int
    share: Share

    @classmethod
    def of(cls, plan: TrainingPlan, rank: int) -> Place:
        """Of a rank; all stages have the same number of replicas."""
        stage, replica = divmod(rank, plan.stages[0].replicas)
        return cls(stage, replica, Share(plan.batch, plan.micro_batches, plan.stages[0].replicas, replica))


def now() -> float:
    """Seconds, once all that was asked for has been computed."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
    return time.monotonic()


class Events:
    """What a worker did in a step and when: ``what, micro, start, end`` by `time.monotonic`."""

    def __init__(self) -> None:
        self.all: list[tuple[str, int, float, float]] = []
        self.ready_s = 0.0
        """When the last gradients of its own were there, to be added to those of the other replicas."""

    def add(self, what: str, micro: int, start: float) -> None:
        """It has just ended."""
        self.all.append((what, micro, start, now()))

    def add_backward(self, micro: int, start: float) -> None:
        """As `add`; waiting for other replicas' gradients at its end is an event of its own."""
        if self.ready_s <= start:
            self.add("backward", micro, start)
            return
        self.all.append(("backward", micro, start, self.ready_s))
        self.add("sync", micro, self.ready_s)

    def seconds(self, *what: str) -> float:
        """All of these together."""
        return sum(end - start for w, _, start, end in self.all if w in what)


class Boundary(nn.Module):
    """A stage whose outputs can be sent: gloo takes contiguous tensors only.

    Parameters
    ----------
    stage : nn.Module
    loose : bool
        The loss may leave out some of the model's outputs.
    zeros : bool
        What it leaves out has a gradient of zeros, and not none: layers by columns exchange it with workers whose loss may take it.
    copy : bool
        The loss may write into the outputs.
    """

    def __init__(self, stage: nn.Module, loose: bool, zeros: bool, copy: bool) -> None:
        super().__init__()
        self.stage = stage
        self._loose, self._zeros, self._copy = loose, zeros, copy

    def forward(self, *inputs: torch.Tensor) -> Any:
        """What the stage makes."""
        made = self.stage(*(enter(inputs) if self._loose else inputs))
        many = isinstance(made, (tuple, list))
        values = [t.contiguous() for t in (made if many else (made,))]
        if self._loose:
            values = leave(values, self._zeros, self._copy)
        return tuple(values) if many else values[0]


class MeasuredStage(PipelineStage):
    """torch's stage, which tells the module which samples come next and writes down when it computed.

    On CPUs it is ready to receive all of a step from the step's beginning. torch's schedules ask for a micro-batch when it is needed,
    and gloo sends nothing before it is asked for: the stage would wait for every transfer, however long ago its input was made.
    """

    def __init__(self, engine: Engine, micro_batches: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._engine, self._micro_batches = engine, micro_batches
        self._coming: dict[tuple[str, int], list[dist.Work]] = {}

    def get_fwd_recv_ops(self, fwd_chunk_id: int) -> list[dist.P2POp]:
        """As torch's; on CPUs nothing is left to be asked for."""
        if self.device.type != "cpu":
            return super().get_fwd_recv_ops(fwd_chunk_id)
        if fwd_chunk_id == 0:
            for k in range(self._micro_batches):
                self._coming["forward", k] = _asked(super().get_fwd_recv_ops(k))
                self._coming["backward", k] = _asked(super().get_bwd_recv_ops(k))
        return []

    def get_bwd_recv_ops(self, bwd_chunk_id: int) -> list[dist.P2POp]:
        """As torch's; on CPUs nothing is left to be asked for."""
        return super().get_bwd_recv_ops(bwd_chunk_id) if self.device.type != "cpu" else []

    def _received(self, what: str, micro: int) -> None:
        """Wait until it is there."""
        for work in self._coming.pop((what, micro), ()):
            work.wait()

    def forward_one_chunk(self, fwd_chunk_id: int, *args: Any, **kwargs: Any) -> Any:
        """As torch's."""
        self._received("forward", fwd_chunk_id)
        self._engine.at(fwd_chunk_id)
        start = now()
        made = super().forward_one_chunk(fwd_chunk_id, *args, **kwargs)
        self._engine.events.add("forward", fwd_chunk_id, start)
        return made

    def backward_one_chunk(self, bwd_chunk_id: int, *args: Any, **kwargs: Any) -> None:
        """As torch's."""
        self._received("backward", bwd_chunk_id)
        start = now()
        super().backward_one_chunk(bwd_chunk_id, *args, **kwargs)
        self._engine.events.add_backward(bwd_chunk_id, start)


def _asked(ops: list[dist.P2POp]) -> list[dist.Work]:
    """Receiving begins."""
    found = [op.op(op.tensor, group=op.group, tag=op.tag, group_src=op.group_peer) for op in ops]
    return [work for work in found if work is not None]


class Engine:
    """Computes gradients of one batch after another.

    The loss is the mean over the batch: each worker weighs what its samples lose by one over micro-batches × replicas, and gradients
    are added up, over micro-batches in their order and then over replicas. Of layers whose columns are shared each replica has all
    samples, so their gradients are whole as they are.

    Parameters
    ----------
    tm : TrainingModel
        What `splitplan.models.training.training_model` made.
    plan : TrainingPlan
    place : Place
    mesh : DeviceMesh
        Stages × replicas, ``("pp", "dp")``.
    loss_fn : callable
    seed : int
    first : Batch
        Any batch; shapes are found with it.
    tell : callable
        Told what this worker's samples lose, once in each step and as early as that is known: nothing waits for it.
    """

    def __init__(
        self, tm: Any, plan: TrainingPlan, place: Place, mesh: DeviceMesh, loss_fn: Callable[..., Any], seed: int, first: Batch,
        tell: Callable[[float], None],
    ) -> None:  # fmt: skip
        self._tm, self._plan, self._place, self._loss_fn, self._tell = tm, plan, place, loss_fn, tell
        stage = plan.stages[place.stage]
        begin, end = plan.ends()[place.stage]
        self.module: nn.Module = tm.stage(begin, end, place.share.samples, stage.columns)
        self.module.seed = seed
        self.events = Events()
        self._device = first.device
        self._step, self._lost = 0, 0.0
        self._y: Any = None
        found = probe(self.module, tm, plan, place, loss_fn, first)
        self._parallelize(stage.columns, mesh)
        self._replicas = mesh["dp"].get_group()
        last = place.stage == len(plan.stages) - 1
        loose = len(tm.crossing(plan.ends()[-1][1], place.share.samples)) > 1 and plan.workers > 1
        whole = self._data_parallel(Boundary(self.module, loose, bool(stage.columns), last), found, loose)
        left_out = found.unreached if place.share.replicas > 1 else ()
        self._own = {id(p) for n, p in self.module.named_parameters() if n not in left_out}
        self._run = self._pipeline(whole, mesh, found) if len(plan.stages) > 1 else self._plain(whole)

    # -- making it ready -----------------------------------------------------------------------------

    def _parallelize(self, columns: tuple[str, ...], mesh: DeviceMesh) -> None:
        if not columns:
            return
        modules: dict[str, str] = self.module.column_modules  # type: ignore[assignment]
        style: dict[str, ParallelStyle] = {
            modules[v]: ColwiseParallel(input_layouts=Shard(0), output_layouts=Shard(0)) for v in columns
        }
        parallelize_module(self.module, mesh["dp"], style)
        for name in style:  # what it gives is a view, in which a ReLU may not write
            self.module.get_submodule(name).register_forward_hook(lambda module, given, made: made.clone())

    def _data_parallel(self, whole: Boundary, found: Probed, loose: bool) -> nn.Module:
        if self._place.share.replicas == 1:
            return whole
        left_out = {
            n
            for n, p in whole.named_parameters()
            if isinstance(p, DTensor) or n.removeprefix("stage.") in found.unreached
        }
        if not any(p.requires_grad and n not in left_out for n, p in whole.named_parameters()):
            return whole
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(whole, list(left_out))  # type: ignore[no-untyped-call]
        # Buffers stay each replica's own, see `training_state`; weights are equal already. Of weights that no replica's loss reaches
        # in a step it then leaves the gradient as it is: none.
        parallel = DistributedDataParallel(
            whole,
            process_group=self._replicas,
            forward_sync_buffers=False,
            init_sync=False,
            find_unused_parameters=loose,
            gradient_as_bucket_view=True,
        )
        parallel.register_comm_hook(None, lambda _, bucket: self._add_up(bucket))
        return parallel

    def _add_up(self, bucket: Any) -> Any:
        self.events.ready_s = now()
        work = dist.all_reduce(bucket.buffer(), group=self._replicas, async_op=True)
        assert work is not None
        return work.get_future().then(lambda done: done.value()[0])

    def _plain(self, whole: nn.Module) -> Callable[[Batch], None]:
        many = self._plan.micro_batches

        def run(batch: Batch) -> None:
            inputs = self._tm.inputs(batch.x)
            for j in range(many):
                waits = isinstance(whole, DistributedDataParallel) and j < many - 1
                with whole.no_sync() if waits else nullcontext():  # type: ignore[operator]
                    self.at(j)
                    start = now()
                    made = whole(*(self._place.share.of(t, j) for t in inputs))
                    self.events.add("forward", j, start)
                    loss = self._loss(made, j)
                    start = now()
                    loss.backward()  # type: ignore[no-untyped-call]
                    self.events.add_backward(j, start)

        return run

    def _pipeline(self, whole: nn.Module, mesh: DeviceMesh, found: Probed) -> Callable[[Batch], None]:
        plan, place = self._plan, self._place
        stage = MeasuredStage(
            self, plan.micro_batches, whole, place.stage, len(plan.stages), self._device,
            input_args=found.inputs, output_args=found.outputs, group=mesh["pp"].get_group(),
        )  # fmt: skip
        # What is lost is weighted already.
        kind = {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B}[plan.schedule]
        schedule = kind(
            stage, plan.micro_batches, loss_fn=lambda made, at: self._loss(made, int(at)), scale_grads=False
        )
        numbers = torch.arange(plan.micro_batches)

        def run(batch: Batch) -> None:
            inputs = tuple(place.share.whole(t) for t in self._tm.inputs(batch.x)) if place.stage == 0 else ()
            last = place.stage == len(plan.stages) - 1
            schedule.step(*inputs, target=numbers if last else None, return_outputs=False)

        return run

    def weights(self) -> list[list[nn.Parameter]]:
        """What optimizers are given, one each: all weights to be trained, in the model's order, and those that are shared by columns.

        An optimizer's fused loops take tensors of one kind. It leaves alone what has no gradient in a step, as in a plain loop.
        """
        found = [p for p in self.module.parameters() if p.requires_grad]
        plain, shared = ([p for p in found if isinstance(p, DTensor) == by_columns] for by_columns in (False, True))
        return [k for k in (plain, shared) if k]

    # -- running it ----------------------------------------------------------------------------------

    def at(self, micro: int) -> None:
        """Tell the module which samples come next: masks of dropout depend on it."""
        self.module.at(self._step, self._place.share.first(micro))  # type: ignore[operator]

    def _loss(self, made: Any, micro: int) -> torch.Tensor:
        start = now()
        target = self._place.share.of(self._y, micro)
        lost = loss_of(self._loss_fn, self._tm.unflatten(made), target, f" at step {self._step}")
        check_weights(lost, tensors(made), self._own, self._tm.model, self._loss_fn)
        part = lost / (self._plan.micro_batches * self._place.share.replicas)
        self._lost += float(part.detach())
        if micro == self._plan.micro_batches - 1:
            self._tell(self._lost)
        self.events.add("loss", micro, start)
        return part

    def step(self, number: int, batch: Batch) -> None:
        """Gradients of a batch."""
        self._step, self._lost, self._y = number, 0.0, batch.y
        self.events = Events()
        torch.manual_seed(number)  # what a loss draws is the same after a restart
        if self._place.stage < len(self._plan.stages) - 1:
            self._tell(0.0)
        self._run(batch)
