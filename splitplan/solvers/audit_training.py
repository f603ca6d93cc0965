"""The audit of a training plan: its iteration re-added from the profile's rows and simulated piece by piece, never through the formulation's coefficients."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

from splitplan.formulations.solution import Audit
from splitplan.solvers.audit import SLACK

if TYPE_CHECKING:
    from splitplan.data.training_plan import TrainingPlan
    from splitplan.formulations.training import HybridTraining

BY = "solvers.audit_training.audit_training"


def audit_training(problem: HybridTraining, plan: TrainingPlan, duals: dict[str, Any]) -> Audit:
    """Re-add a plan's seconds layer by layer, run its schedule as a longest path, and look for what it breaks.

    Parameters
    ----------
    problem : HybridTraining
    plan : TrainingPlan
    duals : dict
        Not used: the bound is the solver's.
    """
    # What breaks these has no costs: the profile or the system has no such numbers.
    broken = _structure(problem, plan) or _room(problem, plan) or _measured(problem, plan)
    if broken:
        return Audit(BY, math.nan, {}, tuple(broken))
    hosts = list(problem.system.places.values())
    each = hosts[0].threads // plan.threads
    crowd = min(plan.workers, each)
    memory = min((d.memory_bytes for d in hosts if d.memory_bytes is not None), default=math.inf) / crowd
    work, first = [], 0
    for k, stage in enumerate(plan.stages):
        at = _Stage(problem, plan, k, first, crowd, each)
        if at.memory_bytes > memory * (1 + SLACK):
            broken.append(f"stage {k}: {at.memory_bytes:.6g} bytes, a worker has {memory:.6g}")
        work.append(at)
        first += stage.replicas
    links = [_link(problem, plan, work[k], work[k + 1], each) for k in range(len(work) - 1)]
    seconds = _longest_path(plan, work, links) + problem.profile.step_s
    return Audit(BY, seconds, {"iteration_s": seconds}, tuple(broken))


def _structure(problem: HybridTraining, plan: TrainingPlan) -> list[str]:
    profile = problem.profile
    broken = []
    if plan.fingerprint != profile.fingerprint or plan.batch != problem.batch:
        broken.append("it was made for another model or batch")
    if [v for s in plan.stages for v in s.layers] != [x.name for x in profile.layers]:
        broken.append("its stages are not the profile's layers in their order")
    at = 0
    for s in plan.stages[:-1]:
        at += len(s.layers)
        if at in profile.uncuttable:
            broken.append(f"it is cut at position {at}, where the model cannot be cut")
    if problem.replicas == "same" and len({s.replicas for s in plan.stages}) > 1:
        broken.append("its stages have unlike replicas")
    if problem.max_stages is not None and len(plan.stages) > problem.max_stages:
        broken.append(f"max_stages={problem.max_stages}: it has {len(plan.stages)}")
    if problem.micro_batches is not None and plan.micro_batches not in problem.micro_batches:
        broken.append(f"micro_batches={problem.micro_batches}: it has {plan.micro_batches}")
    if problem.threads is not None and plan.threads not in problem.threads:
        broken.append(f"threads={problem.threads}: it has {plan.threads}")
    if plan.schedule == "1f1b" and plan.micro_batches < len(plan.stages):
        broken.append(f"1f1b with {plan.micro_batches} micro-batches for {len(plan.stages)} stages")
    if plan.schedule not in problem.schedules:
        broken.append(f"schedules={problem.schedules}: it has {plan.schedule!r}")
    if problem.whole_batch and (plan.micro_batches > 1 or any(s.replicas > 1 for s in plan.stages)):
        broken.append("whole_batch: it splits the batch")
    if not problem.columns and any(s.columns for s in plan.stages):
        broken.append("columns=False: it shares columns")
    return broken


def _room(problem: HybridTraining, plan: TrainingPlan) -> list[str]:
    """Workers for which there are no cores."""
    hosts = list(problem.system.places.values())
    if plan.workers <= len(hosts) * (hosts[0].threads // plan.threads):
        return []
    return [f"{plan.workers} workers of {plan.threads} threads on {len(hosts)} hosts of {hosts[0].threads} cores"]


def _measured(problem: HybridTraining, plan: TrainingPlan) -> list[str]:
    """What the profile says nothing of: threads, micro-batches, columns."""
    rows, columns = problem.profile.times, {x.name: x.columns for x in problem.profile.layers}
    known = sorted(set(rows["threads"]))
    if plan.threads not in known:
        return [f"threads={plan.threads}: measured with {', '.join(map(str, known))}"]
    mine = rows[rows["threads"] == plan.threads].groupby("workers")["samples"]
    low, high = mine.min().max(), mine.max().min()
    g = plan.batch // plan.micro_batches
    seen = {g // s.replicas for s in plan.stages} | {g for s in plan.stages if s.columns}
    broken = [f"{x} samples at a time, measured were {low} to {high}" for x in sorted(seen) if not low <= x <= high]
    return broken + [
        f"layer {v!r} has no {s.replicas} columns" for s in plan.stages for v in s.columns if columns[v] < s.replicas
    ]


class _Stage:
    """One stage's sums from the profile's rows."""

    def __init__(self, problem: HybridTraining, plan: TrainingPlan, k: int, first: int, crowd: int, each: int) -> None:
        profile, stage = problem.profile, plan.stages[k]
        layers = {x.name: x for x in profile.layers}
        g, r, t = plan.batch // plan.micro_batches, stage.replicas, plan.threads
        self.first, self.last, self.replicas = first, first + r - 1, r
        mine = set(stage.layers)
        times = {v: rows for v, rows in profile.times[profile.times["threads"] == t].groupby("layer") if v in mine}
        updates = {
            v: rows for v, rows in profile.updates[profile.updates["threads"] == t].groupby("layer") if v in mine
        }
        forward, backward, update, added, kept, weights = [], [], [], [], [], []
        before = sum(len(x.layers) for x in plan.stages[:k])
        # A buffer for each micro-batch: what comes from the stage before, and gradients from the one behind.
        around = [profile.crossing_bytes[at - 1] for at in (before, before + len(stage.layers)) if 0 < at < len(layers)]
        received = [x * g / r * plan.micro_batches for x in around]
        apart = first // each != self.last // each
        for name in stage.layers:
            layer, shared = layers[name], name in stage.columns
            f, b = (
                _line(times[name], column, g if shared else g // r, crowd) for column in ("forward_s", "backward_s")
            )
            u, more = (_update(updates[name], column, crowd) for column in ("update_s", "add_s"))
            more *= (plan.micro_batches - 1) / plan.micro_batches  # the first one's gradients are added to nothing
            paid = _in_step(problem, "columns", r) if shared else 1.0
            forward.append(paid * f / r if shared else f)
            backward.append(paid * b / r + more / r if shared else b + more)
            update.append(u / r if shared else u)
            kept.append(layer.saved_bytes * g / r)
            weights.append(layer.parameter_bytes / r if shared else layer.parameter_bytes)
            if shared:
                into, out = g * layer.input_bytes, g * layer.output_bytes
                gathered = exchange_s(problem, "all_gather", r, out, apart, paid)
                forward += [exchange_s(problem, "all_gather", r, into, apart, paid), gathered]
                backward += [gathered, exchange_s(problem, "reduce_scatter", r, into, apart, paid)]
                kept.append(layer.input_bytes * (g - g / r))
            else:
                added.append(layer.parameter_bytes)
        slow = _slowness(problem, plan, first, r, each)
        half = profile.micro_s / 2
        self.forward = slow * math.fsum([*forward, half])
        self.backward = slow * math.fsum([*backward, half])
        sync = exchange_s(problem, "all_reduce", r, math.fsum(added), apart)
        self.tail = math.fsum([sync, slow * math.fsum(update)])
        held = {"none": 1, "gpipe": plan.micro_batches}.get(
            plan.schedule, min(plan.micro_batches, len(plan.stages) - k)
        )
        self.memory_bytes = math.fsum(
            [(2 + profile.state_factor) * math.fsum(weights), held * math.fsum(kept), *received]
        )


def _line(rows: Any, column: str, samples: int, crowd: int) -> float:
    """Seconds of a layer by straight lines between the profile's rows: over samples, then over crowds."""
    by_crowd: dict[float, list[tuple[float, float]]] = {}
    for w, at, seconds in zip(rows["workers"].tolist(), rows["samples"].tolist(), rows[column].tolist(), strict=True):
        by_crowd.setdefault(float(w), []).append((float(at), seconds))
    known = sorted(by_crowd)
    ends = []
    for w in known:
        pairs = sorted(by_crowd[w])
        ends.append(_straight([a for a, _ in pairs], [s for _, s in pairs], samples))
    return _straight(known, ends, crowd)


