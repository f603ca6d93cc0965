"""The training profiler: what each layer takes forward, backward and in the optimizer, alone and in a crowd, and what exchanges take."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils import _pytree as pytree

from splitplan.data.profile import Origin
from splitplan.data.system import System
from splitplan.data.training_plan import TrainingPlan
from splitplan.data.training_profile import TrainingProfile
from splitplan.data.training_tables import COLLECTIVES, EXCHANGES, IN_STEP, RATIOS, TIMES, UPDATES
from splitplan.errors import DataError, ExecutorError, many, raise_all
from splitplan.executor.environment import cores_here, worker_environment
from splitplan.executor.measure import REFUSED
from splitplan.executor.profiler import Progress, bar
from splitplan.executor.split import check_torch_device
from splitplan.executor.training_checks import mode_problems
from splitplan.executor.training_job import Things
from splitplan.executor.training_measure import MeasureTask
from splitplan.executor.training_whole import whole_plans
from splitplan.formulations.training_costs import TrainingCosts
from splitplan.models.graph import number_problem
from splitplan.models.training_layer import TrainingLayer

WHOLE = 0.3
"""Of the time there is, for whole iterations."""
LEAST = {"all_reduce": 0.0, "columns": 0.5}
"""Of the factors of exchanges, whatever noise says: what is begun earlier may be done in time, half a matrix is no quarter of it."""


def momentum(parameters: Any) -> torch.optim.Optimizer:
    """Stochastic gradient descent with momentum: the optimizer of a profile unless another is given."""
    return torch.optim.SGD(parameters, lr=1e-4, momentum=0.9)


OPTIMIZERS: Mapping[str, Callable[..., Any]] = {
    "sgd": torch.optim.SGD,
    "momentum": momentum,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}
"""By the names of the command line."""


def profile_training(
    model: Any,
    loss_fn: Callable[..., Any],
    batch: tuple[Any, Any],
    system: System,
    *,
    optimizer: Callable[..., Any] = momentum,
    samples: tuple[int, ...] | None = None,
    threads: tuple[int, ...] | None = None,
    budget_s: float = 60.0,
    least: int = 4,
    starts: int = 3,
    name: str | None = None,
    progress: bool | Progress | None = None,
) -> TrainingProfile:
    """Seconds of training by layer, micro-batch, threads and crowd, measured on this machine as its workers will train.

    For each number of threads it measures one worker alone and as many as the machine's cores hold, all in processes of their own, pinned
    to their cores, with a training worker's allocator. Each round runs every micro-batch once in one piece and once run by run of
    layers, each run's gradients computed from those of the next; the latter are scaled so that they add up to the former. Then, on CPUs,
    it trains: whole iterations of one worker, which the times are scaled to; and of several workers by copies and by columns, which say
    what exchanges take while workers also compute. These are measured again in fresh processes, all crowds in turn, so that a machine
    that is slower for a while is so for all that will be compared, and that what one start differs from the next by is in the latest time.
    Nothing of the model given is changed.

    Parameters
    ----------
    model : torch.nn.Module or Traced
        In train mode; parts of it may be in eval mode. A `Traced` is trained as it was traced: in eval mode.
    loss_fn : callable
        Of output and target; a mean over samples.
    batch : tuple
        Inputs and targets of a whole batch: tensors, or tuples or dicts of tensors, samples along dimension 0.
    system : System
        Like hosts, of which this machine is one; ``threads`` is the number of cores to train on.
    optimizer : callable
        Makes an optimizer from parameters; `momentum` by default. Its state counts as memory.
    samples : tuple of int, optional
        Micro-batches to measure; by default the batch, its half, its quarter, … down to a sixteenth.
    threads : tuple of int, optional
        Threads of a worker; by default 1, 2, 4, … and all cores.
    budget_s : float
        About how long to measure, shared by the crowds; starting processes, warming up and the ``least`` rounds of each come first, and take
        longer than that where an iteration is long.
    least : int
        Fewest rounds, whatever the budget.
    starts : int
        How many times each crowd is started afresh.
    name : str, optional
        The class name if not given.
    progress : bool or callable, optional
        Show a progress bar; by default when standard error is a terminal. A callable is told instead.

    Raises
    ------
    DataError
        No batch, a model in eval mode, a host that is not this machine, more cores than there are, sizes that are larger than the batch.
    ExecutorError
        A measuring process failed; says what it said.
    """
    raise_all(mode_problems(model), "profile_training")
    size = _batch_size(batch)
    cores, kind = _cores(system)
    sizes, problems = _numbers("samples", samples, _halves(size), size, f"the batch's {size}")
    counts, more = _numbers("threads", threads, _powers(cores), cores, f"the {cores} cores of a host")
    problems += more
    problems += [p for p in [number_problem("budget_s", budget_s, positive=True)] if p]
    for what, value in (("least", least), ("starts", starts)):
        good = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        problems += [] if good else [f"{what} is {value!r}; give a whole number from 1"]
    raise_all(problems, "profile_training")
    crowds = [(t, w) for t in sorted(set(counts)) for w in sorted({1, cores // t})]
    things, each = Things(model, batch, optimizer, loss_fn), budget_s / len(crowds)
    found: dict[tuple[int, int], dict[str, Any]] = {}
    with bar(progress) as tell:
        for n in range(starts):
            for t, w in crowds:
                if n and not found[t, w]["whole"]:
                    continue  # GPUs, and workers that cannot share a batch: there is nothing to measure again
                layers_s = None if n else (1 - WHOLE) * each
                task = MeasureTask(
                    t, w, tuple(sorted(set(sizes))), layers_s, WHOLE * each / starts, least, kind, name, tuple(sys.path)
                )
                measured = _measure(things, task, f"start {n + 1} of {starts}", tell)
                group = found.setdefault((t, w), measured | {"whole": {}})
                for what, steps in measured["whole"].items():
                    group["whole"].setdefault(what, []).append(steps)
    profile = _profile(found, system)
    if next(iter(found.values()))["mixes"]:
        warnings.warn(
            f"model {profile.model!r}: what comes of a sample depends on the others of its batch, and not by batch norm alone, so that a batch "
            "in parts would be another training, which sp.train refuses; plan with whole_batch=True",
            stacklevel=2,
        )
    return profile


def _batch_size(batch: Any) -> int:
    if not isinstance(batch, tuple) or len(batch) != 2:
        raise DataError(f"the batch is a {type(batch).__name__}; give (inputs, targets)", "profile_training")
    sizes = {int(t.shape[0]) for t in pytree.tree_leaves(batch) if isinstance(t, torch.Tensor) and t.dim()}
    if len(sizes) != 1:
        raise DataError(
            f"its tensors have {sorted(sizes) or 'no'} samples along dimension 0; give inputs and targets of the same samples",
            "profile_training: batch",
        )
    return sizes.pop()


def _numbers(name: str, given: Any, usual: tuple[int, ...], most: int, what: str) -> tuple[tuple[int, ...], list[str]]:
    """Whole numbers up to a most, and what is wrong with them."""
    if given is None:
        return usual, []
    wanted = f"give whole numbers from 1 to {what}"
    if isinstance(given, (str, int)) or not isinstance(given, Iterable) or not (values := tuple(given)):
        return (), [f"{name} is {given!r}; {wanted}"]
    wrong = [v for v in values if isinstance(v, bool) or not isinstance(v, int) or not 1 <= v <= most]
    return values, [f"{name} has {v!r}; {wanted}" for v in wrong]


def _cores(system: System) -> tuple[int, str]:
    if not isinstance(system, System):
        raise DataError(
            f"the system is a {type(system).__name__}; give a splitplan.System of like hosts", "profile_training"
        )
    device = next(iter(system.places.values()))
    raise_all(
        [
            f"host {n!r} is not this machine (local=False), and training times cannot be modelled"
            for n, d in system.places.items()
            if not d.local
        ],
        "profile_training",
    )
    check_torch_device(device.kind)
    here = cores_here()
    if device.kind == "cpu" and device.threads > here:
        raise DataError(
            f"a host has threads={device.threads}, this machine has {here} cores for us; give threads={here} or less",
            "profile_training",
        )
    return device.threads, device.kind


def _halves(batch: int) -> tuple[int, ...]:
    found = [batch]
    while len(found) < 5 and found[-1] % 2 == 0 and found[-1] > 2:
        found.append(found[-1] // 2)
    return tuple(reversed(found))


def _powers(cores: int) -> tuple[int, ...]:
    found = [1]
    while 2 * found[-1] < cores:
        found.append(2 * found[-1])
    return tuple(dict.fromkeys([*found, cores]))


def _measure(things: Things, task: MeasureTask, start: str, tell: Progress) -> dict[str, Any]:
    """Run one crowd of measuring processes; they end with us, whatever happens."""
    what = f"{many(task.workers, 'worker')} of {many(task.threads, 'thread')}, {start}"
    tell(what, 0.0)
    with tempfile.TemporaryDirectory(prefix="splitplan-training-") as name, tempfile.TemporaryFile() as errors:
        folder = Path(name)
        task.save(folder)
        things.save(folder)
        processes: list[subprocess.Popen[str]] = []
        failed: list[int] = []
        result = None
        try:
            for rank in range(task.workers):
                command = [sys.executable, "-m", "splitplan.executor.training_measure", str(folder), str(rank)]
                out = subprocess.PIPE if rank == 0 else subprocess.DEVNULL
                processes.append(
                    subprocess.Popen(
                        command, stdout=out, stderr=errors, env=worker_environment(task.threads), text=True
                    )
                )
            for p in processes:
                # When one fails the others wait for it, some for half an hour: whichever it is, end them.
                threading.Thread(
                    target=_end_others, args=(p, processes, failed), name="splitplan-watch", daemon=True
                ).start()
            assert processes[0].stdout is not None
            for line in processes[0].stdout:
                message = json.loads(line)
                result = message.get("result", result)
                if "done" in message:
                    tell(what, message["done"] / message["of"])
            codes = [p.wait() for p in processes]
        finally:
            for p in processes:
                if p.poll() is None:
                    p.kill()
                p.wait()
                if p.stdout is not None:
                    p.stdout.close()
        if result is None or any(codes):
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip()[-2000:] or "(nothing)"
            if REFUSED in codes:
                raise ExecutorError(f"measuring training with {what}: {said}")
            code = [*failed, *codes][0]
            raise ExecutorError(f"a measuring process of {what} ended with code {code} and no result; it said:\n{said}")
    found: dict[str, Any] = result
    return found


def _end_others(process: subprocess.Popen[str], processes: list[subprocess.Popen[str]], failed: list[int]) -> None:
    """When a process fails: note its code, and end the others."""
    if code := process.wait():
        failed.append(code)
        for other in processes:
            if other.poll() is None:
                other.kill()


def _profile(found: dict[tuple[int, int], dict[str, Any]], system: System) -> TrainingProfile:
    facts = next(iter(found.values()))
    layers = tuple(TrainingLayer(**x) for x in facts["layer_facts"])
    names = [x.name for x in layers]
    collectives: dict[tuple[str, int, float], float] = {}
    for group in found.values():
        for what, workers, size, seconds in group["collectives"]:
            # Crowds of the same size and other threads measure the same exchanges: the first one, of the fewest threads, is kept.
            collectives.setdefault((what, workers, size), seconds)
    step_s = min(g["agree_s"] for g in found.values())
    micro_s, longer = _beside(found, step_s)
    weights = np.array([x.parameter_bytes for x in layers])
    times, updates, ratios = [], [], []
    for (t, w), group in found.items():
        for samples, (forward, backward) in group["times"].items():
            rows = zip(names, forward, backward, strict=True)
            times += [(v, int(samples), t, w, longer[t, w] * f, longer[t, w] * b) for v, f, b in rows]
        added = group["add_s"] * weights / max(weights.sum(), 1.0)
        updates += [(v, t, w, longer[t, w] * u, a) for v, u, a in zip(names, group["updates"], added, strict=True)]
        rounds_of = {f"rounds of {k}": [v] for k, v in group["steps"].items()}
        for what, by_start in (group["whole"] or rounds_of).items():
            typical = _typical(by_start)
            ratios += [(t, w, what, x / typical, n) for n, steps in enumerate(by_start, 1) for x in steps]
    device = next(iter(system.places.values()))
    rounds = [g["rounds"] for g in found.values()]
    profile = TrainingProfile(
        facts["model"],
        facts["fingerprint"],
        layers,
        tuple(facts["crossing_bytes"]),
        pd.DataFrame(times, columns=list(TIMES)),
        pd.DataFrame(updates, columns=list(UPDATES)),
        pd.DataFrame([(*k, v) for k, v in collectives.items()], columns=list(COLLECTIVES)),
        uncuttable=tuple(facts["uncuttable"]),
        state_factor=facts["state_factor"],
        step_s=step_s,
        micro_s=micro_s,
        ratios=pd.DataFrame(ratios, columns=list(RATIOS)),
        origin=Origin(
            device.name,
            device.slowdown,
            device.threads,
            facts["machine"],
            facts["versions"],
            datetime.now(UTC).isoformat(timespec="seconds"),
            f"training; {min(rounds)} to {max(rounds)} rounds",
        ),
    )
    return _in_step(profile, {k: g["whole"] for k, g in found.items()}, system)


def _typical(by_start: list[list[float]]) -> float:
    """Typical seconds of iterations that were started several times: of the starts' medians the middle one."""
    return float(np.median([np.median(steps) for steps in by_start]))


