"""Instances as hypothesis strategies, drawn through the same generators as the seeded ones of ``benchmarks/instances.py``."""

from __future__ import annotations

from hypothesis import strategies as st

import splitplan as sp
from benchmarks import instances, slot_instances


class Drawn:
    """Choices of hypothesis: what fails is shrunk to fewer layers and plainer numbers."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw

    def whole(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def unit(self) -> float:
        # 1 first: what happens with some probability does not happen in the plainest instance.
        return 1.0 - self.draw(st.integers(0, 4096)) / 4096


@st.composite
def graphs(draw: st.DrawFn, least: int = 1, most: int = 10, ranges: instances.Ranges = instances.REAL) -> sp.LayerGraph:
    return instances.graph(Drawn(draw), draw(st.integers(least, most)), ranges)


@st.composite
def split_problems(
    draw: st.DrawFn,
    least: int = 1,
    most: int = 9,
    ranges: instances.Ranges | None = None,
    linear: bool = False,
    limits: bool = True,
) -> sp.SplitPoint:
    """A SplitPoint; ``linear``: an objective that a cut can price, and no limits."""
    ranges = draw(st.sampled_from(list(instances.RANGES.values()))) if ranges is None else ranges
    return instances.split_problem(
        Drawn(draw),
        draw(st.integers(least, most)),
        ranges,
        objectives=instances.LINEAR_OBJECTIVES if linear else instances.OBJECTIVES,
        limits=limits and not linear,
    )


@st.composite
def relay_problems(
    draw: st.DrawFn, places: int = 3, least: int = 1, most: int = 5, direct: bool = False
) -> sp.RelaySplit:
    ranges = draw(st.sampled_from(list(instances.RANGES.values())))
    return instances.relay_problem(Drawn(draw), draw(st.integers(least, most)), places, ranges, direct=direct)


@st.composite
def allocations(
    draw: st.DrawFn, most: int = 6, caps: float = 0.3, deadlines: float = 0.0, zeros: float = 0.1
) -> sp.RateAllocation:
    return instances.allocation(Drawn(draw), draw(st.integers(1, most)), caps=caps, deadlines=deadlines, zeros=zeros)


@st.composite
def slot_problems(draw: st.DrawFn, most: int = 6, limits: bool = True, continuous: bool = False) -> sp.SlotControl:
    """A SlotControl in some state."""
    choose = Drawn(draw)
    control = slot_instances.slot_control(choose, draw(st.integers(1, most)), limits=limits, continuous=continuous)
    return control.at(slot_instances.slot_state(choose, control))
