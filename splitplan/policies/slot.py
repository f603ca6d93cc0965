"""What decides slots, for simulator and executor; and the rule that does: drift plus penalty over all knobs, or those not fixed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np

from splitplan.data.slot import SlotPlan, SlotState
from splitplan.errors import DataError, InfeasibleError, raise_all
from splitplan.formulations.slot import SlotControl
from splitplan.formulations.slot_choice import numbers_in, plan_problems
from splitplan.solvers.slot_enumerate import cheapest

OFF = (0,)
"""The numbers of the clock at which the device is off, and of the level at which the uplink is silent."""


@runtime_checkable
class DecidesSlots(Protocol):
    """What decides slots: the one interface of simulator and executor. `SlotPolicy` has it; so may a class of yours.

    Optional attributes, looked for by name:

    sees : int
        How many slots beyond this one the policy is told, 0 unless given. Above 0 it is called as ``choose(state, ahead)``, with an
        `Ahead`: the simulator knows the future, the executor does not and refuses such a policy.
    weighs : bool
        Whether it decides by its control's V, which results and figures then show; True unless given.
    notes : sequence of str
        What a reader of a run's result should know of how it was decided (solvers that were stopped, say); read when the run ends.
    """

    @property
    def control(self) -> SlotControl:
        """The problem whose choices, limits and equations the slots follow; its ``state`` is not looked at."""
        ...

    @property
    def name(self) -> str:
        """For tables and figures."""
        ...

    def choose(self, state: SlotState) -> SlotPlan:
        """What is done in a slot that begins so: one of the control's cuts, clocks and levels, at most the frames that arrive."""
        ...


@dataclass(frozen=True, eq=False)
class Ahead:
    """What a policy that sees ahead is told; fewer slots near the end of a run.

    Parameters
    ----------
    frames : array of int, shape (slots,)
        Frames that arrive in this slot, then in the next ones.
    rate_bps : array, shape (slots,)
        What the uplink can carry in each.
    """

    frames: np.ndarray
    rate_bps: np.ndarray


@dataclass(frozen=True, eq=False)
class SlotPolicy:
    """The rule of a `SlotControl`, slot by slot; knobs may be fixed. For `simulate`; and for whatever takes a `DecidesSlots`.

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
            chosen = tuple(range(count)) if given is None else tuple(given) if isinstance(given, Iterable) else ()
            if not chosen or not all(isinstance(i, (int, np.integer)) and 0 <= i < count for i in chosen):
                problems.append(f"{what} is {given!r}; give numbers from 0 to {count - 1}, at least one")
            object.__setattr__(self, what, chosen)
        raise_all(problems, f"policy {self.name!r}")

    @cached_property
    def device_j(self) -> float:
        """The least joules that a second of work takes at the clocks that it may choose: what others would take is nothing to it."""
        assert self.clocks is not None
        return self.control.choices.least_j_of(self.clocks)

    def problem(self, state: SlotState) -> SlotControl:
        """The slot, with place-holders of the clocks and the levels that it may choose."""
        return self.control.at(state, device_j=self.device_j, levels=self.levels)

    def choose(self, state: SlotState) -> SlotPlan:
        """What is done in a slot; where no choice meets the limits with the frames that arrive, they are refused.

        Where a knob is fixed at what the power limits forbid, the device is off, or the uplink silent, or both.

        Parameters
        ----------
        state : SlotState
        """
        problem = self.problem(state)
        assert self.clocks is not None and self.levels is not None
        clocks, levels = left_to_choose(problem, self.clocks, self.levels)
        best = cheapest(problem, self.cuts, clocks, levels)
        if best is None:
            problem = self.problem(replace(state, frames=0))
            best = cheapest(problem, self.cuts, clocks, levels)
        if best is None:
            raise InfeasibleError("no clock and rate are within the power limits, not even off and silent", ())
        return problem.plan_for(*awake(problem, best[0], clocks, levels))


def left_to_choose(
    problem: SlotControl, clocks: Sequence[int], levels: Sequence[int]
) -> tuple[Sequence[int], Sequence[int]]:
    """Clocks and levels that may be chosen in a slot; off, or silent, or both, where the power limits leave none of them."""
    within = problem.within_power & ~problem.hot[:, None]
    for some, other in ((clocks, levels), (OFF, levels), (clocks, OFF)):
        if within[np.ix_(some, other)].any():
            return some, other
    return OFF, OFF


def follows_the_rule(policy: DecidesSlots) -> bool:
    """Whether it decides as the simulator's compiled loop does: a `SlotPolicy` whose ``choose`` nobody has overridden."""
    return isinstance(policy, SlotPolicy) and type(policy).choose is SlotPolicy.choose


