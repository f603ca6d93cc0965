"""What a frame takes at least by a slotted control's choices, and deadlines and power caps that none of them meets. Plain arithmetic; solves nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from splitplan.errors import InfeasibleError
from splitplan.formulations.base import TOLERANCE

if TYPE_CHECKING:
    from splitplan.formulations.slot import SlotControl

LIMITS = ("deadline_s", "power_cap_w")
"""Of a slot, beside the thermal one: why frames may be refused in it."""


def least_own_s(
    control: SlotControl,
    rate_bps: float,
    cuts: Sequence[int] | None = None,
    clocks: Sequence[int] | None = None,
    levels: Sequence[int] | None = None,
    *,
    capped: bool = True,
) -> float:
    """A frame's least own seconds, (4) of `SlotControl`: waiting left out; inf where nothing serves it.

    Parameters
    ----------
    control : SlotControl
    rate_bps : float
        What the uplink carries.
    cuts, clocks, levels : sequence of int, optional
        Numbers of those that may be chosen; all unless given.
    capped : bool
        Whether clock and rate together keep the power cap; False: the clock alone does, which at any rate is no more than true.
    """
    there = control.with_slot(rate_bps=rate_bps)
    costs, choices, within = there.costs, there.choices, there.within_power
    within = within if capped else np.broadcast_to(within.any(axis=1, keepdims=True), within.shape)
    seconds = costs.own_s[:, None, None] + choices.seconds[:, :, None] + costs.tail_s[:, None, :]
    some = [
        range(n) if given is None else given for n, given in zip(seconds.shape, (cuts, clocks, levels), strict=True)
    ]
    return float(np.where(within, seconds, np.inf)[np.ix_(*some)].min())


def check_cap(control: SlotControl) -> None:
    """Raise where a power cap lets no cut be served, whatever the channel.

    Parameters
    ----------
    control : SlotControl

    Raises
    ------
    InfeasibleError
        Names the least that device and radio draw.
    """
    if control.power_cap_w is None:
        return
    c, most = control.choices, control.power_cap_w * (1 + TOLERANCE)
    idle_w, slowest_w, sends_w = float(c.power_w[0]), float(c.power_w[1:].min()), c.radio.base_w
    head, bits = c.works[:, 0] > 0, c.works[:, 1] > 0
    if (((slowest_w <= most) | ~head) & ((idle_w + sends_w <= most) | ~bits)).any():
        return
    text = (
        f"power_cap_w={control.power_cap_w:g}: the device draws {idle_w:.4g} W when idle and at least {slowest_w:.4g} W when it computes; to send takes at "
        f"least {sends_w:.4g} W more than idle"
    )
    raise InfeasibleError(
        f"no cut can be served within the power cap, so no frame ever would be:\n  - {text}\nGive a higher cap", (text,)
    )


def check_limits(control: SlotControl, rates_bps: np.ndarray) -> None:
    """Raise where a deadline can be met at no rate of a channel, or nothing can be served within a power cap: no frame ever would be.

    Parameters
    ----------
    control : SlotControl
    rates_bps : array, shape (slots,)
        What the uplink carries. A frame takes the least at the highest of them.

    Raises
    ------
    InfeasibleError
        Names the least that is possible; likewise for a power cap that lets no cut be served.
    """
    check_cap(control)
    if control.deadline_s is None:
        return
    best = float(np.max(rates_bps))
    least = least_own_s(control, best, capped=False)
    if least <= control.deadline_s * (1 + TOLERANCE):
        return
    text = (
        f"deadline_s={control.deadline_s:g}: a frame takes at least {least:.4g} s, whatever the cut and the clock, at the channel's best rate "
        f"({best / 1e6:.4g} Mbit/s), waiting left out"
    )
    raise InfeasibleError(
        f"no choice of cut, clock and rate meets the deadline, so every frame would be refused:\n  - {text}\n"
        "Give a longer deadline, or a quicker device, server or link",
        (text,),
    )


def why_refused(control: SlotControl, mean_bps: float, *knobs: Sequence[int] | None) -> str:
    """Why frames were refused that were all to be served: the limits, and what a frame takes at least at the mean rate.

    Parameters
    ----------
    control : SlotControl
    mean_bps : float
        Of the channel.
    *knobs
        Cuts, clocks, levels that might be chosen, as in `least_own_s`.
    """
    limits = [f"{n} = {v:g}" for n in LIMITS if (v := getattr(control, n)) is not None]
    limits += ["the thermal limit"] if control.thermal is not None else []
    least = least_own_s(control, mean_bps, *knobs)
    told = f"takes a frame at least {least:.4g} s, waiting left out" if np.isfinite(least) else "serves no frame at all"
    return (
        f"no choice of cut, clock and rate met {' and '.join(limits) or 'what they ask'} in their slots; at the channel's mean rate "
        f"({mean_bps / 1e6:.4g} Mbit/s) what may be chosen {told}"
    )