def _update(rows: Any, column: str, crowd: int) -> float:
    pairs = sorted(zip(map(float, rows["workers"].tolist()), rows[column].tolist(), strict=True))
    return _straight([w for w, _ in pairs], [u for _, u in pairs], crowd)


def _straight(xs: list[float], ys: list[float], x: float) -> float:
    for (a, u), (b, v) in zip(zip(xs, ys, strict=True), zip(xs[1:], ys[1:], strict=False), strict=False):
        if a <= x <= b:
            return float(u + (v - u) * ((x - a) / (b - a)))
    return float(ys[0] if x <= xs[0] else ys[-1])


def exchange_s(problem: HybridTraining, what: str, workers: int, size: float, apart: bool, paid: float = 1.0) -> float:
    """Seconds of a collective: the profile's line, so many times, on a link between hosts at least what the link takes."""
    if workers < 2 or size <= 0:
        return 0.0
    table = problem.profile.collectives
    rows = table[table["what"] == what]
    nearest = min(sorted(set(rows["workers"])), key=lambda w: abs(w - workers))
    pairs = sorted(
        (float(a), float(b))
        for a, b, w in zip(rows["size_bytes"], rows["time_s"], rows["workers"], strict=True)
        if w == nearest
    )
    part = 1.0 if what == "send" else (1 - 1 / workers) / (1 - 1 / nearest)
    # More bytes never take less, whatever noise says.
    xs, ys = [a for a, _ in pairs], [max(b for a, b in pairs if a <= x) for x, _ in pairs]
    seconds = _straight(xs, ys, size * part)
    if size * part > xs[-1] and len(xs) > 1:
        seconds += max(0.0, (ys[-1] - ys[-2]) / (xs[-1] - xs[-2])) * (size * part - xs[-1])
    seconds *= _in_step(problem, what, workers) if what == "all_reduce" else paid
    if apart:
        seconds = max(seconds, _over_link_s(problem, size * (1 + (what == "all_reduce")) * (1 - 1 / workers)))
    return seconds


