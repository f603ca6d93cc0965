"""Seconds of layers at about half their rows: what the measuring process needs to tell which of them fewer rows do not save."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from splitplan.models.instrument import Instrumented, instrument
from splitplan.models.partition import Part, make_part, run_parts
from splitplan.models.row_parts import RowPart, top_rows
from splitplan.models.rows import RowModel
from splitplan.models.traced import Traced

MOST_SHARE = 0.65
"""Layers are measured together, as in one block, while none computes more of its rows than this, halos included."""
KNOWN_SHARE = 0.9
"""A layer that computes more than this even alone (it has a few rows, or a far reach) tells nothing."""


@dataclass(frozen=True, eq=False)
class _Piece:
    """A run of layers at its upper half: what runs, on which rows, and the part of each layer's work that this is."""

    run: Instrumented
    takes: dict[str, torch.Tensor]
    shares: dict[str, float]


class HalfRows:
    """A model's layers, each at about half its rows: run after run of layers between barriers, cut where halos grow.

    Inputs are rows of the example's own values, copied before each run so that they are as fresh as what a frame brings. They
    stay here: about half of the activations' bytes at most.

    Parameters
    ----------
    traced : Traced
    inputs : dict of str to Tensor
        On the device that measures.
    symbols : dict of str to int
    """

    def __init__(self, traced: Traced, inputs: Mapping[str, torch.Tensor], symbols: Mapping[str, int]) -> None:
        self._symbols = symbols
        device = next(iter(inputs.values())).device
        model, names = RowModel(traced.graph), [x.name for x in traced.graph.layers]
        self._pieces: list[_Piece] = []
        values = dict(inputs)
        for start, stop in pieces(model):
            part = _half(traced, model, start, stop)
            if part is not None:
                part = part.to(device)
                shares, _ = _upper(model, start, stop)
                takes = {k: v.clone() for k, v in part.cut(values).items()}
                self._pieces.append(_Piece(instrument(part), takes, dict(zip(part.layers, shares, strict=True))))
            whole: Part = make_part(traced, names[start:stop], "here").to(device)
            values |= run_parts([whole], values, symbols)
            later = {t.name for t in traced.graph.tensors if any(traced.graph.index[c] >= stop for c in t.consumers)}
            values = {k: v for k, v in values.items() if k in later}

    @property
    def shares(self) -> dict[str, float]:
        """The part of each measured layer's work that is done."""
        return {k: s for piece in self._pieces for k, s in piece.shares.items() if 0 < s <= KNOWN_SHARE}

    def __call__(self) -> tuple[dict[str, float], list[float]]:
        """Seconds of each layer whose share says something; and those that each part took beside its layers."""
        seconds: dict[str, float] = {}
        beside: list[float] = []
        for piece in self._pieces:
            fresh = {k: v.clone() for k, v in piece.takes.items()}
            start = time.perf_counter()
            _, taken = piece.run(fresh, self._symbols)
            beside.append(time.perf_counter() - start - math.fsum(taken.values()))
            seconds |= taken
        known = self.shares
        return {k: s for k, s in seconds.items() if k in known}, beside


def pieces(model: RowModel) -> list[tuple[int, int]]:
    """Runs of layers start:stop that cover the graph: barriers alone, others together while half the rows stay about half."""
    found, start = [], 0
    while start < len(model.graph):
        stop = start + 1
        if start not in model.barriers:
            while stop < len(model.graph) and stop not in model.barriers:
                shares, _ = _upper(model, start, stop + 1)
                if not shares or max(shares) > MOST_SHARE:
                    break
                stop += 1
        found.append((start, stop))
        start = stop
    return found


def fixed_seconds(
    whole: Mapping[str, float], half: Mapping[str, float], shares: Mapping[str, float]
) -> dict[str, float]:
    """Of each layer's seconds those that fewer rows do not save: f where a share φ takes φ a + (1 − φ) f, between 0 and a.

    Noise puts some of them outside. Those are drawn in, and all are scaled so that their sum does not grow by that: what is
    predicted is blocks of layers.

    Parameters
    ----------
    whole, half : dict of str to float
        a, and what the share φ took.
    shares : dict of str to float
        φ < 1.
    """
    raw = {k: (half[k] - share * whole[k]) / (1 - share) for k, share in shares.items()}
    drawn_in = {k: min(max(f, 0.0), whole[k]) for k, f in raw.items()}
    total = math.fsum(drawn_in.values())
    scale = min(max(math.fsum(raw.values()), 0.0) / total, 1.0) if total > 0 else 0.0
    return {k: f * scale for k, f in drawn_in.items()}


def _upper(model: RowModel, start: int, stop: int) -> tuple[tuple[float, ...], int]:
    """The part of each layer's work for the upper half of a block's rows, rounded down; and how many rows that are."""
    height = model.height(stop)
    count = height // 2
    if not count:
        return (), 0
    return model.block(start, stop, [count, height - count])[0].shares, count


def _half(traced: Traced, model: RowModel, start: int, stop: int) -> RowPart | None:
    """The upper half of a piece; None for a barrier or a single row."""
    if model.why_not(start, stop):
        return None
    _, count = _upper(model, start, stop)
    return top_rows(traced, [x.name for x in traced.graph.layers[start:stop]], count) if count else None
