"""What a reader is told of a run beside its numbers: which V decided, whether limits on means held, why frames were refused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from splitplan.formulations.in_time import LIMITS, least_own_s, why_refused
from splitplan.formulations.slot import SlotControl
from splitplan.policies.slot import DecidesSlots, SlotPolicy, follows_the_rule

HELD = 1e-3
"""Relative: a mean that is beyond its limit by no more counts as held, for a debt that is paid off keeps moving."""


OF_PROFILE = "the bound is of the profile's seconds, and a live run's are measured: it may be below it, or further above, by as much as they differ"
"""Beside a live run's distance from its bound."""


def weight_of(policy: DecidesSlots) -> float | None:
    """The V that it decides by; None where it says, by an attribute ``weighs = False``, that its control's V is none that anybody chose."""
    return policy.control.V if getattr(policy, "weighs", True) else None


def called(policy: DecidesSlots) -> str:
    """Its name, with the V that it decides by."""
    weight = weight_of(policy)
    return policy.name if weight is None else f"{policy.name}, V {weight:g}"


@dataclass(frozen=True)
class Limit:
    """A limit on a mean, and what came of it.

    Parameters
    ----------
    name : str
        As `SlotControl` calls it; its unit is in the name.
    limit, mean : float
        What was asked, and the run's; NaN: there was nothing to take the mean of.
    held : bool
    why : str
        What to do about it, where it did not hold.
    """

    name: str
    limit: float
    mean: float
    held: bool
    why: str = ""

    @property
    def unit(self) -> str:
        """Of both numbers."""
        return {"power_budget_w": "W", "latency_limit_s": "s", "throughput_min_hz": "frames/s"}[self.name]

    def __str__(self) -> str:
        mean = f"{self.mean:.4g} {self.unit}" if math.isfinite(self.mean) else "no frame was admitted"
        return f"{self.name} {self.limit:g}: {mean}, {'held' if self.held else f'NOT held: {self.why}'}"


def limits_of(
    policy: DecidesSlots,
    *,
    power_w: float,
    own_latency_s: float,
    admitted_hz: float,
    arriving_hz: float,
    seconds: float,
    joule: float = 0.0,
) -> tuple[Limit, ...]:
    """The limits on means that a policy's control has, held against a run's means.

    Parameters
    ----------
    policy : DecidesSlots
    power_w, own_latency_s, admitted_hz : float
        Means of the run: power; (4) of `SlotControl` of admitted frames; admitted frames a second.
    arriving_hz, seconds : float
        Frames that arrived a second; how long the run was.
    joule : float
        The bound's price of a joule, where it is known: it says how large the debt gets.
    """
    control, found = policy.control, []
    means = {"power_budget_w": power_w, "latency_limit_s": own_latency_s, "throughput_min_hz": admitted_hz}
    for name, mean in means.items():
        if (limit := getattr(control, name)) is None:
            continue
        least = name == "throughput_min_hz"
        held = mean >= limit * (1 - HELD) if least else not mean > limit * (1 + HELD)
        why = ""
        if not held and least and arriving_hz < limit:
            why = f"only {arriving_hz:.4g} frames/s arrive"
        elif not held:
            power = name == "power_budget_w"
            why = _pays(policy, settling_j(control, joule) if power else 0.0, (mean - limit) * seconds)
        found.append(Limit(name, limit, mean, held, why))
    return tuple(found)


def settling_j(control: SlotControl, joule: float) -> float:
    """How large the debt of a power budget gets before it binds, joules: (7) of `SlotControl` then weighs a joule as V times the bound's price does."""
    return control.V * joule * control.units["energy"] ** 2


def _pays(policy: DecidesSlots, debt_j: float, now_j: float) -> str:
    """What to do where a mean is beyond its limit at the end; of a budget that is known to bind, how large its debt gets, and how large it is now."""
    weight = weight_of(policy)
    if weight is None or not follows_the_rule(policy):
        return "the policy decides for itself, not by the debt"
    grown = (
        f"the budget binds once the debt is some {debt_j:.3g} J, it is {now_j:.3g} J now"
        if debt_j > 0
        else "the debt is paid off slowly"
    )
    fixed = "" if _all_free(policy) else ", if the knobs that are free can meet it"
    return f"{grown}; a longer run or a smaller V{fixed}"


def _all_free(policy: DecidesSlots) -> bool:
    c = policy.control.choices
    there = (len(c.works), len(c.clock_hz), len(c.levels))
    return all(len(set(some)) == count for some, count in zip(_knobs(policy), there, strict=True) if some is not None)


def _knobs(policy: DecidesSlots) -> tuple[Sequence[int] | None, Sequence[int] | None, Sequence[int] | None]:
    """Cuts, clocks and levels that may be chosen, as far as the policy says."""
    return (policy.cuts, policy.clocks, policy.levels) if isinstance(policy, SlotPolicy) else (None, None, None)


def why_frames_refused(policy: DecidesSlots, mean_bps: float) -> str:
    """Why a policy refused frames that were all to be served: its control's limits, where there are any and they say why; else the policy itself.

    Parameters
    ----------
    policy : DecidesSlots
    mean_bps : float
        Of the channel.
    """
    control, knobs = policy.control, _knobs(policy)
    limited = control.thermal is not None or any(getattr(control, name) is not None for name in LIMITS)
    if follows_the_rule(policy):
        never = "in their slots nothing that may be chosen would ever have served them: the uplink is dead, or the device may not compute"
        return why_refused(control, mean_bps, *knobs) if limited else never
    if not limited:
        return "the policy refused them; its control has no limit that asks for that"
    least = least_own_s(control, mean_bps, *knobs)
    if not least <= (math.inf if control.deadline_s is None else control.deadline_s) or math.isinf(least):
        return f"the policy refused them; {why_refused(control, mean_bps, *knobs)}"
    heat = "" if control.thermal is None else ", heat left out"
    return (
        f"the policy refused them; at the channel's mean rate ({mean_bps / 1e6:.4g} Mbit/s) a frame could be served within its control's limits, "
        f"in {least:.4g} s{heat}"
    )
