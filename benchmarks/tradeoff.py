"""Joint control of cut, clock and rate against every baseline, at equal mean latency and at equal throughput; losses included."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

import splitplan as sp
from benchmarks import results, tradeoff_figure
from benchmarks.registry import Progress, Study, register
from benchmarks.tradeoff_cases import REFERENCE, SERVER, SLOT_S, Case, cases, uplinks
from benchmarks.tradeoff_runs import (
    UNANSWERED,
    UNSETTLED,
    Point,
    Stage,
    carries_hz,
    front,
    power_at,
    run,
    stage,
    with_weight,
)
from splitplan.policies.slot import SlotPolicy
from splitplan.policies.slot_baselines import (
    ablations,
    all_or_nothing,
    device_only,
    fixed,
    greedy_latency,
    server_only,
)

MODELS, BOARDS, LOADS = ("resnet50", "mobilenet_v2"), ("jetson-tx2", "jetson-nano"), (0.3, 0.6, 0.9)
JOINT, GREEDY = "joint", "greedy latency"
TIMES = (1.5, 3.0, 10.0, np.inf)
"""Latencies at which powers are compared: multiples of the joint rule's quickest; the last: any, each where it is most frugal."""
MOST = 16
"""Settings of a baseline, at most, that are taken from the search to the measurement, spread over its curve."""


@dataclass(frozen=True)
class Sizes:
    """How much is run.

    Parameters
    ----------
    weights, search_weights : tuple of float
        V of the curves, and of the search for fixed knobs.
    seeds : int
        Arrivals that are measured.
    seconds, search_seconds : float
    """

    weights: tuple[float, ...]
    search_weights: tuple[float, ...]
    seeds: int
    seconds: float
    search_seconds: float


FULL = Sizes(
    (0.0, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1.0, 2.0), (0.0, 2e-3, 2e-2, 0.2, 2.0), 4, 240.0, 120.0
)
SMOKE = Sizes((1e-3, 2e-2, 0.1), (2e-2,), 2, 120.0, 120.0)


@dataclass(frozen=True)
class Contender:
    """A policy over a case, on the piece of the channel that is measured.

    Parameters
    ----------
    name : str
    share : float
        Of what any policy can carry, as far as its knobs let it; by an LP.
    curves : list of list of Point
        Of each arrivals' seed: its front.
    mean : list of Point
        The front of the means over seeds, for figures.
    """

    name: str
    share: float
    curves: list[list[Point]] = field(default_factory=list)
    mean: list[Point] = field(default_factory=list)

    @property
    def carries(self) -> bool:
        """Whether it carried the load with every seed."""
        return bool(self.curves) and all(self.curves)

    @property
    def quickest_s(self) -> float:
        """The least mean latency that it has with every seed."""
        return max(c[0].latency_s for c in self.curves) if self.carries else np.nan

    def power_w(self, latency_s: float) -> np.ndarray:
        """At a mean latency, by seed; NaN where it is not so quick."""
        return np.array([power_at(c, latency_s) for c in self.curves]) if self.carries else np.array([np.nan])


@dataclass(frozen=True)
class Outcome:
    """What came of a case.

    Parameters
    ----------
    case : Case
    idle_w, floor_w : float
        The device's idle power; what no policy can be below, mean over seeds.
    contenders : dict of str to Contender
        The joint rule first.
    """

    case: Case
    idle_w: float
    floor_w: float
    contenders: dict[str, Contender]

    def saving(self, name: str, latency_s: float, *, above_idle: bool) -> tuple[float, float]:
        """What the joint rule saves of a baseline's power at a mean latency: mean over seeds, and its standard error."""
        theirs, ours = self.contenders[name].power_w(latency_s), self.contenders[JOINT].power_w(latency_s)
        if np.isnan(theirs).any() or np.isnan(ours).any():
            return np.nan, np.nan
        saved = (theirs - ours) / (theirs - (self.idle_w if above_idle else 0.0))
        return float(saved.mean()), float(saved.std(ddof=1) / np.sqrt(len(saved)))


