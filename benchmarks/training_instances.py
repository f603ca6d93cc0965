"""Random training problems: small ones for exactness, large ones for speed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pandas as pd

import splitplan as sp
from benchmarks.instances import Choices, Seeded
from splitplan.data.training_profile import TrainingProfile
from splitplan.data.training_tables import COLLECTIVES, EXCHANGES, IN_STEP, KINDS, TIMES, UPDATES
from splitplan.errors import DataError
from splitplan.formulations.training import HybridTraining
from splitplan.models.training_layer import TrainingLayer


def training_problem(d: Choices, layers: int, cores: int) -> HybridTraining:
    """A problem of every kind of defect that plans may have: links that matter, little memory, uncuttable positions, unlike cores.

    Raises
    ------
    DataError
        What was drawn cannot be, as a layer that is larger than the memory.
    """
    made = tuple(_layer(d, k) for k in range(layers))
    batch = (2, 4, 6, 8)[d.whole(0, 3)]
    threads = (1, 2) if cores > 1 and d.unit() < 0.7 else (1,)
    base = [(0.02 * d.unit() ** 2, 0.04 * d.unit() ** 2, 0.01 * d.unit(), 0.003 * d.unit()) for _ in made]
    times, updates = [], []
    for t in threads:
        for w in (1, cores // t) if cores // t > 1 and d.unit() < 0.7 else (1,):
            crowd = (1 + 0.3 * d.unit() * (w > 1)) / t**0.8
            between = {batch // 2} if d.unit() < 0.6 else set()
            for s in sorted({1, batch} | between):
                times += [
                    (x.name, s, t, w, (c + f * s) * crowd * (1 + 0.1 * d.unit()), (c + b * s) * crowd)
                    for x, (f, b, c, _) in zip(made, base, strict=True)
                ]
            updates += [(x.name, t, w, u * crowd, 0.3 * u * crowd) for x, (*_, u) in zip(made, base, strict=True)]
    collectives = [
        (what, w, size, 3e-4 * d.unit() + size * (1 + k) / 1e9)
        for k, what in enumerate(KINDS)
        for w in ((2,) if what == "send" else (2, 4))
        for size in (1e3, 1e6, 1e8)
    ]
    profile = TrainingProfile(
        "drawn",
        "f",
        made,
        tuple(1e6 * d.unit() for _ in range(layers - 1)),
        pd.DataFrame(times, columns=list(TIMES)),
        pd.DataFrame(updates, columns=list(UPDATES)),
        pd.DataFrame(collectives, columns=list(COLLECTIVES)),
        uncuttable=tuple(i for i in range(1, layers) if d.unit() < 0.15),
        state_factor=float(d.whole(0, 2)),
        micro_s=1e-3 * d.unit(),
        step_s=1e-3 * d.unit(),
        ratios=[(1, 1, "drawn", x) for x in (0.9, 1.0, 1.1)],
    )
    hosts = 1 if d.unit() < 0.7 else 2
    memory = (5e7, 1e8, 2e8, 4e8)[d.whole(0, 3)] if d.unit() < 0.4 else None
    options: dict[str, Any] = {"replicas": ("same", "any")[d.whole(0, 1)]}
    if d.unit() < 0.2:
        options["speeds"] = tuple(0.3 + d.unit() for _ in range(cores * hosts))
    if d.unit() < 0.1:
        options["whole_batch"] = True
    if d.unit() < 0.1:
        options["columns"] = False
    system = hosts_of(hosts, cores, memory, (1e8, 1e9)[d.whole(0, 1)])
    if d.unit() < 0.5:
        paid = [(what, w, 1.0, 0.5 + d.unit()) for what in EXCHANGES for w in (2, 3)]
        profile = replace(profile, in_step=pd.DataFrame(paid, columns=list(IN_STEP)))
    return HybridTraining(profile, system, batch, **options)


def _layer(d: Choices, k: int) -> TrainingLayer:
    linear = d.unit() < 0.4
    weights = (0.0, 1e6, 1e7, 5e7)[d.whole(0, 3)] * d.unit()
    if not linear:
        return TrainingLayer(f"l{k}", weights, 1e5 * d.unit())
    return TrainingLayer(
        f"l{k}", 5e7 * d.unit(), 1e5 * d.unit(), (1, 2, 4, 100)[d.whole(0, 3)], 4e4 * d.unit(), 4e4 * d.unit()
    )


def hosts_of(hosts: int, cores: int, memory_bytes: float | None, rate_bps: float) -> sp.System:
    """So many like hosts, joined by one link each pair."""
    devices = {f"h{k}": sp.Device(f"h{k}", threads=cores, memory_bytes=memory_bytes) for k in range(hosts)}
    names = list(devices)
    links = {(a, b): sp.Link("lan", rate_bps, rate_bps, rtt_s=1e-3) for a in names for b in names if a < b}
    return sp.System(links=links, **devices)


def small_ones(count: int, layers: int, cores: int, seed: int) -> Iterator[HybridTraining]:
    """Problems that brute force can settle."""
    while count:
        d = Seeded(seed)
        seed += 1
        try:
            yield training_problem(d, d.whole(2, layers), d.whole(1, cores))
        except DataError:
            continue
        count -= 1


def chain(
    layers: int, cores: int, seed: int, linear: float = 0.1, scaling: float = 0.85, weights: float = 4e6
) -> HybridTraining:
    """A long network on one machine of many cores, batch 128; t threads are t^scaling times as quick as one, a layer has up to so many bytes of weights."""
    d = Seeded(seed)
    made, base = [], []
    for k in range(layers):
        work = 1e-4 * (0.2 + d.unit() ** 3)
        columns = 1024 if d.unit() < linear else 0
        made.append(
            TrainingLayer(
                f"l{k}",
                weights * d.unit() ** 3,
                4e5 * d.unit(),
                columns,
                4096.0 if columns else 0.0,
                4096.0 if columns else 0.0,
            )
        )
        base.append((work, 2 * work * (0.8 + 0.4 * d.unit())))
    times, updates = [], []
    for t in (1, 2, 4, 8, 16):
        if t > cores:
            break
        for w in sorted({1, cores // t}):
            slow = (1 + 0.2 * (w - 1) / cores) / t**scaling
            for s in (1, 2, 4, 8, 16, 32, 64, 128):
                times += [
                    (x.name, s, t, w, slow * (2e-5 + f * s), slow * (4e-5 + b * s))
                    for x, (f, b) in zip(made, base, strict=True)
                ]
            updates += [(x.name, t, w, slow * x.parameter_bytes / 2e9, 0.0) for x in made]
    collectives = [
        (what, w, size, 1e-4 + size * (1 + k) / 4e9)
        for k, what in enumerate(KINDS)
        for w in ((2,) if what == "send" else sorted({2, cores}))
        for size in (1e3, 1e5, 1e7, 1e9)
    ]
    profile = TrainingProfile(
        "chain",
        "f",
        tuple(made),
        tuple(4e4 + 2e5 * d.unit() for _ in range(layers - 1)),
        pd.DataFrame(times, columns=list(TIMES)),
        pd.DataFrame(updates, columns=list(UPDATES)),
        pd.DataFrame(collectives, columns=list(COLLECTIVES)),
        state_factor=1.0,
    )
    return HybridTraining(profile, hosts_of(1, cores, None, 1e9), 128)