def _beside(found: dict[tuple[int, int], dict[str, Any]], step_s: float) -> tuple[float, dict[tuple[int, int], float]]:
    """Seconds beside the layers of a micro-batch, and by crowd how many times as long layers take in iterations as in the rounds.

    Rounds of all sizes in turn find caches as they are not in training, and time no engine. A batch in parts takes longer than at once
    by what its smaller micro-batches take, which the rounds say, by adding their gradients up, and by what is beside them; the rest of
    an iteration is the layers'. What one worker takes longer or less in the start in which its rounds were, so do several: else what is
    compared would not be measured alike. And what a crowd's iterations take in all its starts over that first one, its layers do.
    """
    first: dict[int, tuple[float, float]] = {}
    beside = []
    for (t, w), group in found.items():
        if w > 1 or "alone" not in group["whole"]:
            continue
        told = {int(s): float(np.sum(x)) for s, x in group["times"].items()}
        whole, most = _typical(group["whole"]["alone"][:1]), max(told)
        first[t] = whole, told[most] + float(np.sum(group["updates"]))
        if "parts" in group["whole"]:
            least = min(s for s in told if most % s == 0)
            # T1 = k A + micro + step and Tn = T1 + k D + (n - 1) (micro + add): two equations for k and micro.
            n = most / least
            more = _typical(group["whole"]["parts"][:1]) - whole - (n - 1) * group["add_s"]
            extra = n * told[least] - told[most]
            longer = extra / max(first[t][1], 1e-12)
            if longer <= (n - 1) / 2:
                beside.append((more - (whole - step_s) * longer) / (n - 1 - longer))
            else:  # small parts cost nearly what the batch does, and noise would be divided by next to nothing: k is taken as 1
                beside.append((more - extra) / (n - 1))
    # The least of all threads': what disturbs a measurement makes it longer.
    micro_s = max(0.0, min([*beside, *(0.9 * (x - step_s) for x, _ in first.values())])) if beside else 0.0
    engine = {t: (x - step_s - micro_s) / told if told > 0 else 1.0 for t, (x, told) in first.items()}
    # Parts are run in the first start only, and know nothing of the others.
    again = {k: [_typical(x) / _typical(x[:1]) for x in g["whole"].values() if len(x) > 1] for k, g in found.items()}
    again = {k: x or again.get((k[0], 1), []) for k, x in again.items()}
    return float(micro_s), {k: engine.get(k[0], 1.0) * float(np.median(x) if x else 1.0) for k, x in again.items()}


