"""The MILP of HybridTraining in Pyomo: one equation a function, numbered as in `training.HybridTraining`. Needs pyomo, no solver."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import pyomo.environ as pyo

from splitplan.formulations.base import ROUNDING
from splitplan.formulations.training_costs import Config, StageCost
from splitplan.formulations.training_schedule import order_of

if TYPE_CHECKING:
    from splitplan.data.training_plan import TrainingPlan
    from splitplan.formulations.training import HybridTraining


@dataclass(frozen=True)
class Column:
    """One stage as it may be: stage k of a configuration, layers i … j − 1, workers from ``first`` on; the stage before has ``before`` replicas."""

    config: int
    k: int
    i: int
    j: int
    first: int
    before: int
    replicas: int
    columns: tuple[int, ...]
    cost: StageCost
    link: float


def build(problem: HybridTraining) -> pyo.ConcreteModel:
    """The whole problem as a list of its parts. Memory (4) leaves columns out; (1) and (3) are in what columns there are."""
    m = pyo.ConcreteModel(name="training")
    m.configs = list(problem.configs())
    m.stages = list(columns(problem))
    variable_configurations(m)
    variable_stages(m)
    variable_iteration(m)
    constraint_one_configuration(m)
    constraint_stages_follow(m, problem)
    for c, config in enumerate(m.configs):
        {"none": constraint_single, "gpipe": constraint_gpipe, "1f1b": constraint_1f1b}[config.schedule](m, problem, c)
    m.least = pyo.Objective(expr=m.T, sense=pyo.minimize)
    return m


def columns(problem: HybridTraining) -> Iterator[Column]:
    """Every stage that memory holds, of every configuration."""
    costs = problem.costs
    for c, config, k, i, j, first, before, r, able in _places(problem):
        limit = costs.limit_bytes(config) * (1 + ROUNDING)
        link = costs.link(config, i, first - before, before, r) if k else 0.0
        for shared in (x for n in range(len(able) + 1) for x in combinations(able, n)):
            cost = costs.stage(config, k, i, j, first, r, shared)
            if cost.memory_bytes <= limit:
                yield Column(c, k, i, j, first, before, r, shared, cost, link)


def count(problem: HybridTraining, most: int) -> int:
    """How many stages there would be if memory held all, without making any; counted up to ``most`` and the next."""
    many = 0
    for *_, able in _places(problem):
        many += 2 ** len(able)
        if many > most:
            break
    return many


def _places(problem: HybridTraining) -> Iterator[tuple[int, Config, int, int, int, int, int, int, list[int]]]:
    """Configuration, stage, first and last position, first worker, replicas before and of its own, and layers that may be shared."""
    places = [0, *problem.positions, problem.costs.layers]
    for c, config in enumerate(problem.configs()):
        for k in range(config.stages):
            for i, j in combinations(places, 2):
                if (i == 0) != (k == 0) or (j == places[-1]) != (k == config.stages - 1):
                    continue
                for first, before, r in _workers(config, k):
                    able = [v for v in problem.choices(config, r) if i <= v < j]
                    yield c, config, k, i, j, first, before, r, able


def _workers(config: Config, k: int) -> Iterator[tuple[int, int, int]]:
    """First worker of stage k, replicas of the stage before it, and its own."""
    for first in range(k * config.replicas[0], k * config.replicas[-1] + 1):
        for before in config.replicas if k else (0,):
            for r in config.replicas:
                left = config.workers - first - r
                rest = config.stages - k - 1
                if rest * config.replicas[0] <= left <= rest * config.replicas[-1] and before <= first:
                    yield first, before, r


def variable_configurations(m: pyo.ConcreteModel) -> None:
    """u_c: configuration c is taken."""
    m.u = pyo.Var(range(len(m.configs)), domain=pyo.Binary, doc="the configuration")


def variable_stages(m: pyo.ConcreteModel) -> None:
    """z: the stage of a `Column` is in the plan."""
    m.z = pyo.Var(range(len(m.stages)), domain=pyo.Binary, doc="the stage")
    m.of = defaultdict(list)
    for n, x in enumerate(m.stages):
        m.of[x.config, x.k].append(n)


def variable_iteration(m: pyo.ConcreteModel) -> None:
    """T, times `HybridTraining.scale`."""
    m.T = pyo.Var(bounds=(0, None), doc="seconds of an iteration")
    m.rows = pyo.ConstraintList(doc="the iteration takes as long as its schedule")


def constraint_one_configuration(m: pyo.ConcreteModel) -> None:
    """Σ_c u_c = 1."""
    m.one = pyo.Constraint(expr=pyo.quicksum(m.u.values()) == 1)


def constraint_stages_follow(m: pyo.ConcreteModel, problem: HybridTraining) -> None:
    """(1), (2): stage 0 of the configuration taken begins; each stage begins where the one before ends, on the workers after its own."""
    m.follow = pyo.ConstraintList(doc="stage k + 1 begins where stage k ends")
    for c, config in enumerate(m.configs):
        first = pyo.quicksum(m.z[n] for n in m.of[c, 0])
        m.follow.add(first - m.u[c] == 0)
        for k in range(config.stages - 1):
            ended, begun = defaultdict(list), defaultdict(list)
            for n in m.of[c, k]:
                x = m.stages[n]
                ended[x.j, x.first + x.replicas, x.replicas].append(m.z[n])
            for n in m.of[c, k + 1]:
                x = m.stages[n]
                begun[x.i, x.first, x.before].append(m.z[n])
            for at in sorted({*ended, *begun}):
                m.follow.add(pyo.quicksum(ended[at]) - pyo.quicksum(begun[at]) == 0)


def _sum(m: pyo.ConcreteModel, problem: HybridTraining, c: int, k: int, what: str) -> Any:
    """Scaled seconds of stage k, 0 unless configuration c is taken."""

    def seconds(n: int) -> float:
        x: Column = m.stages[n]
        return {
            "forward": x.cost.forward_s,
            "backward": x.cost.backward_s,
            "tail": x.cost.sync_s + x.cost.update_s,
            "link": x.link,
        }[what]

    return pyo.quicksum(problem.scale * seconds(n) * m.z[n] for n in m.of[c, k])


def constraint_single(m: pyo.ConcreteModel, problem: HybridTraining, c: int) -> None:
    """(8) of one stage: T ≥ m (F + B) + G."""
    many = m.configs[c].micro_batches
    forward, backward, tail = (_sum(m, problem, c, 0, x) for x in ("forward", "backward", "tail"))
    m.rows.add(m.T >= many * (forward + backward) + tail)


def constraint_gpipe(m: pyo.ConcreteModel, problem: HybridTraining, c: int) -> None:
    """(8) by GPipe: T ≥ Σ F + (m − 1) max F + Σ_{u ≥ s} B_u + (m − 1) max_{u ≥ s} B_u + G_s for every stage s."""
    p, more = m.configs[c].stages, m.configs[c].micro_batches - 1
    forward, backward, tail, link = (
        [_sum(m, problem, c, k, x) for k in range(p)] for x in ("forward", "backward", "tail", "link")
    )
    ahead = pyo.Var(bounds=(0, None), doc="the slowest station forward")
    back = pyo.Var(range(p), bounds=(0, None), doc="the slowest station backward from stage s on")
    m.add_component(f"ahead_{c}", ahead)
    m.add_component(f"back_{c}", back)
    for k in range(p):
        m.rows.add(ahead >= forward[k])
        m.rows.add(back[k] >= backward[k])
        if k:
            m.rows.add(ahead >= link[k])
            m.rows.add(back[k - 1] >= link[k])
            m.rows.add(back[k - 1] >= back[k])
    there = pyo.quicksum(forward) + pyo.quicksum(link[1:]) + more * ahead
    for s in range(p):
        rest = pyo.quicksum(backward[s:]) + pyo.quicksum(link[s + 1 :]) + more * back[s]
        m.rows.add(m.T >= there + rest + tail[s])


def constraint_1f1b(m: pyo.ConcreteModel, problem: HybridTraining, c: int) -> None:
    """(8) by 1F1B: each piece ends no sooner than those it follows and its own seconds; T ≥ the end of each stage's last backward piece + G_s."""
    config: Config = m.configs[c]
    p, many = config.stages, config.micro_batches
    kinds = ("forward", "backward", "up", "down")
    end = pyo.Var(kinds, range(p), range(many), bounds=(0, None), doc="when a piece ends")
    m.add_component(f"end_{c}", end)
    for s in range(p):
        work = {x: _sum(m, problem, c, s, x) for x in ("forward", "backward")}
        link = _sum(m, problem, c, s + 1, "link") if s < p - 1 else 0.0
        order = order_of(s, p, many, "1f1b")
        for n, (what, k) in enumerate(order):
            needs = [end[order[n - 1][0], s, order[n - 1][1]]] if n else []
            if what == "forward" and s:
                needs.append(end["up", s - 1, k])
            if what == "backward":
                needs.append(end["down", s, k] if s < p - 1 else end["forward", s, k])
            for need in needs or [0.0]:
                m.rows.add(end[what, s, k] >= need + work[what])
        for k in range(many if s < p - 1 else 0):
            m.rows.add(end["up", s, k] >= end["forward", s, k] + link)
            m.rows.add(end["down", s, k] >= end["backward", s + 1, k] + link)
            if k:
                m.rows.add(end["up", s, k] >= end["up", s, k - 1] + link)
                m.rows.add(end["down", s, k] >= end["down", s, k - 1] + link)
        m.rows.add(m.T >= end["backward", s, many - 1] + _sum(m, problem, c, s, "tail"))


