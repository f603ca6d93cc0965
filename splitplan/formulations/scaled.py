"""The scale of a MILP's objective, which solvers with absolute tolerances need: a choice of units, made from sampled plans."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from functools import cached_property
from typing import Any, Self

SCALE = 1e4
"""The objective is scaled so that a good plan costs about this: solver tolerances are absolute."""


class Scaled:
    """Mixed into a formulation (a frozen dataclass) whose MILP is solved at the scale of a good plan."""

    @property
    @abstractmethod
    def sampled(self) -> tuple[float, float, float | None]:
        """Of some plans: the least positive objective (within the limits if any is), the largest, the least within."""

    @property
    def known(self) -> float | None:
        """The objective of some plan within the limits, when a look at some plans shows one: no optimum costs more."""
        return self.sampled[2]

    @cached_property
    def scale(self) -> float:
        """Factor that brings a good plan's objective to `SCALE`; 1 when all that were sampled cost nothing."""
        least = self.sampled[0]
        return SCALE / least if least else 1.0

    def scaled_for(self, objective: float) -> Self:
        """The same problem, its `scale` such that a plan of this objective costs `SCALE`."""
        me: Any = self
        same: Self = replace(me)
        same.__dict__["scale"] = SCALE / objective
        return same

    @cached_property
    def smallest(self) -> float:
        """A unit of the scaled objective (solvers' tolerances are absolute), or the rounding of the largest costs."""
        return max(1.0 / self.scale, 1e-12 * self.sampled[1])