def _in_step(
    profile: TrainingProfile, whole: dict[tuple[int, int], dict[str, list[list[float]]]], system: System
) -> TrainingProfile:
    """The profile with what exchanges take within whole iterations, over what they take alone: such that the plans run are told as they were.

    A prediction is linear in each factor, so two of them say which one meets the measurement.
    """
    rows: list[tuple[str, int, float, float]] = []
    for what in EXCHANGES:  # the second one's copies exchange as the first one says
        for (t, w), seconds in whole.items():
            if what not in seconds or (what, w) in [r[:2] for r in rows]:
                continue
            samples = [int(s) for s in profile.times[profile.times["threads"] == t]["samples"].unique()]
            plan = whole_plans(profile.model, profile.fingerprint, profile.layers, t, w, sorted(samples))[what]
            took = _typical(seconds[what])
            once, twice = (_told(profile.with_factor(what, w, x), system, plan) for x in (1.0, 2.0))
            if twice > once:
                rows.append((what, w, took, max(LEAST[what], 1 + (took - once) / (twice - once))))
        profile = replace(profile, in_step=pd.DataFrame(rows, columns=list(IN_STEP)))
    return profile


def _told(profile: TrainingProfile, system: System, plan: TrainingPlan) -> float:
    """Seconds of an iteration of a plan of one stage, whether or not the system has the memory for it."""
    (stage,) = TrainingCosts(profile, system, plan.batch).stages_of(plan)
    return stage.forward_s + stage.backward_s + stage.sync_s + stage.update_s + profile.step_s
