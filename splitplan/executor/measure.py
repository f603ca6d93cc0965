"""The measuring process of the profiler: times every layer of a model here, and prints what it found as JSON lines.

Run by `splitplan.executor.profiler` as ``python -m splitplan.executor.measure``, in a worker's environment, so that thread
count and allocator are those of the workers that will run the plan.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

    from splitplan.executor.measure_rows import HalfRows
    from splitplan.models.partition import Part

REFUSED = 3
"""Exit code of a measuring process that ended with an error raised on purpose; it stands on standard error."""


@dataclass(frozen=True)
class Task:
    """What to measure.

    Parameters
    ----------
    model : str
        A ``.pt2`` file.
    granularity : str
    torch_device : str
    threads : int
    budget_s : float
        About how long to measure, warm-up left out.
    rest_s : float
        Pause before each run.
    least, most : int
        Fewest and most rounds, whatever the budget.
    rows : bool
        Whether to measure layers at half their rows too.
    """

    model: str
    granularity: str
    torch_device: str
    threads: int
    budget_s: float
    rest_s: float
    least: int
    most: int
    rows: bool = False

    def to_json(self) -> str:
        """For the command line."""
        return json.dumps(asdict(self))


def main(argv: list[str]) -> int:
    """Measure the task in ``argv[0]``; one JSON line for each tenth of the way, then one with the result."""
    from splitplan.errors import SplitplanError

    try:
        _measure(Task(**json.loads(argv[0])))
    except SplitplanError as e:
        sys.stderr.write(f"{e}\n")
        return REFUSED
    return 0


def _measure(task: Task) -> None:
    import torch

    from splitplan.executor.measure_rows import HalfRows
    from splitplan.models.partition import whole
    from splitplan.models.traced import load_traced

    torch.set_num_threads(task.threads)
    traced = load_traced(task.model, granularity=task.granularity)  # type: ignore[arg-type]
    part = whole(traced).to(task.torch_device)
    inputs = {k: v.to(task.torch_device) for k, v in traced.example_inputs().items()}
    symbols = traced.symbols(inputs)
    with torch.inference_mode():
        half = HalfRows(traced, inputs, symbols) if task.rows else None
    result = measure(part, inputs, symbols, task, half)
    say({"result": result | about(task.torch_device)})


def measure(
    part: Part,
    inputs: dict[str, torch.Tensor],
    symbols: dict[str, int],
    task: Task,
    half: HalfRows | None = None,
) -> dict[str, Any]:
    """Typical seconds and spread of each layer and of the whole; and of the layers' seconds those that fewer rows do not save.

    Rounds of an uninstrumented run and an instrumented one take turns. A layer's time in a round is taken relative to the
    whole runs before and after it, so that a machine whose speed drifts does not favour the layers that ran in a good moment.
    Of these, the mean over the middle half of the rounds (by their sums) is scaled to sum to the median of the whole. It is a
    mean of whole rounds because parts are what is predicted, and medians of layers do not add up to the time of a part: a
    device that pauses (a quota, a hot chip) pauses each time in another layer, and the median of each layer knows of none.
    Each run comes after a rest, as a frame does that comes alone: caches are cold then.
    The spread is of the times as they were, drift and slow phases included: it says how far one run may be from another.
    Layers at half their rows take their turn in each round, after a rest too, and are typical in the same way.

    Returns
    -------
    dict
        ``layers``: name → (typical_s, interquartile range); ``whole_s``: (median, interquartile range); ``rounds``; ``fixed_s``:
        name → seconds, of the layers that were measured at half their rows; ``block_s``: what a part of rows takes beside its layers.
    """
    import torch

    from splitplan.executor.measure_rows import fixed_seconds
    from splitplan.models.instrument import instrument

    stamped = instrument(part)

    def run_whole() -> float:
        time.sleep(task.rest_s)
        start = time.perf_counter()
        part(inputs, symbols)
        if task.torch_device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter() - start

    with torch.inference_mode():
        run_whole()
        stamped(inputs, symbols)
        one = min(run_whole() for _ in range(3))
        shares = half.shares if half is not None else {}
        halves, besides, extra_s = list[dict[str, float]](), list[float](), 0.0
        if half is not None and shares:
            start = time.perf_counter()
            half()
            extra_s = time.perf_counter() - start + task.rest_s
        rounds = int(np.clip(task.budget_s / max(2 * (one + task.rest_s) + extra_s, 1e-6), task.least, task.most))
        whole, layers = [run_whole()], []
        for i in range(rounds):
            time.sleep(task.rest_s)
            layers.append(stamped(inputs, symbols)[1])
            if half is not None and shares:
                time.sleep(task.rest_s)
                at_half, beside = half()
                halves.append(at_half)
                besides += beside
            whole.append(run_whole())
            if (i + 1) % max(1, rounds // 10) == 0:
                say({"done": i + 1, "of": rounds})
    around = (np.array(whole[:-1]) + np.array(whole[1:])) / 2
    seconds = np.array([[run[name] for name in part.layers] for run in layers])
    typical = middle_mean(seconds / around[:, None])
    low, middle, high = np.percentile(whole, (25, 50, 75))
    factor = middle / max(typical.sum(), 1e-12)
    quarter, three = np.percentile(seconds, (25, 75), axis=0)
    # Stamps cost time too: as the layers' times, their spread is brought down to the run without.
    spread = (three - quarter) * middle / max(float(np.median(seconds.sum(axis=1))), 1e-12)
    scaled = dict(zip(part.layers, (typical * factor).tolist(), strict=True))
    fixed, block_s = {}, 0.0
    if halves:
        block_s = max(float(np.median(besides)), 0.0)
        few = np.array([[run[name] for name in shares] for run in halves])
        typical_half = middle_mean(few / around[:, None]) * factor
        fixed = fixed_seconds(scaled, dict(zip(shares, typical_half.tolist(), strict=True)), shares)
    return {
        "fixed_s": fixed,
        "block_s": block_s,
        "layers": {n: (scaled[n], float(s)) for n, s in zip(part.layers, spread, strict=True)},
        "whole_s": (float(middle), float(high - low)),
        "rounds": rounds,
    }


def middle_mean(rounds: np.ndarray) -> np.ndarray:
    """Column means over the rows whose sums are in the middle half."""
    order, count = np.argsort(rounds.sum(axis=1), kind="stable"), len(rounds)
    middle: np.ndarray = rounds[order[count // 4 : count - count // 4]].mean(axis=0)
    return middle


def about(torch_device: str) -> dict[str, Any]:
    """The machine and the versions that matter to a time."""
    import torch

    import splitplan

    machine = f"{_processor()}, {platform.system()} {platform.release()}"
    if torch_device.startswith("cuda"):
        machine = f"{torch.cuda.get_device_name(torch_device)}, {machine}"
    versions = {"splitplan": splitplan.__version__, "torch": torch.__version__, "python": platform.python_version()}
    return {"machine": machine, "versions": versions}


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def say(message: dict[str, Any]) -> None:
    """One line of JSON to the profiler."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