# -- one case -----------------------------------------------------------------------------------------------


def kinds(control: sp.SlotControl) -> Iterator[tuple[str, list[SlotPolicy]]]:
    """Every contender, and the ways in which its fixed knobs may be set."""
    yield JOINT, [SlotPolicy(control)]
    for free in ablations():
        yield f"{' and '.join(free)} free", list(fixed(control, free))
    for make in (device_only, server_only, all_or_nothing, greedy_latency):
        policy = make(control)
        yield policy.name, [policy]


def searched(settings: list[SlotPolicy], on: Stage, weights: Sequence[float]) -> list[SlotPolicy]:
    """The settings and weights that are on the front of all of them: for every latency the one of least power among those quick enough."""
    tried = [with_weight(policy, v) for policy in settings for v in weights]
    points = [run(policy, on) for policy in tried]
    best = front(points)
    chosen = [tried[next(i for i, q in enumerate(points) if q is p)] for p in best]
    if len(chosen) <= MOST:
        return chosen
    return [chosen[round(i)] for i in np.linspace(0, len(chosen) - 1, MOST)]


def contend(case: Case, sizes: Sizes) -> Outcome:
    """All contenders over a case."""
    control, up = case.control, case.uplink
    search = stage(control, up.chosen_on, case.chosen_hz, sizes.search_seconds, seed=1000)
    stages = [
        stage(control, up.measured_on, case.measured_hz, sizes.seconds, seed) for seed in range(1, sizes.seeds + 1)
    ]
    found = {}
    for name, settings in kinds(control):
        share = max(carries_hz(p, up.measured_on.mean_bps) for p in settings) * case.load / case.measured_hz
        able = [p for p in settings if carries_hz(p, up.chosen_on.mean_bps) > case.chosen_hz]
        if share <= case.load or not able:
            found[name] = Contender(name, share)
            continue
        if name == GREEDY:
            policies = able
        elif len(settings) > 1:
            policies = searched(able, search, sizes.search_weights)
        else:
            policies = [with_weight(able[0], v) for v in sizes.weights]
        points = [[run(p, on) for on in stages] for p in policies]
        means = [
            Point(
                statistics.fmean(q.power_w for q in row),
                statistics.fmean(q.latency_s for q in row),
                all(q.counts for q in row),
            )
            for row in points
        ]
        found[name] = Contender(name, share, [front(column) for column in zip(*points, strict=True)], front(means))
    floor_w = statistics.fmean(on.floor_w for on in stages)
    return Outcome(case, float(control.choices.power_w[0]), floor_w, found)


# -- tables ---------------------------------------------------------------------------------------------------


def quickest(outcome: Outcome) -> float:
    """The joint rule's quickest mean latency, NaN where it does not carry the load."""
    return outcome.contenders[JOINT].quickest_s


