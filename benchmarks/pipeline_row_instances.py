"""Random pipelines whose stages may share rows, each from a seed or from hypothesis: barriers, all media, memory, missing ways, source and sink."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np

import splitplan as sp
from benchmarks.instances import RANGES, Choices, Ranges, Seeded, chance, link, log_between, one_of
from benchmarks.row_instances import row_graph, row_seconds
from splitplan.formulations.pipeline import PipelinePlacement
from splitplan.models.graph import INPUT
from splitplan.models.row_maps import RowOperator, Window


def row_problem(
    choose: Choices,
    layers: int,
    places: int,
    ranges: Ranges,
    *,
    medium: str = "pairs",
    most_rows: int = 8,
    limits: bool = True,
    max_group: int = 3,
) -> PipelinePlacement:
    """A random PipelinePlacement with rows. Memory, where it is limited, is around what a share of the network needs, so that it binds."""
    net = row_graph(choose, layers, ranges, most_rows)
    parameters = {f"p{v}": ranges.size(choose) for v in range(layers)}
    tied = choose.whole(1, layers - 1) if layers > 2 and chance(choose, 0.3) else 0  # reads the first one's as well
    made = tuple(
        replace(
            x,
            parameters=(f"p{v}", "p0") if v and v == tied else (f"p{v}",),
            memory_bytes=sum(t.size_bytes for t in net.tensors if x.name in (t.producer, *t.consumers)),
        )
        for v, x in enumerate(net.layers)
    )
    # Sizes at which sharing sometimes pays: rows take about as long on the way as to make.
    seconds = row_seconds(choose, net, places, ranges)
    usual = sum(float(s.sum()) for s in seconds.values()) / places / layers
    sizes = sum(t.size_bytes for t in net.tensors) / len(net.tensors)
    rate = (ranges.rate_bps[0] * ranges.rate_bps[1]) ** 0.5
    factor = log_between(choose, 0.001, 0.5) * (usual or 1e-3) * rate / 8 / sizes
    tensors = tuple(replace(t, size_bytes=t.size_bytes * factor) for t in net.tensors)
    net = replace(net, layers=made, tensors=tensors, parameter_bytes=parameters)
    whole = sum(parameters.values()) + 2 * max(x.memory_bytes for x in made)
    names = list(seconds)
    rooms = [whole * log_between(choose, 0.3, 2.0) if limits and chance(choose, 0.3) else None for _ in names]
    devices = {n: sp.Device(n, memory_bytes=room or None) for n, room in zip(names, rooms, strict=True)}

    def wire() -> sp.Link:
        delay = 0.05 * usual * choose.whole(0, 2)
        return link(choose, ranges).but(rtt_s=delay, delay_up_s=None, delay_down_s=None)

    if medium == "shared":
        system = sp.System(shared=wire(), **devices)
    elif medium == "star":
        system = sp.System(star={n: wire() for n in names}, **devices)
    else:
        pairs = list(itertools.combinations(names, 2))
        missing = len(pairs) > 2 and limits and chance(choose, 0.2)
        system = sp.System(links={p: wire() for p in pairs[: -1 if missing else None]}, **devices)
    layer_names = [x.name for x in made]
    given = {p: dict(zip(layer_names, s.tolist(), strict=True)) for p, s in seconds.items()}
    share = 0.2 * choose.whole(0, 2)
    fixed = {p: {v: share * s for v, s in of.items()} for p, of in given.items()}
    # Every other place also spends something on each block, so that it counts how many blocks there are.
    beside = {p: share * float(np.mean(list(of.values()))) for p, of in list(given.items())[1::2]}
    return PipelinePlacement(
        sp.Profile.given(net, given, fixed, beside),
        system,
        overlap=chance(choose, 0.6),
        rows=True,
        max_stages=choose.whole(1, places) if limits and chance(choose, 0.25) else None,
        wire=one_of(choose, ("fp32", "fp16", "int8")),
        source=one_of(choose, names) if chance(choose, 0.3) else None,
        sink=one_of(choose, names) if chance(choose, 0.3) else None,
        max_group=max_group,
    )


def small_row_ones(
    count: int, layers: int = 5, places: int = 3, seed: int = 0, *, medium: str = "pairs", most_rows: int = 8
) -> list[PipelinePlacement]:
    """Random small problems of all kinds, each from a seed of its own."""
    found = []
    for k in range(count):
        choose = Seeded(seed + k)
        ranges = list(RANGES.values())[k % len(RANGES)]
        size = choose.whole(1, layers), choose.whole(2, places)
        found.append(row_problem(choose, *size, ranges, medium=medium, most_rows=most_rows))
    return found


def row_chain(
    seed: int,
    layers: int,
    places: int,
    *,
    height: int = 56,
    medium: str = "pairs",
    overlap: bool = True,
    rate_bps: float = 4e9,
    halve: int = 15,
    max_group: int = 3,
) -> PipelinePlacement:
    """A long chain of 3 × 3 windows, strided every ``halve`` layers, with a barrier at its end, on unlike places with fast links."""
    rng = np.random.default_rng(seed)
    rows, operators = [height], list[RowOperator]()
    for v in range(layers):
        how = Window(3, 2 if v and v % halve == 0 and rows[-1] > 7 else 1, 1)
        rows.append((rows[-1] + 2 - 3) // how.stride + 1)
        why = "mixes all rows" if v == layers - 1 else ""
        operators.append(RowOperator(f"t{v + 1}", f"l{v}", rows[-1], () if why else ((f"t{v}", how),), 1.0, why))
    work = rng.lognormal(0, 0.5, layers)
    work[-1] *= 0.1
    tensors = tuple(
        sp.Tensor(
            f"t{i}",
            INPUT if i == 0 else f"l{i - 1}",
            (f"l{i}",) if i < layers else (),
            float(3e5 * rng.lognormal(0, 0.3)),
            (1, 8, rows[i], 8),
            is_output=i == layers,
        )
        for i in range(layers + 1)
    )
    made = tuple(sp.Layer(f"l{v}", "conv2d", work[v] * 1e9) for v in range(layers))
    net = sp.LayerGraph(f"chain of {layers}", made, tensors, fingerprint="f" * 64, rows=tuple(operators))
    names = [f"d{e}" for e in range(places)]
    speed = rng.lognormal(0, 0.5, places)
    times = {
        n: {x.name: float(1e-2 * w / speed[e] * rng.lognormal(0, 0.15)) for x, w in zip(made, work, strict=True)}
        for e, n in enumerate(names)
    }
    fixed = {n: {v: 0.05 * s for v, s in of.items()} for n, of in times.items()}

    def wire() -> sp.Link:
        rate = rate_bps * float(rng.lognormal(0, 0.5))
        return sp.Link("wire", rate, rate * float(rng.uniform(0.5, 2.0)), 1e-4, overhead=1.046, header_bytes=100.0)

    devices = {n: sp.Device(n) for n in names}
    if medium == "shared":
        system = sp.System(shared=wire(), **devices)
    elif medium == "star":
        system = sp.System(star={n: wire() for n in names}, **devices)
    else:
        system = sp.System(links={p: wire() for p in itertools.combinations(names, 2)}, **devices)
    return PipelinePlacement(
        sp.Profile.given(net, times, fixed), system, overlap=overlap, rows=True, max_group=max_group
    )
