"""What torchrun starts for ``benchmarks.torch_pipeline``: one stage of a plan in each process, or all layers in one.

``torchrun --nproc-per-node N -m benchmarks.torch_pipeline_run TASK``, TASK being JSON; the last process prints ``fps`` and ``gap`` of each of the task's schedules.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import pipelining

from splitplan.data.pipeline_plan import PipelinePlan
from splitplan.models.partition import Part, make_parts
from splitplan.models.traced import load_traced


class Positional(torch.nn.Module):
    """A part called by position, as torch's stages call their modules."""

    def __init__(self, part: Part, symbols: dict[str, int]) -> None:
        super().__init__()
        self.part, self.module, self.symbols = part, part.module, symbols  # the module, so that its weights are found

    def forward(self, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Its outputs, for its inputs."""
        names = [spec.name for spec in self.part.inputs]
        return tuple(self.part(dict(zip(names, values, strict=True)), self.symbols).values())


def _alone(parts: list[Positional], batch: torch.Tensor, size: int) -> Callable[[], Any]:
    """All layers by this process, frame by frame."""
    (whole,) = parts
    return lambda: torch.cat([whole(one)[0] for one in batch.split(size)])


def _by_torch(name: str, parts: list[Positional], batch: torch.Tensor, rank: int, frames: int) -> Callable[[], Any]:
    """The stage of this process under one of torch's schedules."""
    stage = pipelining.PipelineStage(parts[rank], rank, len(parts), torch.device("cpu"))
    schedule = getattr(pipelining, name)(stage, n_microbatches=frames)
    return lambda: schedule.eval(*[batch] * (rank == 0))


def main(task: dict[str, Any]) -> None:
    """By each schedule in turn run a step to warm up and one that is timed; every micro-batch is a frame."""
    dist.init_process_group("gloo")
    rank, frames = dist.get_rank(), task["frames"]
    traced, plan = load_traced(task["model"]), PipelinePlan.read(task["plan"])
    inputs = traced.example_inputs()
    (example,), symbols = inputs.values(), traced.symbols(inputs)
    batch = torch.cat([example] * frames)
    alone = task["schedules"] == ["alone"]
    places = {name: "a" if alone else str(k) for k, stage in enumerate(plan.stages) for name in stage.layers}
    parts = [Positional(part, symbols).eval() for part in make_parts(traced, places)]
    found: dict[str, dict[str, float]] = {}
    with torch.inference_mode():
        for name in task["schedules"]:
            step = _alone(parts, batch, len(example)) if alone else _by_torch(name, parts, batch, rank, frames)
            for _ in range(2):
                dist.barrier()
                start = time.perf_counter()
                made = step()
                dist.barrier()
                taken_s = time.perf_counter() - start
            if rank == dist.get_world_size() - 1:
                made = made[0] if isinstance(made, tuple) else made
                expected = traced.module()(example)
                expected = expected[0] if isinstance(expected, tuple) else expected
                gap = float((made - torch.cat([expected] * frames)).abs().max() / expected.abs().max())
                found[name] = {"fps": frames / taken_s, "gap": gap}
    if found:
        print(json.dumps(found), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
