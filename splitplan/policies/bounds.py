"""Bounds of runs over one scenario, each solved once, however many runs are held against it; and how far a run's power is above the least."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from splitplan.data.scenario import Scenario, Slotted
from splitplan.errors import InfeasibleError
from splitplan.formulations.slot import SlotControl
from splitplan.formulations.slot_costs import Choices
from splitplan.formulations.solution import Solution
from splitplan.formulations.stationary import StationaryBound

Known = tuple[StationaryBound, Solution]


class Bounds:
    """The bounds of controls over a scenario and its seeds; of controls that differ in V alone it is one."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, int], Known] = {}
        self._least: dict[tuple[Any, int], Known | None] = {}

    def of(self, control: SlotControl, scene: Scenario) -> Known:
        """The bound of a control, solved; raises InfeasibleError where no policy carries the load."""
        key = asked_of(control), scene.seed
        if key not in self._known:
            problem = StationaryBound(control, scene)
            self._known[key] = problem, problem.solve()
        return self._known[key]

    def above_w(
        self,
        problem: StationaryBound,
        solution: Solution,
        power_w: float,
        left: Sequence[float],
        admitted: float,
        certificate: float,
    ) -> float:
        """Mean power less the least that any policy needs for the work done, watts; NaN where not all frames can be carried.

        Parameters
        ----------
        problem, solution
            Of the run's own control.
        power_w : float
            Of the run.
        left, admitted
            As of `StationaryBound.certificate`.
        certificate : float
            Of the run, for ``problem``.
        """
        control, tau = problem.control, problem.control.slot_s
        if solution.unit == "J a slot" and control.throughput_min_hz is None and control.power_budget_w is None:
            return certificate / tau
        found = self._least_energy(control, problem.scene, problem.slotted)
        if found is None:
            return float("nan")
        plain, least = found
        return plain.certificate(power_w * tau, left, least, admitted, power_w * tau) / tau

    def _least_energy(self, control: SlotControl, scene: Scenario, slotted: Slotted | None) -> Known | None:
        """The bound of the energy alone; None where not all frames can be carried: then none is known for the work that was done."""
        key = asked_of(control), scene.seed
        if key not in self._least:
            plain = replace(
                control, mode="min-energy", power_budget_w=None, throughput_min_hz=None, latency_limit_s=None, deadline_s=None
            )  # fmt: skip
            problem = StationaryBound(plain, scene, slotted)
            try:
                self._least[key] = problem, problem.solve()
            except InfeasibleError:
                self._least[key] = None
        return self._least[key]


def asked_of(control: SlotControl) -> tuple[Any, ...]:
    """What of a control its bound looks at: V is not among it."""
    c = control.choices
    values = (getattr(c, f.name) for f in fields(Choices))
    told = (v.tobytes() if isinstance(v, np.ndarray) else v for v in values)
    limits = control.power_budget_w, control.throughput_min_hz
    return (control.slot_s, *limits, tuple(control.weights.items()), *told)
