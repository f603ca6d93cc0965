"""Numbers that are legal and almost surely not what was meant: another unit, or a weight that decides nothing. Told, never refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from splitplan.formulations.costs import sending_w

if TYPE_CHECKING:
    from splitplan.data.scenario import Scenario
    from splitplan.formulations.slot import SlotControl

SLOWEST_BPS = 1_000.0
"""An uplink below carries a small picture in ten minutes."""

LONGEST_SLOT_S, SHORTEST_SLOT_S = 10.0, 1e-4
"""Within a longer slot frames wait for a decision; a shorter one is over before anything has been decided."""

FELT = 1e-3
"""Part of a slot for which work waits at least where a weight is felt."""

ALIKE = 1e-9
"""Relative difference of joules below which one clock is no dearer than another."""


def unit_doubts(control: SlotControl, scene: Scenario) -> list[str]:
    """What of a control and a scenario looks like another unit, a sentence each."""
    found = []
    if not SHORTEST_SLOT_S <= control.slot_s <= LONGEST_SLOT_S:
        found.append(
            f"slot_s = {control.slot_s:g} is in seconds, and slots are usually 0.01 to 1: 100 milliseconds are slot_s=0.1"
        )
    link = control.system.link
    rates = {
        f"the rate of link {link.name!r}": link.rate_up_bps,
        f"the mean rate of channel {scene.channel.name!r}": scene.channel.mean_bps,
    }
    slow = {what: bps for what, bps in rates.items() if bps < SLOWEST_BPS}
    if slow:
        what = " and ".join(f"{name} is {bps:g} bit/s" for name, bps in slow.items())
        found.append(f"{what}; rates are in bit/s: 5 Mbit/s are 5e6")
    return found


def weight_doubts(control: SlotControl, seconds: float, grown: bool) -> list[str]:
    """What V does not do in a run: anything at all because it is tiny, or settle within the run because it is huge.

    Parameters
    ----------
    control : SlotControl
    seconds : float
        Of the run.
    grown : bool
        Whether much was left at its end.
    """
    least, most = waits_s(control)
    if 0 < most < FELT * control.slot_s:
        text = (
            f"V = {control.V:g} s²/J is so small that energy hardly counts: for its sake work waits {most:.2g} s at most, and a slot is {control.slot_s:g} s; "
            f"V is felt from about {_rough(control.V * FELT * control.slot_s / most)} on, and trades latency for energy from about "
            f"{_rough(control.V * control.slot_s / most)}"
        )
        return [text]
    # Where frames' own seconds decide (a deadline, latency's weight), they force dearer clocks on whatever waits.
    if grown and least is not None and least > seconds and not control.timed:
        text = (
            f"V = {control.V:g} s²/J is so large that no dearer clock is chosen before {least:.3g} s of work wait, and the run is {seconds:g} s: it shows how the "
            f"backlog grows, not what the policy needs in the long run; with V = {_rough(control.V * 0.1 * seconds / least)} that is a tenth of the run"
        )
        return [text]
    return []


def waits_s(control: SlotControl) -> tuple[float | None, float]:
    """Seconds of work that wait, by (7) of `SlotControl`, before the first clock is chosen that is dearer than the cheapest, and before the dearest is, at most.

    A quicker clock is taken for the work that it does more: V w_E times its watts more over its speed more, less the place-holder, which is
    what a second of work takes at the cheapest. None where no quicker clock is dearer. Frames wait so much over the utilization, by Little's law.
    """
    c, rate = control.choices, control.system.link.rate_up_bps
    speed, watts = c.speed[1:], c.active_w[1:]
    ways = watts / speed
    cheapest = int(np.argmin(ways))
    quicker = speed > speed[cheapest] * (1 + ALIKE)
    more = (watts[quicker] - watts[cheapest]) / (speed[quicker] - speed[cheapest])
    more -= ways[cheapest] if control.place_holders else 0.0
    weight = control.V * control.weights["energy"]
    dearer = more[more > ALIKE * ways.max()]
    top = int(np.argmax(c.speed))
    slower = c.speed < c.speed[top] * (1 - ALIKE)  # off among them
    last = (c.active_w[top] - c.active_w[slower]) / (c.speed[top] - c.speed[slower])
    return (
        weight * float(dearer.min()) if len(dearer) else None,
        weight * max(float(last.max()), float(ways.max()), float(sending_w(c.radio, rate, rate))),
    )


def _rough(value: float) -> str:
    """One digit, as 20 and not 2e+01."""
    return f"{float(f'{value:.1g}'):g}"
