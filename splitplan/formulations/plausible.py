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


def weight_doubts(control: SlotControl, seconds: float) -> list[str]:
    """What V cannot do in a run of so many seconds: nothing at all because it is tiny, or settle because it is huge."""
    waits, slot_s = waits_s(control), control.slot_s
    if control.V == 0 or waits is None:
        return []
    least, most = waits
    if most < FELT * slot_s:
        text = (
            f"V = {control.V:g} s²/J is so small that energy hardly counts: for its sake work waits {most:.2g} s, and a slot is {slot_s:g} s; "
            f"V is felt from about {_rough(control.V * FELT * slot_s / most)} on, and trades latency for energy from about {_rough(control.V * slot_s / most)}"
        )
        return [text]
    if least > seconds:
        text = (
            f"V = {control.V:g} s²/J is so large that work waits {least:.3g} s until it is worth its energy, and the run is {seconds:g} s: it shows how "
            f"the backlog grows, not what the policy needs in the long run; with V = {_rough(control.V * 0.1 * seconds / least)} that is a tenth of the run"
        )
        return [text]
    return []


def waits_s(control: SlotControl) -> tuple[float, float] | None:
    """How long work waits until it is worth its energy, by (7) of `SlotControl`: V·w_E·P/g of the cheapest and of the dearest way; None where no energy is weighed or drawn."""
    c, rate = control.choices, control.system.link.rate_up_bps
    on = c.speed > 0
    watts = [*(c.active_w[on] / c.speed[on]).tolist(), float(sending_w(c.radio, rate, rate))]
    drawn = np.array([w for w in watts if w > 0]) * control.V * control.weights["energy"]
    return (float(drawn.min()), float(drawn.max())) if len(drawn) and drawn.max() > 0 else None


def _rough(value: float) -> str:
    """One digit, as 20 and not 2e+01."""
    return f"{float(f'{value:.1g}'):g}"