def _over_link_s(problem: HybridTraining, size: float) -> float:
    """Seconds of so many bytes over the slowest of the ways between hosts."""
    names = list(problem.system.places)
    ways = [w for a in names for b in names if a != b and (w := problem.system.way(a, b)) is not None]
    return max(w.delay_s for w in ways) + max(w.busy_s(1e6) for w in ways) * size / 1e6


def _in_step(problem: HybridTraining, what: str, workers: int) -> float:
    """How many times as long it takes within an iteration: the row of the nearest number of workers, the smaller of two."""
    rows = [r for r in problem.profile.in_step.to_dict("records") if r["what"] == what]
    least = min((abs(r["workers"] - workers) for r in rows), default=0)
    near = sorted((r["workers"], r["factor"]) for r in rows if abs(r["workers"] - workers) == least)
    return float(near[0][1]) if near else 1.0


def _link(problem: HybridTraining, plan: TrainingPlan, a: _Stage, b: _Stage, each: int) -> float:
    position = sum(len(s.layers) for s in plan.stages[: _index(plan, a)])
    position += len(plan.stages[_index(plan, a)].layers)
    whole = problem.profile.crossing_bytes[position - 1] * plan.batch / plan.micro_batches
    here = exchange_s(problem, "send", 2, whole / min(a.replicas, b.replicas), False)
    # Of as many equal parts as both can share out: those that go between the same two hosts have one link.
    parts = math.lcm(a.replicas, b.replicas)
    far = Counter(
        (x, y)
        for k in range(parts)
        if (x := (a.first + k * a.replicas // parts) // each) != (y := (b.first + k * b.replicas // parts) // each)
    )
    if not far or whole <= 0:
        return here
    return max(here, _over_link_s(problem, whole * max(far.values()) / parts))


def _index(plan: TrainingPlan, at: _Stage) -> int:
    done = 0
    for k, s in enumerate(plan.stages):
        if done == at.first:
            return k
        done += s.replicas
    raise AssertionError("a stage begins where none does")


def _slowness(problem: HybridTraining, plan: TrainingPlan, first: int, replicas: int, each: int) -> float:
    if not problem.speeds:
        return 1.0
    per_host = next(iter(problem.system.places.values())).threads
    slowest = 0.0
    for w in range(first, first + replicas):
        start = (w // each) * per_host + (w % each) * plan.threads
        slowest = max(slowest, *(1 / problem.speeds[c] for c in range(start, start + plan.threads)))
    return slowest


def _longest_path(plan: TrainingPlan, work: list[_Stage], links: list[float]) -> float:
    """The iteration as a graph of pieces, each after the one before it on its stage or link and after what it needs: the longest path.

    Pieces are settled in rounds until nothing changes, so that no order is assumed but the stages' own.
    """
    p, m = len(work), plan.micro_batches
    pieces: dict[tuple[str, int, int], tuple[float, list[tuple[str, int, int]]]] = {}
    for s, at in enumerate(work):
        ahead = {"none": 1, "gpipe": m}.get(plan.schedule, min(m, p - s))
        order = [("F", s, k) for k in range(ahead)]
        for k in range(m):
            order += [("B", s, k), *([("F", s, k + ahead)] if k + ahead < m else [])]
        for n, piece in enumerate(order):
            what, _, k = piece
            needs = [order[n - 1]] if n else []
            if what == "F" and s:
                needs.append(("up", s - 1, k))
            if what == "B":
                needs.append(("down", s, k) if s < p - 1 else ("F", s, k))
            pieces[piece] = (at.forward if what == "F" else at.backward, needs)
    for s, seconds in enumerate(links):
        for k in range(m):
            pieces["up", s, k] = (seconds, [("F", s, k), *([("up", s, k - 1)] if k else [])])
            pieces["down", s, k] = (seconds, [("B", s + 1, k), *([("down", s, k - 1)] if k else [])])
    end = dict.fromkeys(pieces, 0.0)
    changed = True
    while changed:
        changed = False
        for piece, (seconds, needs) in pieces.items():
            at_last = seconds + max((end[x] for x in needs), default=0.0)
            if at_last > end[piece]:
                end[piece], changed = at_last, True
    return max(
        max(v for (what, u, _), v in end.items() if what == "B" and u == s) + at.tail for s, at in enumerate(work)
    )
