"""What is wrong with the data of a SlotControl, all of it at once, in the user's words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from splitplan.data.cut_set import CutSet
from splitplan.data.slot import SlotState, Thermal
from splitplan.errors import DataError, did_you_mean
from splitplan.formulations.split_checks import check_objective, check_places
from splitplan.models.graph import number_problem

if TYPE_CHECKING:
    from splitplan.formulations.slot import SlotControl

WEIGHED = ("energy", "latency", "throughput")
MODES = {"min-energy": {"energy": 1.0}, "min-latency": {"latency": 1.0}, "max-throughput": {"throughput": 1.0}}
"""What V weighs, by name."""


def problems(control: SlotControl) -> list[str]:
    """One sentence a problem; empty when there is none."""
    found: list[str | None] = [
        number_problem("slot_s", control.slot_s, positive=True),
        number_problem("V", control.V),
        number_problem("persistence", control.persistence),
        number_problem("cut_change_j", control.cut_change_j),
        number_problem("clock_change_j", control.clock_change_j),
    ]
    for name in ("deadline_s", "power_cap_w", "power_budget_w", "latency_limit_s", "throughput_min_hz"):
        value = getattr(control, name)
        found.append(None if value is None else number_problem(name, value, positive=name != "throughput_min_hz"))
    return (
        [p for p in found if p]
        + _mode(control.mode)
        + _levels(control.rate_levels)
        + _system(control)
        + _state(control)
        + _split(control)
    )


def _mode(mode: object) -> list[str]:
    if isinstance(mode, str) and mode in MODES:
        return []
    if isinstance(mode, Mapping):
        return check_objective(mode, WEIGHED)
    return [f"mode is {mode!r}; give {', '.join(MODES)}, or weights of {', '.join(WEIGHED)}{did_you_mean(mode, MODES)}"]


def _levels(levels: tuple[float, ...]) -> list[str]:
    try:
        values = np.array(levels, float)
    except (TypeError, ValueError):
        return [f"rate_levels is {levels!r}; give numbers"]
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all() or values[0] <= 0 or values[-1] > 1:
        return [f"rate_levels is {levels!r}; give shares of what the uplink can carry, above 0 and at most 1"]
    if (np.diff(values) <= 0).any():
        return ["rate_levels is not ascending or repeats a level; sort it and name each level once"]
    return []


def _system(control: SlotControl) -> list[str]:
    if found := check_places(control.profile, control.system):
        return found
    device = control.system.device
    for ask in (lambda: device.idle_w, lambda: device.power_w(None), lambda: control.system.link.needs_radio):
        try:
            ask()
        except DataError as e:
            found += [f"{e.where}: {p}" if e.where else p for p in e.problems]
    found = list(dict.fromkeys(found))
    if not found and (low := [p for p in device.active_power_w if p < device.idle_w]):
        found.append(
            f"device {device.name!r}: active_power_w of {low[0]:g} W is below idle_power_w = {device.idle_w:g} W: "
            "computing would save energy; mend one of them"
        )
    for name in ("power_cap_w", "power_budget_w"):
        if (watts := getattr(control, name)) is not None and not found and watts < device.idle_w:
            found.append(f"{name} = {watts:g} is below the idle power of {device.idle_w:g} W: nothing could keep it")
    return found


def _split(control: SlotControl) -> list[str]:
    """Of what the control has in common with a `SplitPoint`: wire, result, input, pins."""
    if check_places(control.profile, control.system):
        return []  # told already
    try:
        control.split  # noqa: B018  is made to be looked at
    except DataError as e:
        return list(e.problems)
    return []


def _state(control: SlotControl) -> list[str]:
    if not isinstance(control.state, SlotState):
        return [f"state is {control.state!r}; give a splitplan.SlotState"]
    if control.thermal is None:
        return []
    if not isinstance(control.thermal, Thermal):
        return [f"thermal is {control.thermal!r}; give a splitplan.Thermal"]
    return []


def hull_loses(control: SlotControl) -> list[str]:
    """Why the hull's cuts would not do for a problem; empty when they do."""
    found = []
    if control.deadline_s is not None:
        found.append(
            "deadline_s with the hull's cuts would lose optima (a cut that is best for no weights may be the only one in time)"
        )
    if len(control.profile.graph.outputs) > 1:
        found.append(
            "the model has several outputs, so cuts bring back results of several sizes, which the hull of device, uplink and "
            "server work does not see"
        )
    return found


def cut_problems(control: SlotControl, cuts: CutSet) -> list[str]:
    """Why a set of cuts is not one for this problem, or may not hold an optimum."""
    if not isinstance(cuts, CutSet):
        return [f"cuts is a {type(cuts).__name__}; give what splitplan.cut_set returns, or leave it out"]
    found = []
    if cuts.fingerprint != control.profile.graph.fingerprint:
        found.append("cuts are of another model: leave them out, or make them of this one by splitplan.cut_set")
    if (cuts.wire, cuts.result) != (control.wire, control.result):
        found.append(f"cuts were made for wire {cuts.wire}, result {cuts.result}: make them for this problem's")
    lost = hull_loses(control) if cuts.kept == "hull" else []
    return found + [f'{why}: give cut_set(…, keep="pareto"), or leave cuts out' for why in lost]