def summary(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """A row a baseline and a latency: what the joint rule saves, over the cases that can be compared, and why others cannot."""
    able = [o for o in outcomes if o.contenders[JOINT].carries]
    rows = []
    for name in list(outcomes[0].contenders)[1:]:
        carried = [o for o in able if o.contenders[name].carries]
        for times in TIMES:
            saved = [
                [o.saving(name, times * quickest(o), above_idle=above) for above in (True, False)] for o in carried
            ]
            there = [pair for pair in saved if not np.isnan(pair[0][0])]
            rows.append(
                {
                    "against": name,
                    "mean latency": f"{times:g}x quickest" if np.isfinite(times) else "any",
                    "cases": len(there),
                    "cannot carry": len(able) - len(carried),
                    "not so quick": len(carried) - len(there),
                    **_spread("above idle", [100 * above[0] for above, _ in there]),
                    **_spread("total", [100 * total[0] for _, total in there]),
                    "error": 100 * statistics.median(above[1] for above, _ in there) if there else np.nan,
                    "better in": sum(above[0] > 2 * above[1] for above, _ in there),
                    "worse in": sum(above[0] < -2 * above[1] for above, _ in there),
                    "x quickest": statistics.median(quickest(o) / o.contenders[name].quickest_s for o in carried)
                    if carried
                    else np.nan,
                    "reach %": 100 * statistics.median(o.contenders[name].share for o in outcomes),
                }
            )
    return pd.DataFrame(rows)


def _spread(what: str, values: list[float]) -> dict[str, float]:
    if not values:
        return {f"{what} %": np.nan, f"{what} least %": np.nan, f"{what} most %": np.nan}
    return {f"{what} %": statistics.median(values), f"{what} least %": min(values), f"{what} most %": max(values)}


def by_case(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """A row a case: what it is, how near the joint rule comes to what no policy can be below, and its strongest opponent."""
    rows = []
    for o in outcomes:
        c, joint, at = o.case, o.contenders[JOINT], 3.0 * quickest(o)
        room = o.floor_w - o.idle_w
        row: dict[str, Any] = {
            "model": c.model,
            "board": c.board.removeprefix("jetson-"),
            "input": c.given,
            "uplink": c.uplink.name,
            "load %": 100 * c.load,
            "frames/s": c.measured_hz,
            "binds": c.binds,
            "bound W above idle": room,
            "quickest s": quickest(o),
        }
        for label, latency in (("3x quickest", at), ("any", np.inf)):
            row[f"above bound %, {label}"] = 100 * (float(joint.power_w(latency).mean()) - o.floor_w) / room
        savings = {n: o.saving(n, at, above_idle=True) for n in list(o.contenders)[1:]}
        against = {n: s for n, s in savings.items() if not np.isnan(s[0])}
        hardest = min(against, key=lambda n: against[n][0], default="")
        row["hardest at 3x"] = hardest or ("none is so quick" if joint.carries else "the joint rule does not carry it")
        row["saved above idle %"] = 100 * against[hardest][0] if hardest else np.nan
        row["± %"] = 100 * against[hardest][1] if hardest else np.nan
        quick = {n: k.quickest_s for n, k in o.contenders.items() if n != JOINT and k.carries}
        first = min(quick, key=lambda n: quick[n], default="")
        row["quickest of all"] = f"{first}, {quick[first]:.3g} s" if first else ""
        rows.append(row)
    return pd.DataFrame(rows)


def by_load(outcomes: Sequence[Outcome], table: pd.DataFrame) -> pd.DataFrame:
    """A row a load: how often the joint rule carries it, comes near the bound, and beats the hardest baseline."""
    rows = []
    for load, mine in table.groupby("load %"):
        saved, error = mine["saved above idle %"], mine["± %"]
        rows.append(
            {
                "load %": load,
                "cases": len(mine),
                "carried": sum(o.contenders[JOINT].carries for o in outcomes if 100 * o.case.load == load),
                "above bound %, any latency": mine["above bound %, any"].median(),
                "above bound %, 3x quickest": mine["above bound %, 3x quickest"].median(),
                "less than the hardest at 3x": int((saved > 2 * error).sum()),
                "alike": int((saved.abs() <= 2 * error).sum()),
                "more": int((saved < -2 * error).sum()),
                "saved above idle % (median)": saved.median(),
            }
        )
    return pd.DataFrame(rows)


def note(outcomes: Sequence[Outcome], missing: list[str], sizes: Sizes) -> str:
    """What the tables show, and under which assumptions."""
    table = by_case(outcomes)
    failed = [o.case.name for o in outcomes if not o.contenders[JOINT].carries]
    near = table["above bound %, any"].dropna()
    told = f"{len(outcomes)} cases; all are inside the capacity region. The joint rule carries {len(outcomes) - len(failed)}"
    told += f" (not: {'; '.join(failed)})" if failed else ""
    told += (
        f". Where latency does not matter its power above idle is above the bound's by {near.median():.0f} % in the median case, {near.max():.0f} % in the worst. `hardest`: of each "
        "case the baseline that saves most."
    )
    words = (
        "`cannot carry`: cases in which no setting of the baseline carries the load: marked, not averaged; likewise `not so quick`. Percentages: what the joint rule saves of the "
        "baseline's power at the same mean latency, above idle and in all: median, least (a loss, where negative) and most over the cases; `error`: the median standard error over seeds; "
        "`better in`, `worse in`: cases beyond two of them; `x quickest`: the joint rule's quickest mean latency over the baseline's, median. `any`: equal throughput and nothing "
        "else: both carry all frames, each at the latency where it is most frugal. `reach`: what the baseline's knobs can carry at best, of what any policy can, median. `above bound`: the "
        "joint rule's power above idle against what no policy can be below on the same path."
    )
    assumed = (
        f"Device: a board of the catalogue; server: {SERVER}. Times at the top clock by the catalogue's analytic model (0.3 of the peak: an assumption), over the clocks by its published fits "
        "a/f + b; powers by its measured tables, idle power extrapolated (an assumption). Input: raw (a byte a value) or a JPEG of 2 bits a pixel; other tensors cross as int8. Radio: the "
        "catalogue's affine fits of SIGCOMM 2021, LTE 78.5 mW a Mbit/s + 0.193 W, 5G (low band, on the walk) 32.2 + 0.497; no tails. "
        f"Slots of {1e3 * SLOT_S:g} ms, Poisson arrivals at a share of the capacity region (`solvers.columns.capacity`)."
    )
    measured = (
        "Each channel is cut into blocks of 10 s: fixed knobs are chosen on the odd ones with other arrivals (every value of each knob, "
        f"{len(sizes.search_weights)} V; the front of them, at most {MOST} settings a baseline), all is measured on the even ones, repeated, {sizes.seeds} seeds of {sizes.seconds:g} s after a time "
        f"to settle. V of {', '.join(f'{v:g}' for v in sizes.weights)} for the joint rule, device only, server only, all or nothing. A policy's power at a latency is linear between the "
        "points of its own front. Work that piled up is charged at the bound's prices; a run in which that is more than "
        f"{UNSETTLED:.0%} of its power above idle, or {UNANSWERED:.1%} of its frames have no answer, is no point."
    )
    left = f"Left out, for want of their files (set {REFERENCE} to the folder that holds them): {', '.join(missing)}."
    return "\n\n".join(
        [
            told,
            results.markdown(by_load(outcomes, table)),
            words,
            assumed,
            measured,
            *([left] if missing else []),
            results.markdown(table),
        ]
    )


def measure(smoke: bool, progress: Progress) -> tuple[pd.DataFrame, str]:
    """Every case, two at a time."""
    sizes = SMOKE if smoke else FULL
    links, missing = uplinks(smoke)
    todo = cases(("tiny-branch",), BOARDS[:1], (0.02,), links) if smoke else cases(MODELS, BOARDS, LOADS, links)
    if smoke:
        todo = itertools.islice(todo, 1)
    outcomes: list[Outcome] = []
    for outcome in Parallel(n_jobs=1 if smoke else 2, return_as="generator")(
        delayed(contend)(case, sizes) for case in todo
    ):
        outcomes.append(outcome)
        progress(f"tradeoff: {outcome.case.name}")
    text = note(outcomes, missing, sizes)
    if not smoke:
        results.FOLDER.mkdir(parents=True, exist_ok=True)
        tradeoff_figure.draw(outcomes).savefig(results.FOLDER / "tradeoff.png")
        text = f"![Power above idle against mean latency](tradeoff.png)\n\n{text}"
    return summary(outcomes), text


register(
    Study(
        name="tradeoff",
        title="Joint control against every baseline",
        aim="on three recorded uplinks and a synthetic one, ResNet-50 and MobileNetV2 on TX2- and Nano-like devices, at 30, 60, 90 % of the capacity region: energy against latency; savings at "
        "equal mean latency and at equal throughput, losses included",
        measure=measure,
    )
)
