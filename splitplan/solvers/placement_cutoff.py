"""What a known plan forbids better ones: tensors that cost too much to be cut. Groups merge, and the MILP gets rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from splitplan.solvers.placement_chain import spared

if TYPE_CHECKING:
    from splitplan.formulations.placement import OperatorPlacement

SLACK = 1e-9
"""Relative rounding of sums this long: nothing is forbidden by less."""


def moving_room(problem: OperatorPlacement, known_s: float) -> float:
    """The most seconds that all accelerators together can move tensors when no device takes more than ``known_s``.

    They have K·T seconds, and compute all but what CPUs take over in L·T.
    """
    parts = problem.parts
    there = np.isfinite(parts.accelerator_s)
    work = float(parts.accelerator_s[there].sum())
    free = problem.accelerators * known_s - work + spared(parts.accelerator_s, parts.cpu_s, problem.cpus * known_s)
    return free + SLACK * (work + problem.accelerators * known_s)


def whole_tensors(problem: OperatorPlacement, known_s: float) -> tuple[np.ndarray, list[int]]:
    """Tensors that no plan better than a known one cuts.

    A tensor with ends on two accelerators costs both. One with ends on an accelerator and on a CPU costs one.

    Returns
    -------
    to : array of int, shape (parts,)
        The parts merged, by number: ends of a tensor of which not even one accelerator can pay.
    apart : list of int
        Of the tensors that are left when parts are merged so (`Groups.merged`): those of which two accelerators cannot pay.
    """
    now, to = problem, np.arange(len(problem.parts))
    while True:
        room, parts = moving_room(now, known_s), now.parts
        on_cpu = now.can[:, 1] & (parts.cpu_s <= known_s)
        step = np.arange(len(parts))
        for ends, cost in zip(parts.ends, parts.cost_s.tolist(), strict=True):
            able = [g for g in ends if on_cpu[g]]
            # With one CPU, or with an end that must be on an accelerator, what is not cut is in one place.
            together = now.cpus <= 1 or len(able) < len(ends)
            if (cost > room and together) or (2 * cost > room and not able):
                first = _root(step, ends[0])
                for g in ends[1:]:
                    step[_root(step, g)] = first
        roots = np.array([_root(step, g) for g in range(len(parts))])
        if len(np.unique(roots)) == len(parts):
            return to, [t for t, cost in enumerate(parts.cost_s.tolist()) if 2 * cost > room]
        step = np.unique(roots, return_inverse=True)[1]
        now, to = now.over(parts.merged(step)), step[to]


def _root(step: np.ndarray, g: int) -> int:
    while step[g] != g:
        g = int(step[g])
    return g
