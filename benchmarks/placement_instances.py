"""Operator graphs of our own in the shape of others': wide ones as Inception, long ones as BERT, with or without a backward pass."""

from __future__ import annotations

from typing import Any

import numpy as np

from splitplan.data.operators import Operator, OperatorGraph

CPU_SLOWER = (10.0, 25.0)
"""How much slower a CPU is, at least and at most."""


class Drawing:
    """A graph that grows operator by operator; times are log-normal, in milliseconds."""

    def __init__(self, seed: int, move_ms: float) -> None:
        self.draw = np.random.default_rng(seed)
        self.move_ms = move_ms
        self.times: list[float] = []
        self.outputs: list[float] = []
        self.edges: list[tuple[int, int]] = []
        self.constants: set[int] = set()
        """Operators that no gradient goes back to."""

    def add(self, ms: float, *feeds: int, move: float = 1.0) -> int:
        """One more operator, fed by others; its number."""
        here = len(self.times)
        self.times.append(float(ms * self.draw.lognormal(0.0, 0.5)) if ms else 0.0)
        self.outputs.append(float(self.move_ms * move * self.draw.lognormal(0.0, 0.3)))
        self.edges += [(a, here) for a in dict.fromkeys(feeds)]
        return here

    def graph(
        self, name: str, *, training: bool, accelerators: int, cpus: int = 1, gigabytes: float = 16.0
    ) -> OperatorGraph:
        """As an operator graph; a backward operator takes twice as long as its forward one, has its colour and its edges turned."""
        slower = self.draw.uniform(*CPU_SLOWER, len(self.times))
        size = self.draw.uniform(1e6, 2e8, len(self.times))
        ops, edges = [], [(f"f{a}", f"f{b}") for a, b in self.edges]
        for back in (False, True) if training else (False,):
            mark, times = ("b", 2.0) if back else ("f", 1.0)
            ops += [
                Operator(f"{mark}{v}", 1e-3 * times * t, 1e-3 * times * t * s, 1e-3 * o, float(b), str(v) if training else "", back)
                for v, (t, o, s, b) in enumerate(zip(self.times, self.outputs, slower.tolist(), size.tolist(), strict=True))
                if not (back and v in self.constants)
            ]  # fmt: skip
        if training:
            edges += [(f"b{b}", f"b{a}") for a, b in self.edges if a not in self.constants]
            edges += [(f"f{a}", f"b{b}") for a, b in self.edges]
        return OperatorGraph(name, tuple(ops), tuple(edges), accelerators, cpus, gigabytes * 1e9)


def inception(
    seed: int = 0, modules: int = 11, lengths: tuple[int, ...] = (4, 7, 10, 5), *, training: bool = False, accelerators: int = 6, move_ms: float = 0.05
) -> OperatorGraph:  # fmt: skip
    """Modules of parallel branches: Π (length + 1) order ideals a module."""
    d = Drawing(seed, move_ms)
    at = d.add(1.0)
    for _ in range(12):
        at = d.add(1.0, at)
    for _ in range(modules):
        ends = []
        for length in lengths:
            here = at
            for _ in range(length):
                here = d.add(0.8, here)
            ends.append(here)
        at = d.add(0.1, *ends)
    at = d.add(0.5, at)
    return d.graph(f"inception {modules}x{lengths}", training=training, accelerators=accelerators)


def bert(
    seed: int = 0, blocks: int = 24, *, training: bool = False, accelerators: int = 6, move_ms: float = 0.7
) -> OperatorGraph:
    """Transformer blocks operator by operator, with residuals, a mask that all blocks read, and constants."""
    d = Drawing(seed, move_ms)
    mask = d.add(0.01)
    d.constants.add(mask)
    at = d.add(2.0)
    for _ in range(blocks):
        heads = []
        for _ in range(3):
            weight = d.add(0.0, move=0.1)
            here = d.add(1.0, at, weight)
            for _ in range(4):
                here = d.add(0.1, here)
            heads.append(here)
        score = d.add(0.5, heads[0], heads[1], move=8.0)
        for _ in range(3):
            score = d.add(0.3, score, mask, move=8.0)
        mixed = d.add(0.5, score, heads[2])
        for _ in range(3):
            mixed = d.add(0.1, mixed)
        first = d.add(0.2, d.add(1.0, mixed), at)
        for _ in range(2):
            first = d.add(0.1, first)
        wide = first
        for k in range(9):
            wide = d.add(1.5 if k in (0, 8) else 0.2, wide, move=4.0 if k < 8 else 1.0)
        at = d.add(0.2, wide, first)
    d.add(3.0, at)
    return d.graph(f"bert {blocks}", training=training, accelerators=accelerators)


def random_wide(seed: int = 0, operators: int = 400, *, accelerators: int = 4, edges: float = 1.5) -> OperatorGraph:
    """A random DAG with so many order ideals that none can list them."""
    d = Drawing(seed, 0.3)
    for v in range(operators):
        feeds: Any = d.draw.integers(0, v, size=min(v, int(d.draw.poisson(edges)))).tolist() if v else []
        d.add(1.0, *feeds)
    return d.graph(f"random {operators}", training=False, accelerators=accelerators)
