"""What a narrower wire costs in the output: cuts of the zoo's models really run through the codec, against the unsplit model."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np
import pandas as pd
import torch

import splitplan as sp
from benchmarks.decide import ZOO
from benchmarks.registry import Progress, Study, register
from splitplan.data.plan import Wire
from splitplan.executor.split import Compute, Split, run_whole

MODELS = (*ZOO, "bert", "gpt2", "llama")
CUTS, INPUTS = 12, 8
WIRES: tuple[Wire, ...] = ("fp32", "fp16", "int8")


def one(name: str, cuts: int, inputs: int) -> list[dict[str, Any]]:
    """A row a wire: the output's error over prefix cuts, each run on the same inputs."""
    traced = sp.trace(sp.zoo(name), sp.zoo_example(name), name=name)
    layers = [layer.name for layer in traced.graph.layers]
    key = traced.graph.outputs[0].name
    batch = [traced.flatten(sp.zoo_example(name, seed=seed)) for seed in range(1, inputs + 1)]
    expected = torch.stack([run_whole(traced, values)[key].double() for values in batch])
    largest = float(expected.abs().max())
    moved = _rms(expected - expected.mean(0, keepdim=True))
    rows = []
    for wire in WIRES:
        errors, kept = [], []
        for k in sorted({round(x) for x in np.linspace(0, len(layers) - 1, cuts)}):
            plan = sp.SplitPlan(traced.name, traced.fingerprint, tuple(layers[:k]), tuple(layers[k:]), wire=wire)
            split = Split(traced, plan)
            found = torch.stack([split.narrowed(Compute(), v, traced.symbols(v))[key].double() for v in batch])
            errors.append(found - expected)
            kept.append(float((found.argmax(-1) == expected.argmax(-1)).double().mean()))
        row: dict[str, Any] = {"model": name, "wire": wire, "cuts": len(errors)}
        row["median_largest_%"] = 100 * statistics.median(float(e.abs().max()) for e in errors) / largest
        row["worst_largest_%"] = 100 * max(float(e.abs().max()) for e in errors) / largest
        row["median_rms_%"] = 100 * statistics.median(_rms(e) for e in errors) / moved
        row["worst_rms_%"] = 100 * max(_rms(e) for e in errors) / moved
        rows.append(row | {"same_top1_%": 100 * statistics.mean(kept), "worst_same_top1_%": 100 * min(kept)})
    return rows


def _rms(x: torch.Tensor) -> float:
    return float(x.square().mean().sqrt())


def measure(smoke: bool, progress: Progress) -> tuple[pd.DataFrame, str]:
    """Every model, a dozen cuts, every wire."""
    rows = []
    for name in ("tiny-branch",) if smoke else MODELS:
        progress(f"wire: {name}")
        rows += one(name, 3 if smoke else CUTS, 2 if smoke else INPUTS)
    table = pd.DataFrame(rows)
    narrow = table[table["wire"] == "int8"]
    half = table[table["wire"] == "fp16"]
    return table, (
        f"Error of the output, its largest element's over the largest output: fp16 median {half['median_largest_%'].median():.2g} %, worst "
        f"{half['worst_largest_%'].max():.2g} %; int8 median {narrow['median_largest_%'].median():.2g} %, worst {narrow['worst_largest_%'].max():.2g} %. "
        f"fp32 differs by {table.loc[table['wire'] == 'fp32', 'worst_largest_%'].max():.2g} % at most.\n\n"
        f"Prefix cuts at {CUTS} places evenly over the layers, the input itself among them, on {INPUTS} random inputs; what crosses goes through the "
        "executor's own codec, the answer on its way back too. `rms_%`: root mean square of the error over that of what the input moves in the "
        "output (its deviation from the mean over the inputs). **The weights are random, so this is no accuracy**: a network that was never "
        "trained gives nearly the same answer to every input, which makes `rms_%` and `same_top1` harsher than a trained one would. The executor reports the error of "
        "your model and your example at every start (`largest_output_difference_relative`)."
    )


register(
    Study(
        name="wire",
        title="What a narrower wire costs in the output",
        aim="fp32, fp16 and int8 really applied, with the output's error measured",
        measure=measure,
    )
)
