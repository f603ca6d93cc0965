"""What torchrun starts for ``benchmarks.torch_pipeline``: one stage of a plan in each process, or all layers in one.

``torchrun --nproc-per-node N -m benchmarks.torch_pipeline_run TASK``, TASK being JSON; the last process prints ``fps`` and ``gap``.
"""

from __future__ import annotations

import json
import sys
import time
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


def main(task: dict[str, Any]) -> None:
    """Run a step to warm up and one that is timed; every micro-batch is a frame."""
    dist.init_process_group("gloo")
    rank, frames = dist.get_rank(), task["frames"]
    traced, plan = load_traced(task["model"]), PipelinePlan.read(task["plan"])
    inputs = traced.example_inputs()
    (example,), symbols = inputs.values(), traced.symbols(inputs)
    batch = torch.cat([example] * frames)
    alone = task["schedule"] == "alone"
    places = {name: "a" if alone else str(k) for k, stage in enumerate(plan.stages) for name in stage.layers}
    parts = [Positional(part, symbols).eval() for part in make_parts(traced, places)]
    with torch.inference_mode():
        if alone:
            (whole,) = parts
            for _turn in range(2):
                start = time.perf_counter()
                made = torch.cat([whole(one)[0] for one in batch.split(len(example))])
                taken_s = time.perf_counter() - start
        else:
            stage = pipelining.PipelineStage(parts[rank], rank, len(parts), torch.device("cpu"))
            schedule = getattr(pipelining, task["schedule"])(stage, n_microbatches=frames)
            for _ in range(2):
                dist.barrier()
                start = time.perf_counter()
                made = schedule.eval(*[batch] * (rank == 0))
                dist.barrier()
                taken_s = time.perf_counter() - start
        if rank == dist.get_world_size() - 1:
            made = made[0] if isinstance(made, tuple) else made
            expected = traced.module()(example)
            expected = expected[0] if isinstance(expected, tuple) else expected
            gap = float((made - torch.cat([expected] * frames)).abs().max() / expected.abs().max())
            print(json.dumps({"fps": frames / taken_s, "gap": gap}), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
