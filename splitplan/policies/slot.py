"""Policies that decide a slot: drift plus penalty over all three knobs, or over those that are not fixed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from splitplan.data.slot import SlotPlan, SlotState
from splitplan.errors import DataError, InfeasibleError, raise_all
from splitplan.formulations.slot import SlotControl
from splitplan.solvers.slot_enumerate import cheapest


@dataclass(frozen=True, eq=False)
class SlotPolicy:
    """The rule of a `SlotControl`, slot by slot; knobs may be fixed. For `simulate`; the executor does not take it yet.

    Parameters
    ----------
    control : SlotControl
    cuts, clocks, levels : sequence of int, optional
        Numbers of those that may be chosen, into the control's choices; all unless given. Clock 0 is off, level 0 is silent.
    name : str
    """

    control: SlotControl
    cuts: Sequence[int] | None = None
    clocks: Sequence[int] | None = None
    levels: Sequence[int] | None = None
    name: str = "joint"

    def __post_init__(self) -> None:
        if not isinstance(self.control, SlotControl):
            raise DataError(f"control is a {type(self.control).__name__}; give a splitplan.SlotControl", "SlotPolicy")
        c, problems = self.control.choices, []
        for what, count in (("cuts", len(c.works)), ("clocks", len(c.clock_hz)), ("levels", len(c.levels))):
            given = getattr(self, what)
            chosen = tuple(range(count)) if given is None else tuple(given)
            if not chosen or not all(isinstance(i, (int, np.integer)) and 0 <= i < count for i in chosen):
                problems.append(f"{what} is {given!r}; give numbers from 0 to {count - 1}, at least one")
            object.__setattr__(self, what, chosen)
        raise_all(problems, f"policy {self.name!r}")

    def choose(self, state: SlotState) -> SlotPlan:
        """What is done in a slot; where no choice meets the limits with the frames that arrive, they are refused.

        Parameters
        ----------
        state : SlotState
        """
        problem = self.control.at(state)
        best = cheapest(problem, self.cuts, self.clocks, self.levels)
        if best is None:
            problem = self.control.at(replace(state, frames=0))
            best = cheapest(problem, self.cuts, self.clocks, self.levels)
        if best is None:
            raise InfeasibleError("no clock and rate are within the power limits, not even off and silent", ())
        return problem.plan_for(*best[0])
