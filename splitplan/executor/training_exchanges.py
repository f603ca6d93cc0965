"""What measuring processes exchange and add up, apart from any iteration: collectives by their size, the loss, gradients to gradients."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from splitplan.models.training import TrainingModel

SIZES = (1e3, 3e4, 1e6, 1e7, 1e8)
"""Bytes of the collectives that are measured, up to the first that is larger than all that may ever be sent at once."""


def collectives(tm: TrainingModel, workers: int, samples: int, rank: int) -> list[tuple[str, int, float, float]]:
    """What exchanges of a few sizes take, while nobody computes."""
    if workers == 1:
        return []
    largest = max(sum(x.parameter_bytes for x in tm.layers), samples * max(tm.crossing_bytes, default=0.0), 1e4)
    sizes = [s for s, before in zip(SIZES, (0.0, *SIZES), strict=False) if before < largest]
    found = []
    for size in sizes:
        for what, exchange in _exchanges(size, workers, rank):
            seconds = []
            for _ in range(max(5, min(50, int(2e8 / size)))):
                dist.barrier()
                start = time.perf_counter()
                exchange()
                seconds.append((time.perf_counter() - start) / (2 if what == "send" else 1))
            found.append((what, 2 if what == "send" else workers, size, float(np.median(seconds[1:]))))
    return found


def _exchanges(size: float, workers: int, rank: int) -> Iterator[tuple[str, Callable[[], object]]]:
    many = max(1, int(size / 4) // workers) * workers
    whole, part = torch.zeros(many), torch.zeros(many // workers)

    def send() -> None:
        # There and back: half of it counts.
        if rank == 0:
            dist.send(whole, 1)
            dist.recv(whole, 1)
        elif rank == 1:
            dist.recv(whole, 0)
            dist.send(whole, 0)

    yield "all_reduce", lambda: dist.all_reduce(whole)
    yield "all_gather", lambda: dist.all_gather_into_tensor(whole, part)
    yield "reduce_scatter", lambda: dist.reduce_scatter_tensor(part, whole)
    yield "send", send


def agree_s() -> float:
    """What it takes to add up what all workers lose."""
    seconds = []
    for _ in range(20):
        start = time.perf_counter()
        dist.all_reduce(torch.zeros(2, dtype=torch.float64))
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def add_s(tm: TrainingModel) -> float:
    """Seconds of adding gradients of all weights to gradients that are there, while the others do so too."""
    weights = [p for p in tm.stage(0, len(tm.layers), 2).parameters() if p.requires_grad]
    there, more = [torch.zeros_like(p) for p in weights], [torch.zeros_like(p) for p in weights]
    seconds = []
    for _ in range(6):
        dist.barrier()
        start = time.perf_counter()
        for a, b in zip(there, more, strict=True):
            a.add_(b)
        if weights and weights[0].is_cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds[1:]))