def decided(
    policy: DecidesSlots, state: SlotState, slot: int, ahead: Ahead | None = None
) -> tuple[SlotPlan, tuple[int, int, int, int]]:
    """What a policy decides in a slot, and the same as numbers of cut, frames, clock and level: looked at once, for simulator and executor.

    Frames may be refused, as a `SlotPolicy` refuses those that nothing serves within the limits.

    Parameters
    ----------
    policy : DecidesSlots
    state : SlotState
    slot : int
        Its number, for messages.
    ahead : Ahead, optional
        For a policy that sees ahead.

    Raises
    ------
    DataError
        What it gave is no choice of this slot or is beyond the control's limits; says what it may give.
    """
    where = f"policy {policy.name!r}, slot {slot}"
    try:
        plan = policy.choose(state) if ahead is None else policy.choose(state, ahead)  # type: ignore[call-arg]  # what one that sees ahead promises
    except DataError as e:
        raise DataError([f"{e.where}: {p}" if e.where else p for p in e.problems], where) from e
    except Exception as e:
        e.add_note(f"raised by choose() of {where}")
        raise
    given = isinstance(plan, SlotPlan)
    problem = policy.control.at(replace(state, frames=int(plan.frames)) if given else state)
    numbers = numbers_in(problem, plan)
    found = plan_problems(problem, plan) if numbers is None else []
    if given and plan.frames > state.frames:
        found.append(f"{plan.frames} frames are admitted, {state.frames} arrive; give 0 to {state.frames}")
    own = getattr(policy, "cuts", None)
    if not found and own is not None and plan.cut not in own:
        found.append(f"cut is {plan.cut}; the policy's own cuts are {', '.join(map(str, own))}")
    raise_all([f"choose() gave what it may not: {p}" for p in found], where)
    raise_all(problem.violations(plan), where)
    assert numbers is not None  # what is none of the slot's was told above
    return plan, numbers


def awake(
    problem: SlotControl, choice: tuple[int, int, int, int], clocks: Sequence[int] | None, levels: Sequence[int] | None
) -> tuple[int, int, int, int]:
    """A choice with the clock and the level that serve the frames of this slot, where no work was left and every clock, or level, costs the same.

    With nothing to serve (7) of `SlotControl` is the same on and off. But a frame that arrives meanwhile could be served at once: off makes
    it wait for the next slot, twice. So the tie goes to the clock that (7) would take if the work that is admitted were there already,
    then likewise the level. Not where frames' own seconds decide (a deadline, latency), which never leaves them off, nor where a change
    of the clock costs something.
    """
    k, n, f, j = choice
    c, state, (head_s, bits, _) = problem.choices, problem.state, problem.choices.works[choice[0]].tolist()
    if not n or problem.timed:
        return choice
    if state.device_s == 0 and c.speed[f] == 0 and not problem.clock_change_j:
        there = problem.at(replace(state, device_s=n * head_s))
        f = _cheapest(there.costs.clock, there.within_power[:, j] & ~there.hot, clocks)
    if state.uplink_bits == 0 and c.levels[j] == 0:
        there = problem.at(replace(state, uplink_bits=n * bits))
        j = _cheapest(there.costs.level, there.within_power[f], levels)
    return k, n, f, j


def _cheapest(cost: np.ndarray, allowed: np.ndarray, some: Sequence[int] | None) -> int:
    """The first of the cheapest that are allowed and among some."""
    among = np.ones(len(cost), bool) if some is None else np.isin(np.arange(len(cost)), some)
    return int(np.argmin(np.where(allowed & among, cost, np.inf)))