def notes(problem: HybridTraining) -> list[str]:
    """What the variables of the LP file stand for, a line each."""
    names = [x.name for x in problem.profile.layers]
    found = [
        f"T is in seconds times {problem.scale!r}, without the {problem.profile.step_s!r} s of an iteration beside its layers.",
        "ahead_c, back_c(s): the slowest station forward, and backward from stage s on, in configuration c.",
        "end_c(what_s_k): when stage s, or the way up or down between it and the next, is done with micro-batch k.",
    ]
    for n, c in enumerate(problem.configs()):
        replicas = " or ".join(map(str, c.replicas))
        found.append(
            f"u({n}): configuration {n}: stages {c.stages}, workers {c.workers}, replicas of a stage {replicas}, "
            f"threads of a worker {c.threads}, micro-batches {c.micro_batches}, schedule {c.schedule}"
        )
    for n, x in enumerate(columns(problem)):
        shared = f", columns of {', '.join(repr(names[v]) for v in x.columns)} shared" if x.columns else ""
        after = f", after a stage of {x.before}" if x.k else ""
        found.append(
            f"z({n}): configuration {x.config}, stage {x.k}: layers {names[x.i]!r} to {names[x.j - 1]!r} on "
            f"workers {x.first} to {x.first + x.replicas - 1}{shared}{after}"
        )
    return found


def read(problem: HybridTraining, values: Mapping[str, float]) -> TrainingPlan:
    """The plan in a solver's values, by name."""
    every = list(columns(problem))
    chosen = [every[int(name[2:-1])] for name, x in values.items() if name.startswith("z[") and x > 0.5]
    chosen.sort(key=lambda x: x.k)
    config = list(problem.configs())[chosen[0].config]
    return problem.plan_for(
        config, [x.i for x in chosen[1:]], [x.replicas for x in chosen], [x.columns for x in chosen]
    )
