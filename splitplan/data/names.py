"""What choices are called when people read of them: cuts by the layer they are after, clocks in MHz, levels as shares of the uplink."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from splitplan.data.plan import SplitPlan
from splitplan.data.slot import ON

SMALL = 5e-4
"""Shares below are left out where shares are listed."""


def cut_names(plans: Sequence[SplitPlan]) -> tuple[str, ...]:
    """``all on the device``, ``all on the server``, ``after conv2``; where two cuts are after one layer, with what else tells them apart."""
    names = [
        "all on the device"
        if not plan.server_layers
        else f"after {plan.device_layers[-1]}"
        if plan.device_layers
        else "all on the server"
        for plan in plans
    ]
    longer = [
        f"{name} ({len(plan.device_layers)} layers)" if names.count(name) > 1 else name
        for name, plan in zip(names, plans, strict=True)
    ]
    return tuple(f"{name}, cut {k}" if longer.count(name) > 1 else name for k, name in enumerate(longer))


def clock_name(clock_hz: float) -> str:
    """``off``, ``on`` (a clock that is not ours to choose), ``614.4 MHz``."""
    return {0.0: "off", ON: "on"}.get(clock_hz, f"{clock_hz / 1e6:.6g} MHz")


def level_name(share: float) -> str:
    """``silent``, or ``37.5 % of the uplink``."""
    return f"{100 * share:.4g} % of the uplink" if share else "silent"


def shares(names: Iterable[str], amounts: Iterable[float]) -> str:
    """``off (61.2 %), 614.4 MHz (38.8 %)``: the most first, small ones left out; ``none`` where there is nothing."""
    found: Counter[str] = Counter()
    for name, amount in zip(names, amounts, strict=True):
        found[name] += amount  # type: ignore[assignment]  # amounts are not whole numbers
    whole = float(sum(found.values()))
    told = [f"{name} ({100 * a / whole:.3g} %)" for name, a in found.most_common() if whole > 0 and a > SMALL * whole]
    return ", ".join(told) or "none"
