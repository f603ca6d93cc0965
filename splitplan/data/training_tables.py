"""The tables of a training profile: their columns, and what may be wrong with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from splitplan.models.graph import number_problem

if TYPE_CHECKING:
    from splitplan.data.training_profile import TrainingProfile

TIMES = ("layer", "samples", "threads", "workers", "forward_s", "backward_s")
UPDATES = ("layer", "threads", "workers", "update_s", "add_s")
COLLECTIVES = ("what", "workers", "size_bytes", "time_s")
IN_STEP = ("what", "workers", "iteration_s", "factor")
RATIOS = ("threads", "workers", "what", "ratio", "start")
TABLES = {"times": TIMES, "updates": UPDATES, "collectives": COLLECTIVES, "in_step": IN_STEP, "ratios": RATIOS}
LATER = {"updates": ("add_s", 0.0), "ratios": ("start", 1)}
"""Columns that older files have not, and what they then are."""
EXCHANGES = ("all_reduce", "columns")
"""What whole iterations are measured of: gradients of copies added up, and layers whose columns are shared."""
KINDS = ("all_reduce", "all_gather", "reduce_scatter", "send")
"""Collectives by their sizes: of ``all_reduce`` the tensor's, of ``all_gather`` the gathered one's, of ``reduce_scatter`` the one that
is reduced, of ``send`` the message's."""


def problems(profile: TrainingProfile) -> list[str]:
    """All that is wrong with a profile: its numbers, its rows, layers that no row is of."""
    n = len(profile.layers)
    found: list[str | None] = [] if n else ["has no layers"]
    names = [x.name for x in profile.layers]
    found += [f"layer {v!r} is there more than once" for v in dict.fromkeys(names) if names.count(v) > 1]
    if len(profile.crossing_bytes) != max(n - 1, 0):
        found.append(
            f"{len(profile.crossing_bytes)} crossing_bytes for {n} layers; give one for each position between two"
        )
    found += [number_problem(f"crossing_bytes[{i}]", b) for i, b in enumerate(profile.crossing_bytes)]
    found += [f"uncuttable position {i!r} is none of 1 … {n - 1}" for i in profile.uncuttable if i not in range(1, n)]
    found += [number_problem(x, getattr(profile, x)) for x in ("state_factor", "micro_s", "step_s")]
    for name, keys, numbers in (
        ("times", TIMES[:4], TIMES[4:]),
        ("updates", UPDATES[:3], UPDATES[3:]),
        ("collectives", COLLECTIVES[:3], COLLECTIVES[3:]),
        ("in_step", IN_STEP[:2], IN_STEP[2:]),
        ("ratios", (*RATIOS[:3], RATIOS[4]), RATIOS[3:4]),
    ):
        table: pd.DataFrame = getattr(profile, name)
        for column in numbers:
            values = pd.to_numeric(table[column], errors="coerce").to_numpy(float)
            bad = np.flatnonzero(~(np.isfinite(values) & ((values > 0) | ((values == 0) & (column != "ratio")))))
            wanted = "a positive number" if column == "ratio" else "a number from 0"
            found += [f"{name}.iloc[{i}].{column} is {table[column].tolist()[i]!r}; give {wanted}" for i in bad[:3]]
        for column in keys:
            found += [
                f"{name}.iloc[{i}].{column} is {v!r}; give a {'positive number' if column == 'size_bytes' else 'whole number from 1'}"
                for i, v in enumerate(table[column].tolist())
                if column not in ("layer", "what") and not _is_key(v, whole=column != "size_bytes")
            ][:3]
        twice: Any = table.duplicated(list(keys)) if name != "ratios" else []
        found += [f"{name}.iloc[{i}] is there twice" for i in np.flatnonzero(twice)[:3]]
        if "layer" in keys:
            unknown = sorted(set(table["layer"]) - set(names))
            found += [f"{name} names layer {v!r}, which the profile has not" for v in unknown[:3]]
    found += [
        f"collective {k!r} is none of {', '.join(KINDS)}" for k in sorted(set(profile.collectives["what"]) - set(KINDS))
    ]
    found += [
        f"in_step names {k!r}, which is none of {', '.join(EXCHANGES)}"
        for k in sorted(set(profile.in_step["what"]) - set(EXCHANGES))
    ]
    if n and not len(profile.times):
        found.append("has no times")
    wrong = [p for p in found if p]
    if wrong:
        return wrong
    measured = _groups(profile.times, "samples", "threads", "workers")
    updated = _groups(profile.updates, "threads", "workers")
    for what, whole in (("times", measured), ("updates", updated)):
        for key, layers in whole.items():
            missing = [v for v in names if v not in layers]
            if missing:
                wrong.append(
                    f"{what} has no row of layer {missing[0]!r} at {key}"
                    + f" ({len(missing)} layers)" * (len(missing) > 1)
                )
    wrong += [
        f"updates has no rows for {t} threads, {w} workers" for t, w in sorted({k[1:] for k in measured} - set(updated))
    ]
    return wrong


def _groups(table: pd.DataFrame, *keys: str) -> dict[tuple[int, ...], set[str]]:
    """By these columns, the layers that there are rows of."""
    grouped: Any = table.groupby(list(keys), sort=True)["layer"]
    return {tuple(map(int, key)): set(layers) for key, layers in grouped}


def _is_key(value: object, whole: bool) -> bool:
    """Whether a row can be told by this: a number of samples, threads or workers, or a size."""
    if number_problem("", value, positive=True):
        return False
    return not whole or float(value).is_integer()  # type: ignore[arg-type]
