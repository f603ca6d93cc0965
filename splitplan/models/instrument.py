"""Seconds per layer: a part's code with clock readings between its layers, for the profiler."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import fx

from splitplan.models.assemble import assemble
from splitplan.models.partition import Part, names
from splitplan.models.row_parts import RowPart, stamped_rows


@dataclass(frozen=True, eq=False)
class Instrumented:
    """A part that tells how long each of its layers took. Made by `instrument`.

    The readings stand between the generated calls, so the intervals include the dispatch, and sum to
    the whole but for the readings themselves. Nodes that depend on no data are timed with the layer that
    needs them first. On CUDA the readings are events on the current stream: device time between the layers'
    kernels, read after one synchronization behind the last layer.
    """

    part: Part
    module: fx.GraphModule

    def __call__(
        self, values: Mapping[str, torch.Tensor], symbols: Mapping[str, int]
    ) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
        """The part's outputs by name, and seconds by layer name.

        Raises
        ------
        BoundaryError
            As the part itself.
        """
        on_cuda = self.part.device.type == "cuda"
        with torch.no_grad(), torch.cuda.device(self.part.device) if on_cuda else nullcontext():
            made = self.module(*self.part.arguments(values, symbols))
        count = len(self.part.outputs)
        outputs = {spec.name: value for spec, value in zip(self.part.outputs, made[:count], strict=True)}
        stamps = made[count:]
        if on_cuda:
            stamps[-1].synchronize()
            seconds = [a.elapsed_time(b) / 1e3 for a, b in pairwise(stamps)]
        else:
            seconds = [b - a for a, b in pairwise(stamps)]
        return outputs, dict(zip(self.part.layers, seconds, strict=True))


def instrument(part: Part) -> Instrumented:
    """The same part, timed layer by layer. Shares its weights."""
    stamp = _cuda_stamp if part.device.type == "cuda" else time.perf_counter
    takes, gives = names(part.inputs), names(part.outputs)
    if isinstance(part, RowPart):
        module = stamped_rows(part, stamp)
    else:
        module = assemble(part.traced, part.layers, takes, gives, part.numbers, part.device, stamp)
    for name, weight in (*part.module.named_parameters(), *part.module.named_buffers()):
        setattr(module, name, weight)
    return Instrumented(part, module)


def _cuda_stamp() -> Any:
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event
