"""The loop of the local search for OperatorPlacement: simulated annealing over the device of each group. Plain numbers and loops."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from splitplan.formulations.placement_costs import Groups
from splitplan.solvers.compiled import njit

OVER = 10.0
"""An accelerator that is over its memory by a part p counts as if it worked p · `OVER` times a good plan's time longer."""


class Tables:
    """What the loop reads: groups and tensors as flat arrays.

    Parameters
    ----------
    groups : Groups
    accelerators, cpus : int
    room : float
        Memory of an accelerator; infinite: unlimited.
    """

    def __init__(self, groups: Groups, accelerators: int, cpus: int, room: float) -> None:
        self.accelerators, self.count = accelerators, accelerators + cpus
        self.seconds = np.vstack([groups.accelerator_s, groups.cpu_s])
        self.memory = groups.memory_bytes / room if math.isfinite(room) and room > 0 else np.zeros(len(groups))
        self.cost = groups.cost_s
        self.ends_at = np.cumsum([0, *groups.sizes.tolist()]).astype(np.int64)
        self.ends = np.array([g for e in groups.ends for g in e], np.int64)
        tensors = np.repeat(np.arange(len(groups.ends)), groups.sizes)
        order = np.argsort(self.ends, kind="stable")
        self.tensors = tensors[order].astype(np.int64)
        self.tensors_at = np.searchsorted(self.ends[order], np.arange(len(groups) + 1)).astype(np.int64)

    def anneal(
        self, device: np.ndarray, unit_s: float, steps: int, hot: float, cold: float, powers: int, seed: int
    ) -> tuple[np.ndarray, float]:
        """`anneal` from a placement; the best that was met, and the time of its busiest device (infinite when over memory).

        Parameters
        ----------
        unit_s : float
            The time of a good plan.
        steps : int
        hot, cold : float
            Temperature at the beginning and at the end: by what part the smoothed maximum may grow with probability 1/e.
        powers : int
            The maximum over devices is smoothed as the norm of exponent 2^powers.
        """
        found: tuple[np.ndarray, float] = anneal(
            device.astype(np.int64), self.accelerators, self.count, self.seconds, self.memory, self.cost, self.ends_at, self.ends,
            self.tensors_at, self.tensors, unit_s, steps, hot, cold, powers, seed,
        )  # fmt: skip
        return found


PRIME = 2**31 - 1
"""Modulus of the loop's own random numbers (Lehmer's, multiplier 48271): the same with and without numba, and nobody else's state."""


@njit
def anneal(
    device: Any, accelerators: int, count: int, seconds: Any, memory: Any, cost: Any, ends_at: Any, ends: Any, tensors_at: Any,
    tensors: Any, unit: float, steps: int, hot: float, cold: float, powers: int, seed: int,
) -> Any:  # fmt: skip
    """Move one group, or swap two, at random; keep what helps, and what hurts with a probability that falls.

    A group moves mostly to a device that has a tensor in common with it. Only the loads of the two devices change: of a tensor with
    n of its ends on a device, an accelerator pays while 0 < n < all.
    """
    random = seed % (PRIME - 1) + 1
    groups, size = len(device), len(cost)
    held = np.zeros((size, count), np.int32)
    for t in range(size):
        for i in range(ends_at[t], ends_at[t + 1]):
            held[t, device[ends[i]]] += 1
    load, taken = np.zeros(count), np.zeros(count)
    for g in range(groups):
        d = device[g]
        load[d] += seconds[0 if d < accelerators else 1, g]
        taken[d] += memory[g]
    for t in range(size):
        for d in range(accelerators):
            if 0 < held[t, d] < ends_at[t + 1] - ends_at[t]:
                load[d] += cost[t]
    best, best_value = device.copy(), np.inf
    moved, origin = np.zeros(2, np.int64), np.zeros(2, np.int64)
    norm = 0.0
    fresh = 1
    for step in range(steps):
        if fresh == 1:
            norm = 0.0
            worst, over = 0.0, 0.0
            for d in range(count):
                x = load[d] / unit
                worst = max(worst, load[d])
                if d < accelerators and taken[d] > 1.0 + 1e-12:
                    x += OVER * (taken[d] - 1.0)
                    over = 1.0
                for _ in range(powers):
                    x *= x
                norm += x
            if over == 0.0 and worst < best_value:
                best_value = worst
                best[:] = device
            fresh = 0
        temperature = hot * (cold / hot) ** (step / steps)
        random = random * 48271 % PRIME
        g = random % groups
        a = device[g]
        b = a
        many = tensors_at[g + 1] - tensors_at[g]
        pairs = 1
        moved[0] = g
        random = random * 48271 % PRIME
        draw = random / PRIME
        random = random * 48271 % PRIME
        if draw < 0.6 and many > 0:
            t = tensors[tensors_at[g] + random % many]
            random = random * 48271 % PRIME
            b = device[ends[ends_at[t] + random % (ends_at[t + 1] - ends_at[t])]]
        elif draw < 0.8:
            b = random % count
        else:
            h = random % groups
            b = device[h]
            moved[1] = h
            pairs = 2
        if a == b:
            continue
        bad = 0
        for i in range(pairs):
            to = b if i == 0 else a
            if not np.isfinite(seconds[0 if to < accelerators else 1, moved[i]]):
                bad = 1
        if bad == 1:
            continue
        was_a, was_b, mem_a, mem_b = load[a], load[b], taken[a], taken[b]
        for i in range(pairs):
            v = moved[i]
            out = a if i == 0 else b
            to = b if i == 0 else a
            origin[i] = out
            load[out] -= seconds[0 if out < accelerators else 1, v]
            load[to] += seconds[0 if to < accelerators else 1, v]
            taken[out] -= memory[v]
            taken[to] += memory[v]
            device[v] = to
            for j in range(tensors_at[v], tensors_at[v + 1]):
                t = tensors[j]
                whole = ends_at[t + 1] - ends_at[t]
                n, m = held[t, out], held[t, to]
                if out < accelerators:
                    load[out] += cost[t] * ((1.0 if n > 1 else 0.0) - (1.0 if n < whole else 0.0))
                if to < accelerators:
                    load[to] += cost[t] * ((1.0 if m + 1 < whole else 0.0) - (1.0 if m > 0 else 0.0))
                held[t, out] = n - 1
                held[t, to] = m + 1
        new = norm
        for d, before, room in ((a, was_a, mem_a), (b, was_b, mem_b)):
            x, y = before / unit, load[d] / unit
            if d < accelerators:
                if room > 1.0 + 1e-12:
                    x += OVER * (room - 1.0)
                if taken[d] > 1.0 + 1e-12:
                    y += OVER * (taken[d] - 1.0)
            for _ in range(powers):
                x *= x
                y *= y
            new += y - x
        grown = math.log(max(new, 1e-300) / max(norm, 1e-300)) / (1 << powers)
        random = random * 48271 % PRIME
        if grown <= 0.0 or random / PRIME < math.exp(-grown / temperature):
            fresh = 1
            continue
        for i in range(pairs - 1, -1, -1):
            v = moved[i]
            to = origin[i]
            out = device[v]
            device[v] = to
            for j in range(tensors_at[v], tensors_at[v + 1]):
                t = tensors[j]
                held[t, out] -= 1
                held[t, to] += 1
        load[a], load[b], taken[a], taken[b] = was_a, was_b, mem_a, mem_b
    return best, best_value
