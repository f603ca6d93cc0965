"""Random graphs, profiles, systems, problems and users, each from a seed: what tests and benchmarks solve.

Every generator asks a `Choices` for its random choices, so that the same code serves a seeded generator here and hypothesis in
``tests/generators.py`` (which then shrinks what fails).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import pandas as pd

import splitplan as sp
from splitplan.data.profile import COLUMNS
from splitplan.models.graph import INPUT

T = TypeVar("T")


class Choices(Protocol):
    """Where random choices come from."""

    def whole(self, low: int, high: int) -> int:
        """A whole number, both ends included."""
        ...

    def unit(self) -> float:
        """A number from 0 to 1."""
        ...


class Seeded:
    """Choices of a NumPy generator: the same seed, the same instance, on every machine."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def whole(self, low: int, high: int) -> int:
        """Uniform."""
        return int(self.rng.integers(low, high + 1))

    def unit(self) -> float:
        """Uniform."""
        return float(self.rng.random())


def chance(choose: Choices, probability: float) -> bool:
    """True with this probability."""
    return choose.unit() < probability


def one_of(choose: Choices, options: Sequence[T]) -> T:
    """One option."""
    return options[choose.whole(0, len(options) - 1)]


def log_between(choose: Choices, low: float, high: float) -> float:
    """Log-uniform."""
    return float(low * (high / low) ** choose.unit())


@dataclass(frozen=True)
class Ranges:
    """Between what the numbers of an instance lie, and how often they are 0 or tie.

    Parameters
    ----------
    seconds, size_bytes, rate_bps : (float, float)
    zero : float
        Probability that a time or a size is 0.
    ties : bool
        Times and sizes are small whole multiples of the low end, so that many plans cost the same.
    """

    seconds: tuple[float, float]
    size_bytes: tuple[float, float]
    rate_bps: tuple[float, float]
    zero: float = 0.0
    ties: bool = False

    def time(self, choose: Choices) -> float:
        """Seconds of a layer."""
        return self._number(choose, self.seconds)

    def size(self, choose: Choices) -> float:
        """Bytes of a tensor or parameter."""
        return self._number(choose, self.size_bytes)

    def _number(self, choose: Choices, ends: tuple[float, float]) -> float:
        if chance(choose, self.zero):
            return 0.0
        return ends[0] * choose.whole(0, 4) if self.ties else log_between(choose, *ends)


REAL = Ranges((1e-5, 1e-1), (1e3, 1e7), (1e6, 1e9), zero=0.05)
"""Like a network on a phone, over LTE to 5G."""
HUGE = Ranges((1e-9, 1e3), (1.0, 1e10), (1e3, 1e11), zero=0.1)
"""Everything that can be asked, mixed."""
TIES = Ranges((1e-3, 1e-3), (1e4, 1e4), (1e7, 1e7), ties=True)
"""Many plans of the same cost."""
RANGES = {"real": REAL, "huge": HUGE, "ties": TIES}

DTYPES = ("float32", "float32", "float32", "float16", "float64", "bfloat16", "int64", "bool")


