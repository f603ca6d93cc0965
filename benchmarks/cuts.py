"""Split = unsplit: every prefix cut and random monotone cuts of the zoo's models, each cut really run as its two parts."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import splitplan as sp
from benchmarks.registry import Progress, Study, register
from splitplan.models.partition import make_parts, run_parts, whole
from splitplan.models.trace import Traced

SIZES = {
    **dict.fromkeys(("alexnet", "vgg11", "vgg16", "resnet18", "resnet50", "mobilenet_v2", "googlenet"), 64),
    **dict.fromkeys(("efficientnet_b0", "densenet121", "vit_b_16"), 64),
    "inception_v3": 96,
    **dict.fromkeys(("bert", "gpt2", "llama"), 16),
}
"""Height and width of an image, or tokens. Smaller than usual so that hundreds of cuts take a minute; the layers are the same."""

Reference = tuple[Mapping[str, torch.Tensor], Mapping[str, int], Mapping[str, torch.Tensor]]
"""Inputs, their symbols, and every output of the unsplit model."""

BUILD: Mapping[str, Mapping[str, Any]] = {"vit_b_16": {"image_size": 64}}


def check_zoo(
    names: Sequence[str] | None = None,
    random_cuts: int = 200,
    out: Path | None = None,
    *,
    batch: int = 2,
    seed: int = 0,
    progress: Progress = lambda _: None,
) -> pd.DataFrame:
    """Cut models of the zoo in every way asked for and compare what comes out with the unsplit model, bit by bit.

    Every prefix in topological order of the granularities ``layer`` and ``operator``, and random monotone cuts of ``operator``
    (which include all monotone cuts of the coarser ones). For each cut both parts are made and run, and only what crosses is
    handed over. One thread, float32, traced at batch 1.

    Parameters
    ----------
    names : sequence of str, optional
        All full-size models unless given.
    random_cuts : int
        A model.
    out : Path, optional
        A CSV file to write.
    batch : int
        At which the prefix cuts are run; the random ones are run at batch 1.

    Returns
    -------
    DataFrame
        A row a model: cuts by kind, how many differ (``wrong``), whether the whole part equals the eager model, and two signs
        that the comparison is not empty: the output's standard deviation, and how far another input moves it.
    """
    rows = []
    for name in names if names is not None else sp.zoo_names(tiny=False):
        with one_thread():
            rows.append(_check_model(name, random_cuts, batch, seed, progress))
    table = pd.DataFrame(rows)
    if out is not None:
        table.to_csv(out, index=False)
    return table


def _check_model(name: str, random_cuts: int, batch: int, seed: int, progress: Progress) -> dict[str, Any]:
    begin = time.perf_counter()
    size = SIZES.get(name)
    model = sp.zoo(name, **BUILD.get(name, {}))
    traced = sp.trace(model, sp.zoo_example(name, size=size), granularity="operator", name=name)
    example = sp.zoo_example(name, batch=batch, seed=seed + 1, size=size)
    reference = _reference(traced, example)
    with torch.no_grad():
        eager = model(example)
        moved = model(sp.zoo_example(name, batch=batch, seed=seed + 2, size=size))
    output = traced.unflatten(reference[2])
    row: dict[str, Any] = {
        "model": name,
        "input": "×".join(map(str, example.shape)),
        "output_std": float(output.std()),
        "moved_std": float((moved - eager).std()),
        "equals_eager": torch.equal(output, eager),
    }
    wrong: list[str] = []

    def try_cut(cut: Traced, server: frozenset[str], what: str, reference: Reference) -> None:
        progress(f"{name}: {what}")
        problem = difference(cut, server, *reference)
        if problem:
            wrong.append(f"{what}: {problem}")

    for granularity in ("layer", "operator"):
        cut = traced.at(granularity)
        layers = [layer.name for layer in cut.graph.layers]
        for k in range(len(layers) + 1):
            try_cut(cut, frozenset(layers[k:]), f"{granularity} prefix {k} of {len(layers)}", reference)
        row[f"{granularity}_prefixes"] = len(layers) + 1
    single = _reference(traced, example[:1].clone())
    for i, server in enumerate(random_monotone(traced.graph, random_cuts, seed)):
        try_cut(traced, server, f"random cut {i}", single)
    row |= {"random": random_cuts, "wrong": len(wrong), "first_wrong": wrong[0] if wrong else ""}
    row["seconds"] = round(time.perf_counter() - begin, 1)
    return row


def _reference(traced: Traced, example: torch.Tensor) -> Reference:
    values = traced.flatten(example)
    symbols = traced.symbols(values)
    return values, symbols, run_parts([whole(traced)], values, symbols)


def difference(
    traced: Traced,
    server: frozenset[str],
    values: Mapping[str, torch.Tensor],
    symbols: Mapping[str, int],
    expected: Mapping[str, torch.Tensor],
) -> str:
    """Run one device-to-server cut as its parts; what is wrong with it, or nothing."""
    graph = traced.graph
    parts = make_parts(traced, {layer.name: "server" if layer.name in server else "device" for layer in graph.layers})
    sides = [part.place for part in parts]
    if sides != [s for s in ("device", "server") if s in sides]:
        return f"a monotone cut made the parts {sides}"
    crossing = {spec.name for part in parts if part.place == "server" for spec in part.inputs}
    if crossing != {t.name for t in graph.boundary(server)}:
        return f"what crosses is not the graph's boundary: {sorted(crossing)}"
    found = run_parts(parts, values, symbols)
    unequal = [t.name for t in graph.outputs if not torch.equal(found[t.name], expected[t.name])]
    return f"{', '.join(unequal)} differ" if unequal else ""


def random_monotone(graph: sp.LayerGraph, count: int, seed: int) -> Iterator[frozenset[str]]:
    """Server sets of random cuts: what is left of a random topological order after a random number of layers."""
    draw = random.Random(seed)
    reads: dict[str, set[str]] = {layer.name: set() for layer in graph.layers}
    for tensor in graph.tensors:
        for consumer in tensor.consumers:
            if tensor.producer in reads:
                reads[consumer].add(tensor.producer)
    for _ in range(count):
        left, done = list(reads), set[str]()
        for _ in range(draw.randint(0, len(reads))):
            chosen = draw.choice([name for name in left if reads[name] <= done])
            left.remove(chosen)
            done.add(chosen)
        yield frozenset(left)


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread, and attention by the ordinary path: where equality to the last bit is stated."""
    threads, fast = torch.get_num_threads(), torch.backends.mha.get_fastpath_enabled()
    torch.set_num_threads(1)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.backends.mha.set_fastpath_enabled(fast)


def _measure(smoke: bool, progress: Callable[[str], None]) -> tuple[pd.DataFrame, str]:
    table = check_zoo(["tiny-cnn", "tiny-transformer"], 5, progress=progress) if smoke else check_zoo(progress=progress)
    cuts = int(table[["layer_prefixes", "operator_prefixes", "random"]].sum().sum())
    return table, (
        f"{cuts} cuts of {len(table)} models, {int(table['wrong'].sum())} with an output that differs from the unsplit model's in any "
        "bit. One thread, float32; every cut ran as its two parts. Inputs are smaller than the models' usual ones where the column says so."
    )


register(
    Study(
        name="cuts",
        title="Split = unsplit over the zoo",
        aim="every topological prefix and 200 random monotone cuts of each model: bit-equal at one thread",
        measure=_measure,
    )
)
