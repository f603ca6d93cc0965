"""Runs of `tradeoff`: power and latency of a policy once it has settled, curves of them, and power at a latency on a curve."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import linprog

import splitplan as sp
from splitplan.data.scenario import Slotted
from splitplan.formulations.solution import Solution
from splitplan.formulations.stationary import RESOURCES
from splitplan.policies.slot import SlotPolicy

WARM_S, DRAIN_S = 60.0, 40.0
"""Seconds at least before anything is measured; frames of the last `DRAIN_S` are not looked at, so that the others have time to be answered."""

UNANSWERED, UNSETTLED = 0.005, 0.05
"""A run is no point of a curve when more than this share of its frames had no answer by the end, or when the work that piled up meanwhile is
worth more than this part of its power above idle."""


@dataclass(frozen=True)
class Point:
    """A run, once it has settled.

    Parameters
    ----------
    power_w : float
        Mean of device and radio; work that piled up is allowed for at the bound's prices.
    latency_s : float
        Mean over the frames.
    counts : bool
        Whether it carried its load and had settled.
    """

    power_w: float
    latency_s: float
    counts: bool


@dataclass(frozen=True, eq=False)
class Stage:
    """Arrivals over a channel, the stretch of it that is measured, and what no policy can be below there.

    Parameters
    ----------
    scene : Scenario
    first, last : int
        Slots from and to which is measured; ``last`` is the end.
    bound : Solution
        Of that stretch alone.
    """

    scene: sp.Scenario
    first: int
    last: int
    bound: Solution

    @property
    def floor_w(self) -> float:
        """The bound as a power."""
        return float(self.bound.terms["power_w"])


def stage(control: sp.SlotControl, channel: sp.Channel, rate_hz: float, seconds: float, seed: int) -> Stage:
    """Frames over a channel again and again: whole rounds to settle, then whole rounds that are measured.

    Parameters
    ----------
    control : SlotControl
    channel : Channel
    rate_hz : float
    seconds : float
        To measure, about.
    seed : int
    """
    tau, round_s = control.slot_s, channel.duration_s
    first = round(math.ceil(WARM_S / round_s) * round_s / tau)
    last = first + round(max(1, round(seconds / round_s)) * round_s / tau)
    scene = sp.Scenario(sp.poisson(rate_hz), channel, slots=last, seed=seed, repeat=True)
    whole = scene.slotted(tau)
    part = Slotted(whole.frames[first:], whole.rate_bps[first:], whole.arrive_s)
    return Stage(scene, first, last, sp.StationaryBound(control, scene, part).solve())


def run(policy: SlotPolicy, on: Stage) -> Point:
    """A policy's settled power and latency."""
    tau, idle_w = policy.control.slot_s, float(policy.control.choices.power_w[0])
    result = sp.simulate(policy, on.scene, bound=False, trace=True)
    seconds, end_s = (on.last - on.first) * tau, on.last * tau
    piled = np.array(result.left) - result.trace[on.first, :3]
    worth_w = sum(on.bound.duals[name] * q for name, q in zip(RESOURCES, piled, strict=True)) / seconds
    power_w = float(result.trace[on.first :, 3].sum()) / seconds
    mine = (result.arrive_s >= on.first * tau) & (result.arrive_s < end_s - DRAIN_S)
    took, arrived = result.latency_s[mine], result.arrive_s[mine]
    if not len(took):
        raise AssertionError(f"no frame arrived in {seconds:g} s")
    waiting = ~np.isfinite(took)
    settled = abs(worth_w) <= UNSETTLED * max(power_w - idle_w, 1e-9)
    counts = bool(waiting.mean() <= UNANSWERED and settled and not result.sums["refused"])
    return Point(power_w + worth_w, float(np.where(waiting, end_s - arrived, took).mean()), counts)


def with_weight(policy: SlotPolicy, v: float) -> SlotPolicy:
    """The same policy at another V."""
    return replace(policy, control=replace(policy.control, V=v))


def carries_hz(policy: SlotPolicy, mean_bps: float) -> float:
    """Frames a second that a policy's cuts, clocks and levels can carry at best: an LP over its cuts.

    Parameters
    ----------
    policy : SlotPolicy
    mean_bps : float
        What the uplink carries on average.
    """
    c = policy.control.choices
    assert policy.cuts is not None and policy.clocks is not None and policy.levels is not None
    most = np.array([c.speed[list(policy.clocks)].max(), c.levels[list(policy.levels)].max() * mean_bps, 1.0])
    works = c.works[list(policy.cuts)]
    found = linprog(-np.ones(len(works)), A_ub=works.T / most[:, None], b_ub=np.ones(3))
    assert found.fun is not None  # 0 frames are always carried
    return -float(found.fun)


def front(points: Iterable[Point]) -> list[Point]:
    """Those that count and that no other beats in power and in latency, quickest first."""
    kept: list[Point] = []
    for p in sorted((p for p in points if p.counts), key=lambda p: (p.latency_s, p.power_w)):
        if not kept or p.power_w < kept[-1].power_w:
            kept.append(p)
    return kept


def power_at(curve: Sequence[Point], latency_s: float) -> float:
    """Power on a curve at a mean latency, linear between its points; NaN where it cannot be so quick, its least where it need not be so slow."""
    if not curve or latency_s < curve[0].latency_s:
        return math.nan
    return float(np.interp(latency_s, [p.latency_s for p in curve], [p.power_w for p in curve]))