def graph(
    choose: Choices,
    layers: int,
    ranges: Ranges = REAL,
    *,
    reach: int | None = None,
    dense: float = 0.35,
    name: str = "random",
) -> sp.LayerGraph:
    """A random layer graph: several inputs and outputs, tensors with many readers, shared parameters, layers of several outputs.

    Parameters
    ----------
    choose : Choices
    layers : int
    ranges : Ranges
    reach : int, optional
        A layer reads tensors of the ``reach`` layers before it; all of them unless given. Small: long and narrow.
    dense : float
        Probability of each further tensor that a layer reads.
    name : str
    """
    made: list[dict[str, Any]] = [
        {"name": f"in{i}", "producer": INPUT, "readers": [], "at": -1} for i in range(choose.whole(1, 2))
    ]
    for v in range(layers):
        near = [t for t in made if reach is None or t["at"] >= v - reach] or made[-1:]
        first = near[-1] if reach is not None and chance(choose, 0.7) else one_of(choose, near)
        reads = [first]
        while len(reads) < 4 and chance(choose, dense):
            more = one_of(choose, near)
            reads += [more] if more not in reads else []
        for t in reads:
            t["readers"].append(v)
        outputs = range(1 + chance(choose, 0.2))
        made += [{"name": f"t{v}_{k}", "producer": f"l{v}", "readers": [], "at": v} for k in outputs]
    parameters = [f"p{i}" for i in range(choose.whole(0, max(1, layers // 2)))]
    tensors = [
        sp.Tensor(
            t["name"],
            t["producer"],
            tuple(f"l{v}" for v in t["readers"]),
            ranges.size(choose),
            dtype=one_of(choose, DTYPES),
            is_output=not t["readers"] or chance(choose, 0.1),
        )
        for t in made
        if t["readers"] or t["producer"] != INPUT
    ]
    made_layers = [
        sp.Layer(
            f"l{v}",
            work_flops=1e6,
            parameters=tuple(dict.fromkeys(one_of(choose, parameters) for _ in range(choose.whole(0, 2))))
            if parameters
            else (),
            memory_bytes=ranges.size(choose),
        )
        for v in range(layers)
    ]
    if chance(choose, 0.3):
        made_layers.reverse()  # given in no topological order
    return sp.LayerGraph(
        name, tuple(made_layers), tuple(tensors), {p: ranges.size(choose) for p in parameters}, fingerprint="a" * 64
    )


def profile(
    choose: Choices,
    g: sp.LayerGraph,
    ranges: Ranges = REAL,
    clock_hz: tuple[float, ...] = (),
    places: Sequence[str] = ("device", "server"),
) -> sp.Profile:
    """Random times at the places; each is faster than the one before, most of the time. With clocks, the first one's times at each."""
    rows: list[tuple[Any, ...]] = []
    for layer in g.layers:
        seconds = ranges.time(choose)
        for i, clock in enumerate(clock_hz or (np.nan,)):
            rows.append((layer.name, places[0], clock, seconds * (len(clock_hz or (1,)) - i), 0.0, 1, "given"))
        for place in places[1:]:
            seconds = ranges.time(choose) if chance(choose, 0.3) else seconds * choose.unit()
            rows.append((layer.name, place, np.nan, seconds, 0.0, 1, "given"))
    origins = {place: sp.Origin(device="given by the user") for place in places}
    return sp.Profile(g, pd.DataFrame(rows, columns=list(COLUMNS)), origins)


def system(choose: Choices, ranges: Ranges = REAL) -> sp.System:
    """A random pair of devices with power data, over a random link with a radio, delays, framing and headers."""
    clocks = one_of(choose, ((), (), (5e8, 1e9), (4e8, 8e8, 1.2e9)))
    power = tuple(sorted(choose.unit() * 10 for _ in clocks or (0,)))
    way = link(choose, ranges)
    return sp.System(
        device=sp.Device("phone", clock_hz=clocks, active_power_w=power, idle_power_w=one_of(choose, (0.0, 0.5, 12.0))),
        server=sp.Device("server"),
        link=way,
    )


def link(choose: Choices, ranges: Ranges = REAL) -> sp.Link:
    """A random link with a radio, delays, framing and headers."""
    return sp.Link(
        "random",
        rate_up_bps=log_between(choose, *ranges.rate_bps),
        rate_down_bps=log_between(choose, *ranges.rate_bps),
        rtt_s=one_of(choose, (0.0, 0.002, 0.03)),
        delay_up_s=one_of(choose, (None, None, 0.0, 0.01)),
        delay_down_s=one_of(choose, (None, None, 0.0, 0.02)),
        overhead=one_of(choose, (1.0, 1.046)),
        header_bytes=one_of(choose, (0.0, 200.0)),
        radio=one_of(choose, (sp.Radio(0.0, 0.0, 0.0), sp.Radio(4.4e-7, 5.2e-8, 1.3))),
    )


OBJECTIVES: tuple[Any, ...] = (
    "latency",
    "energy",
    "period",
    "memory",
    "upload",
    {"latency": 1.0, "energy": 0.3},
    {"latency": 1.0, "period": 2.0},
    {"latency": 2.0, "energy": 0.5, "period": 1.0, "memory": 1e-9},
)
LINEAR_OBJECTIVES: tuple[Any, ...] = ("latency", "energy", {"latency": 1.0, "energy": 0.3})
MEASURES = {
    "deadline_s": "latency_s",
    "energy_budget_j": "energy_j",
    "period_limit_s": "period_s",
    "device_memory_bytes": "memory_bytes",
    "upload_limit_bytes": "up_bytes",
}


def split_problem(
    choose: Choices,
    layers: int,
    ranges: Ranges = REAL,
    *,
    objectives: Sequence[Any] = OBJECTIVES,
    limits: bool = True,
    pins: bool = True,
    reach: int | None = None,
    dense: float = 0.35,
) -> sp.SplitPoint:
    """A random SplitPoint. Limits are set around what a random plan of it costs, so that about half of them bind."""
    g, s = graph(choose, layers, ranges, reach=reach, dense=dense), system(choose, ranges)
    options: dict[str, Any] = {
        "objective": one_of(choose, objectives),
        "result": one_of(choose, ("device", "server", "anywhere")),
        "wire": one_of(choose, ("fp32", "fp16", "int8")),
        "input_bytes": one_of(choose, (None, None, 0.0, ranges.size_bytes[0] * 7)),
        "clock_hz": one_of(choose, (None, *s.device.clock_hz)),
    }
    p = profile(choose, g, ranges, s.device.clock_hz)
    if pins and chance(choose, 0.4):
        # Heads are closed: pins drawn from the two sides of one cut never contradict each other.
        cut = choose.whole(0, layers)
        for option, among in (("pin_device", g.layers[:cut]), ("pin_server", g.layers[cut:])):
            if among and chance(choose, 0.6):
                options[option] = tuple(dict.fromkeys(one_of(choose, among).name for _ in range(choose.whole(1, 2))))
    if limits:
        plain = sp.SplitPoint(p, s, **{**options, "objective": {"latency": 1.0, "energy": 1.0}})
        cut = choose.whole(0, layers)
        at = plain.score(np.arange(layers)[None, :] >= cut)
        for name, key in MEASURES.items():
            if chance(choose, 0.25) and at[key][0] > 0:
                options[name] = float(at[key][0]) * one_of(choose, (1.0, 1.3, 0.9, 0.5, 1e3))
    return sp.SplitPoint(p, s, **options)


PLACES = ("device", "hub", "edge", "cloud")


def relay_problem(
    choose: Choices,
    layers: int,
    places: int = 3,
    ranges: Ranges = REAL,
    *,
    direct: bool = False,
    reach: int | None = None,
    dense: float = 0.35,
) -> sp.RelaySplit:
    """A random RelaySplit along this many places; ``direct``: with most of the links between those that are no neighbours."""
    path = (PLACES[0], *PLACES[len(PLACES) - places + 1 :])
    g, first = graph(choose, layers, ranges, reach=reach, dense=dense), system(choose, ranges)
    links = {(path[i], path[i + 1]): first.link if i == 0 else link(choose, ranges) for i in range(places - 1)}
    beyond = [(path[i], path[j]) for i in range(places) for j in range(i + 2, places)]
    links |= {pair: link(choose, ranges) for pair in beyond if direct and chance(choose, 0.8)}
    pins: dict[str, tuple[str, ...]] = {}
    if chance(choose, 0.4):
        # Pins drawn from one placement of runs of layers never contradict each other.
        ends = sorted(choose.whole(0, layers) for _ in path[1:])
        for place, low, high in zip(path, (0, *ends), (*ends, layers), strict=True):
            among = g.layers[low:high]
            if among and chance(choose, 0.5):
                pins[place] = tuple(dict.fromkeys(one_of(choose, among).name for _ in range(choose.whole(1, 2))))
    return sp.RelaySplit(
        profile(choose, g, ranges, first.device.clock_hz, path),
        sp.System(links=links, **{path[0]: first.device}, **{p: sp.Device(p) for p in path[1:]}),
        path,
        objective=one_of(choose, LINEAR_OBJECTIVES),
        wire=one_of(choose, ("fp32", "fp16", "int8")),
        result=one_of(choose, (*path, "anywhere")),
        pins=pins,
        direct=direct,
        input_bytes=one_of(choose, (None, None, 0.0, ranges.size_bytes[0] * 7)),
        clock_hz=one_of(choose, (None, *first.device.clock_hz)),
    )


def users(
    choose: Choices, count: int, *, caps: float = 0.3, deadlines: float = 0.0, zeros: float = 0.1
) -> tuple[sp.User, ...]:
    """Random users; ``caps`` and ``deadlines`` are the probabilities that a user has them.

    An equal share of 20 Mbit/s and of speed 1 for each user, or the cap, meets every deadline.
    """
    made = []
    for i in range(count):
        upload = 0.0 if chance(choose, zeros) else log_between(choose, 1e3, 1e6)
        work = 0.0 if chance(choose, zeros) else log_between(choose, 1e-3, 1e-1)
        device, fixed = 0.1 * choose.unit(), 0.02 * choose.unit()
        rate_cap = log_between(choose, 2e6, 1e8) if chance(choose, caps) else None
        speed_cap = log_between(choose, 0.1, 4.0) if chance(choose, caps) else None
        alone = device + fixed + 8 * upload / min(20e6, rate_cap or 20e6) + work / min(1.0, speed_cap or 1.0)
        made.append(
            sp.User(
                f"u{i}",
                upload,
                work,
                device,
                fixed,
                weight=log_between(choose, 0.1, 10),
                deadline_s=alone * (1.0 + 2.0 * choose.unit()) if chance(choose, deadlines) else None,
                rate_cap_bps=rate_cap,
                speed_cap=speed_cap,
            )
        )
    return tuple(made)


def allocation(
    choose: Choices, count: int, *, caps: float = 0.3, deadlines: float = 0.0, zeros: float = 0.1
) -> sp.RateAllocation:
    """A random RateAllocation with about 20 Mbit/s and a server's speed for each user."""
    return sp.RateAllocation(
        users(choose, count, caps=caps, deadlines=deadlines, zeros=zeros),
        uplink_bps=20e6 * count * log_between(choose, 0.3, 3.0),
        server_speed=count * log_between(choose, 0.3, 3.0),
    )


def partition(branches: int, seed: int = 0) -> sp.SplitPoint:
    """PARTITION as a split: parallel layers, least period. No solver proves an optimum of 50 random branches soon.

    Sizes of tensors are 0, so that the period is the larger of the two sides' seconds.
    """
    rng = np.random.default_rng(seed)
    names = [f"l{v}" for v in range(branches)]
    seconds = dict(zip(names, (0.5 + rng.random(branches)).tolist(), strict=True))
    tensors = [sp.Tensor("in", INPUT, tuple(names), 0.0)]
    tensors += [sp.Tensor(f"t{v}", v, (), 0.0, is_output=True) for v in names]
    g = sp.LayerGraph("partition", tuple(sp.Layer(v) for v in names), tuple(tensors))
    link = sp.Link("wire", 1e9, 1e9, 0.0)
    s = sp.System(device=sp.Device("d"), server=sp.Device("s"), link=link)
    return sp.SplitPoint(sp.Profile.given(g, {"device": seconds, "server": seconds}), s, objective="period")
