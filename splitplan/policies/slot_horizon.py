"""A reference that sees the future: the next slots solved together as a MILP, the first of them applied, and so on (receding horizon).

It stands beside the policies to show what knowing frames and rates beforehand is worth. Nothing that runs live can be it: the executor refuses
policies that see ahead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from splitplan.data.scenario import Scenario
from splitplan.data.slot import SlotPlan, SlotState
from splitplan.errors import DataError, NoSolutionError, raise_all
from splitplan.formulations.slot import SlotControl
from splitplan.formulations.slot_horizon import SlotHorizon, price_problems, unstated
from splitplan.formulations.solution import Status
from splitplan.formulations.stationary import RESOURCES, StationaryBound
from splitplan.models.graph import number_problem
from splitplan.policies.slot import Ahead, SlotPolicy


@dataclass(frozen=True, eq=False)
class Horizon:
    """Receding horizon with perfect foresight of `slots_ahead` slots: solves a `SlotHorizon` each slot with HiGHS and applies its first slot.

    Parameters
    ----------
    control : SlotControl
        Its V weighs penalty against waiting. Without limits on means, thermal limit and costs of changes.
    given : Scenario or mapping
        Prices of work that is left when the window ends: those of the scenario's `StationaryBound`, solved here, or given as a dict of ``device,
        uplink, server``.
    slots_ahead : int
        Slots beyond this one that it sees. At 0 it sees no future, and its window is the slot.
    wait_weight : float
        ω of `SlotHorizon`: squared seconds that a second's work waiting for a second costs.
    gap : float
        Relative gap at which HiGHS may stop.
    time_limit_s : float, optional
        For one slot's MILP. When it stops one, the best plan in hand is used; without any, the slot's own rule decides. `notes` says how
        often, and a `Result` prints it.

    Attributes
    ----------
    counts : Counter
        Since it was made: ``solved``; of these ``stopped`` before the gap; ``without``: no plan in hand, the rule decided.

    Raises
    ------
    InfeasibleError
        No policy can carry the scenario's load, so that there are no prices.
    """

    control: SlotControl
    given: Scenario | Mapping[str, float]
    slots_ahead: int = 4
    wait_weight: float = 1.0
    gap: float = 1e-4
    time_limit_s: float | None = None
    prices: Mapping[str, float] = field(init=False)
    counts: Counter[str] = field(init=False, repr=False, default_factory=Counter)

    def __post_init__(self) -> None:
        if not isinstance(self.control, SlotControl):
            raise DataError(f"control is a {type(self.control).__name__}; give a splitplan.SlotControl", "Horizon")
        problems = unstated(self.control)
        ahead = self.slots_ahead
        if isinstance(ahead, bool) or not isinstance(ahead, int) or ahead < 0:
            problems.append(f"slots_ahead is {ahead!r}; give a whole number from 0")
        problems += [p for n in ("wait_weight", "gap") if (p := number_problem(n, getattr(self, n)))]
        if self.time_limit_s is not None and (p := number_problem("time_limit_s", self.time_limit_s, positive=True)):
            problems.append(p)
        if not isinstance(self.given, Scenario):
            problems += price_problems(self.given)
        raise_all(problems, "Horizon")
        found = (
            StationaryBound(self.control, self.given).solve().duals if isinstance(self.given, Scenario) else self.given
        )
        object.__setattr__(self, "prices", {name: float(found[name]) for name in RESOURCES})

    @property
    def name(self) -> str:
        """With its settings, which tell runs apart."""
        return f"horizon of {1 + self.slots_ahead} slots, waiting {self.wait_weight:g}, gap {self.gap:g}"

    @property
    def sees(self) -> int:
        """Slots beyond this one."""
        return self.slots_ahead

    @property
    def notes(self) -> tuple[str, ...]:
        """What it saw, and how often a limit stopped a MILP."""
        c = self.counts
        said = f"it was told frames and rates of {self.slots_ahead} slots to come; {c['solved']} MILPs were solved"
        if c["stopped"] or c["without"]:
            said += (
                f", {c['stopped']} stopped at their time limit (the best plan in hand was used), {c['without']} without any plan "
                "(the slot's own rule decided)"
            )
        return (said,)

    def choose(self, state: SlotState, ahead: Ahead | None = None) -> SlotPlan:
        """The first slot of the window's best plan.

        Parameters
        ----------
        state : SlotState
        ahead : Ahead, optional
            This slot and the next ones; this one alone unless given.
        """
        if ahead is None:
            ahead = Ahead(np.array([state.frames]), np.array([state.rate_bps]))
        window = SlotHorizon(
            self.control.at(state), ahead.frames, ahead.rate_bps, self.prices, wait_weight=self.wait_weight
        )
        try:
            solution = window.solve("highs", time_limit_s=self.time_limit_s, gap=self.gap)
        except NoSolutionError:
            self.counts["without"] += 1
            return SlotPolicy(self.control).choose(state)
        self.counts["solved"] += 1
        self.counts["stopped"] += solution.status is not Status.OPTIMAL
        first: SlotPlan = solution.plan.slots[0]
        return first
