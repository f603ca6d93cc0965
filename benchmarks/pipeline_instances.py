"""Random pipelines, each from a seed or from hypothesis: chains and DAGs, all media, like and unlike places, memory, missing links."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np

import splitplan as sp
from benchmarks.instances import RANGES, REAL, Choices, Ranges, Seeded, chance, graph, link, log_between, one_of
from splitplan.formulations.pipeline import PipelinePlacement
from splitplan.models.graph import INPUT


def pipeline_problem(
    choose: Choices, layers: int, places: int, ranges: Ranges = REAL, *, medium: str | None = None, limits: bool = True
) -> PipelinePlacement:
    """A random PipelinePlacement. Memory, where it is limited, is around what a share of the network needs, so that it binds."""
    net = graph(choose, layers, ranges)
    names = [f"d{k}" for k in range(places)]
    kinds = [choose.whole(0, k) if chance(choose, 0.4) else k for k in range(places)]  # kind k: as the k-th place is
    times: dict[str, dict[str, float]] = {}
    for k, name in enumerate(names):
        speed = log_between(choose, 0.3, 3.0)
        own = {x.name: ranges.time(choose) * speed for x in net.layers}
        times[name] = own if kinds[k] == k else times[names[kinds[k]]]
    whole = (
        sum(net.parameter_bytes.values())
        + max(x.memory_bytes for x in net.layers)
        + sum(t.size_bytes for t in net.tensors)
    )
    rooms: list[float | None] = []
    for k in range(places):
        own_room = whole * log_between(choose, 0.15, 1.5) if limits and chance(choose, 0.3) else None
        rooms.append(own_room if kinds[k] == k else rooms[kinds[k]])
    devices = {n: sp.Device(f"kind{kinds[k]}", memory_bytes=rooms[k] or None) for k, n in enumerate(names)}
    medium = one_of(choose, ("pairs", "pairs", "star", "shared")) if medium is None else medium
    if medium == "shared":
        system = sp.System(shared=link(choose, ranges), **devices)
    elif medium == "star":
        own_links: list[sp.Link] = []
        for k in range(places):
            own_links.append(link(choose, ranges) if kinds[k] == k else own_links[kinds[k]])
        system = sp.System(star=dict(zip(names, own_links, strict=True)), **devices)
    else:
        pairs = list(itertools.combinations(names, 2))
        one = link(choose, ranges)
        alike = chance(choose, 0.5)
        links = {
            pair: one.but(rate_down_bps=one.rate_up_bps, delay_up_s=None, delay_down_s=None)
            if alike
            else link(choose, ranges)
            for pair in pairs
        }
        spare = [pair for k, pair in enumerate(pairs) if pair[0] != names[0] or k == 0]  # the first place reaches all
        for pair in spare if limits and places > 2 else ():
            if pair[0] != names[0] and chance(choose, 0.25):
                del links[pair]
        system = sp.System(links=links, **devices)
    return PipelinePlacement(
        sp.Profile.given(net, times),
        system,
        overlap=chance(choose, 0.5),
        max_stages=choose.whole(1, places) if limits and chance(choose, 0.25) else None,
        wire=one_of(choose, ("fp32", "fp16", "int8")),
        source=one_of(choose, names) if chance(choose, 0.4) else None,
        sink=one_of(choose, names) if chance(choose, 0.4) else None,
    )


def chain_problem(
    seed: int,
    layers: int,
    places: int,
    *,
    medium: str = "pairs",
    overlap: bool = True,
    memory: bool = False,
    rate_bps: tuple[float, float] = (5e7, 1e9),
    kinds: int | None = None,
) -> PipelinePlacement:
    """A long chain on unlike places: work of layers, sizes of tensors and speeds log-normal, each place with a taste of its own.

    Parameters
    ----------
    seed : int
    layers, places : int
    medium : {"pairs", "star", "shared"}
    overlap : bool
    memory : bool
        Whether each place holds 8 to 30 % of the parameters only.
    rate_bps : (float, float)
        Of each link, log-uniform.
    kinds : int, optional
        Of places; all unlike unless given, and links then all alike.
    """
    rng = np.random.default_rng(seed)
    work, size = rng.lognormal(0, 0.7, layers), rng.lognormal(0, 1.0, layers + 1) * 3e5
    made = tuple(sp.Layer(f"l{i}", "conv2d", work[i] * 1e9, (f"p{i}",), size[i] + size[i + 1]) for i in range(layers))
    tensors = tuple(
        sp.Tensor(
            f"t{i}",
            INPUT if i == 0 else f"l{i - 1}",
            (f"l{i}",) if i < layers else (),
            float(size[i]),
            is_output=i == layers,
        )
        for i in range(layers + 1)
    )
    net = sp.LayerGraph(f"chain of {layers}", made, tensors, {f"p{i}": work[i] * 1e6 for i in range(layers)})
    count = places if kinds is None else kinds
    speed, names = rng.lognormal(0, 0.7, count), [f"d{e}" for e in range(places)]
    seconds = [1e-2 * work / speed[e] * rng.lognormal(0, 0.25, layers) for e in range(count)]
    rooms = [float(work.sum() * 1e6 * rng.uniform(0.08, 0.3)) if memory else None for _ in range(count)]
    times = {
        n: dict(zip([x.name for x in made], seconds[k % count].tolist(), strict=True)) for k, n in enumerate(names)
    }
    devices = {n: sp.Device(f"kind{k % count}", memory_bytes=rooms[k % count]) for k, n in enumerate(names)}

    def wire() -> sp.Link:
        rate = float(np.exp(rng.uniform(*np.log(rate_bps))))
        return sp.Link("wire", rate, rate * float(rng.uniform(0.5, 2.0)), 0.002, overhead=1.046, header_bytes=100.0)

    if medium == "pairs":
        pairs = list(itertools.combinations(names, 2))
        same = sp.Link(
            "wire", *[float(np.sqrt(rate_bps[0] * rate_bps[1]))] * 2, 0.002, overhead=1.046, header_bytes=100.0
        )
        system = sp.System(links={pair: wire() if kinds is None else same for pair in pairs}, **devices)
    elif medium == "star":
        wires = [wire() for _ in range(count)]
        system = sp.System(star={n: wires[k % count] for k, n in enumerate(names)}, **devices)
    else:
        system = sp.System(shared=replace(wire(), rate_up_bps=rate_bps[1]), **devices)
    return PipelinePlacement(sp.Profile.given(net, times), system, overlap=overlap)


def small_ones(count: int, layers: int = 5, places: int = 4, seed: int = 0) -> list[PipelinePlacement]:
    """Random small problems of all kinds, each from a seed of its own."""
    found = []
    for k in range(count):
        choose = Seeded(seed + k)
        ranges = list(RANGES.values())[k % len(RANGES)]
        found.append(pipeline_problem(choose, choose.whole(1, layers), choose.whole(1, places), ranges))
    return found
