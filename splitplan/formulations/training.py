"""HybridTraining: how many parts, how many copies, how many cores for the quickest training iteration. States the problem; solves nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Literal

from splitplan.data.system import System
from splitplan.data.training_plan import Schedule, TrainingPlan, TrainingStage
from splitplan.data.training_profile import TrainingProfile
from splitplan.errors import DataError, FingerprintError, many, raise_all
from splitplan.formulations.base import TOLERANCE, Formulation
from splitplan.formulations.scaled import Scaled
from splitplan.formulations.solution import Alternative
from splitplan.formulations.training_checks import problems
from splitplan.formulations.training_costs import Config, TrainingCosts
from splitplan.formulations.training_notes import named
from splitplan.formulations.training_schedule import finish_s, iteration_s

if TYPE_CHECKING:
    import pyomo.environ as pyo
    from matplotlib.figure import Figure

    from splitplan.formulations.solution import Solution
    from splitplan.formulations.training_estimate import TrainingEstimate

SCHEDULES: tuple[Schedule, ...] = ("none", "gpipe", "1f1b")


@dataclass(frozen=True, eq=False)
class HybridTraining(Scaled, Formulation):
    r"""Cut a network into stages, copy each onto replicas, give each worker cores: the least time of a training iteration.

    Layers 1, …, n in execution order, positions i = 0, …, n between them. A plan is a configuration c (threads t of a worker, stages p,
    workers W, micro-batches m, schedule) and for each stage s its layers (i_{s−1}, i_s], its replicas r_s, and which of its linear layers
    K_s its replicas share by columns. A micro-batch has g = batch / m samples, a replica's share g / r_s.

    Minimize T subject to

    (1) 0 = i_0 < i_1 < … < i_p = n; no cut at an uncuttable position.
    (2) Σ_s r_s = W, W t ≤ cores, no worker across two hosts; r_s the same for all s when ``replicas="same"``.
    (3) m r_s divides the batch; m ≥ p in 1F1B.
    (4) weights_s (2 + state) + held_s · in flight_s + received_s ≤ memory of a worker: weights, gradients, the optimizer's state; what
        is kept for the backward pass of m micro-batches in GPipe, min(m, p − s + 1) in 1F1B, one when p = 1; buffers for what comes from
        the stages around it, of all m; a column layer's weights are divided by r_s, and of its inputs all samples' are kept. [bytes]
    (5) F_s = λ_s (micro/2 + Σ_{v ∉ K} f_v(g/r_s) + ψ Σ_{v ∈ K} (f_v(g)/r_s + exchange_v)), B_s alike; f and b as measured with t threads
        while as many workers compute at once as the host then has; b with (m − 1)/m of adding gradients to those of earlier
        micro-batches; ψ such that a measured iteration by columns takes what it took; micro what a micro-batch takes beside its layers;
        λ_s one over the least speed of the stage's cores.                                                                   [s]
    (6) X_s = transfer of the activations at i_s of a micro-batch, Y_s of their gradients: stations of their own; all replicas
        send at once, and what goes between the same two hosts shares their link.                                              [s]
    (7) G_s = φ · all-reduce of the weights outside K_s over r_s replicas + λ_s (the optimizer's Σ_{v ∉ K} u_v + Σ_{v ∈ K} u_v / r_s); φ
        such that a measured iteration of copies takes what it took. Between hosts no exchange takes less than the link.     [s]
    (8) T = max_s (finish_s + G_s) + step overhead; finish_s = m (F + B) for p = 1, else by the schedule
        (`training_schedule.finish_s`): GPipe in closed form, 1F1B by its recurrence.                                        [s]

    Intra-op threads alone (p = W = 1, t > 1), pure data parallelism (p = 1, r > 1, K empty) and one core are plans among these.
    Gradients are added up after the last of them is there. Where an engine begins earlier, what that saves, and what it costs the
    workers that still compute, is in φ (`TrainingProfile.in_step`). The latest time is (8) with all seconds longer by
    `TrainingProfile.ratio` at ``latest_quantile``.

    Replicas change what batch norm sees (its own samples only), and micro-batches too; with ``whole_batch`` only plans remain in which
    every layer sees the whole batch at once: r_s = 1, m = 1.

    Parameters
    ----------
    profile : TrainingProfile
    system : System
        Like hosts, ``threads`` cores each, ``memory_bytes`` each.
    batch : int
        Samples of an iteration.
    replicas : {"same", "any"}
        Whether all stages have the same number of replicas, as plans that can be run must; "any" plans only.
    max_stages : int, optional
    micro_batches, threads : tuple of int, optional
        Those to choose from; by default every divisor of the batch within what was measured, and all threads that were.
    schedules : tuple of Schedule
    columns : bool
        Whether linear layers may be shared by columns.
    whole_batch : bool
    latest_quantile : float
        Share of iterations that the latest time must hold.
    speeds : tuple of float
        Of each core, 1 as measured; empty: all 1. Workers take cores in this order, so put slow ones last.
    """

    profile: TrainingProfile
    system: System
    batch: int
    replicas: Literal["same", "any"] = "same"
    max_stages: int | None = None
    micro_batches: tuple[int, ...] | None = None
    threads: tuple[int, ...] | None = None
    schedules: tuple[Schedule, ...] = SCHEDULES
    columns: bool = True
    whole_batch: bool = False
    latest_quantile: float = 0.99
    speeds: tuple[float, ...] = ()

    kind: ClassVar[str] = "hybrid-training"

    def __post_init__(self) -> None:
        for name in ("micro_batches", "threads", "schedules", "speeds"):
            value = getattr(self, name)
            if name in ("micro_batches", "threads") and isinstance(value, int):
                object.__setattr__(self, name, (value,))
            elif isinstance(value, Iterable) and not isinstance(value, str):
                object.__setattr__(self, name, tuple(value))
        raise_all(problems(self), "HybridTraining")
        if not self.configs():
            raise_all([self._why_no_config()], "HybridTraining")

    @cached_property
    def costs(self) -> TrainingCosts:
        """The coefficients."""
        return TrainingCosts(self.profile, self.system, self.batch, self.speeds)

    @cached_property
    def sampled(self) -> tuple[float, float, float | None]:
        """Of the plans that need no search, or where only pipelines may be, of even cuts: the least positive objective, the largest, the least within memory."""
        every = [c for c in self.configs() if c.workers == c.stages * c.replicas[0]]
        inner = len(self.positions) + 1
        costs = []
        for c in [c for c in every if c.stages == 1] or every:
            cuts = [self.positions[k * inner // c.stages - 1] for k in range(1, c.stages)]
            plan = self.plan_for(c, cuts, c.replicas[:1] * c.stages)
            costs.append((plan, plan.predicted["iteration_s"]))
        allowed = [v for x, v in costs if not self.violations(x)]
        values = [v for _, v in costs]
        return min(allowed or [v for v in values if v > 0], default=0.0), max(values), min(allowed, default=None)

    # -- what there is to choose from ----------------------------------------------------------------

    @cached_property
    def positions(self) -> tuple[int, ...]:
        """Inner positions at which the model may be cut."""
        forbidden = set(self.profile.uncuttable)
        return tuple(i for i in range(1, self.costs.layers) if i not in forbidden)

    def configs(self) -> tuple[Config, ...]:
        """Every configuration of (1)–(3): threads, stages, workers, micro-batches, schedule."""
        return tuple(self._configs.values())

    @cached_property
    def _configs(self) -> dict[tuple[object, ...], Config]:
        """By all that a plan says of them."""
        return {_key(x): x for x in self._made()}

    def _made(self) -> Iterator[Config]:
        c = self.costs
        most = min(len(self.positions) + 1, self.max_stages or self.costs.layers)
        for t in self.threads or self.profile.threads:
            room = c.per_host(t) * len(c.hosts)
            if not room or t not in self.profile.threads:
                continue
            low, high = self.profile.samples(t)
            for m in self.micro_batches or _divisors(self.batch):
                if self.batch % m or (self.whole_batch and m > 1):
                    continue
                g = self.batch // m
                allowed = [r for r in range(1, room + 1) if g % r == 0 and low <= g // r <= high]
                if self.whole_batch:
                    allowed = [r for r in allowed if r == 1]
                for p in range(1, min(most, room) + 1):
                    for schedule in self.schedules:
                        # With fewer micro-batches than stages 1F1B is GPipe in another order, and torch has none.
                        if (schedule == "none") != (p == 1) or (schedule == "1f1b" and m < p):
                            continue
                        for workers, replicas in self._replicas(p, room, allowed):
                            yield Config(t, p, workers, m, schedule, replicas)

    def _replicas(self, p: int, room: int, allowed: list[int]) -> Iterator[tuple[int, tuple[int, ...]]]:
        """Workers in all, and how many of them a stage may have."""
        if self.replicas == "same" or p == 1:
            yield from ((p * r, (r,)) for r in allowed if p * r <= room)
            return
        for workers in range(p, room + 1):
            fit = tuple(r for r in allowed if r <= workers - p + 1)
            if fit and p * fit[0] <= workers <= p * fit[-1]:
                yield workers, fit

    def _why_no_config(self) -> str:
        t = self.profile.threads
        ranges = "; ".join(f"{x} threads: {'–'.join(map(str, self.profile.samples(x)))} samples" for x in t)
        return (
            f"no way to share {self.batch} samples out: micro_batches={self.micro_batches}, threads={self.threads}, "
            f"schedules={self.schedules}, {self.costs.cores} cores; the profile has {ranges}. Profile with batch={self.batch}, or allow more"
        )

    def choices(self, config: Config, replicas: int) -> tuple[int, ...]:
        """The layers that so many replicas may share by columns."""
        return self.costs.columns(config, replicas) if self.columns and replicas > 1 else ()

    # -- costs of a plan -----------------------------------------------------------------------------

    def evaluate(self, plan: TrainingPlan) -> dict[str, float]:
        """Seconds of an iteration by its parts, and the largest worker's memory.

        ``compute_s`` is the stages' mean work, ``fill_s`` what their waiting for each other adds, ``transfer_s`` what the links do;
        ``sync_s`` and ``update_s`` are what the stage that is done last adds to that. There is no ``latest_s`` where the profile does
        not know how much iterations vary.

        Raises
        ------
        FingerprintError
            The plan is for another model.
        DataError
            Its stages are not the profile's layers, or it is for another batch.
        """
        if bad := self._strange(plan):
            error = DataError if plan.fingerprint == self.profile.fingerprint else FingerprintError
            raise error(f"the plan {bad}")
        c = self.costs
        stages = c.stages_of(plan)
        times = c.times_of(plan, stages)
        m, how = plan.micro_batches, plan.schedule
        whole = iteration_s(times, m, how)
        # Without links: which stage is done last, and what comes after the last gradient.
        gradients = finish_s(times.without("to_next", "from_next"), m, how)
        ends = [f + t for f, t in zip(gradients, times.tail, strict=True)]
        near, bare = max(ends), max(gradients)
        compute = m * math.fsum((*times.forward, *times.backward)) / len(stages)
        after = near - bare
        last = stages[ends.index(near)]
        share = last.sync_s / (last.sync_s + last.update_s) if last.sync_s + last.update_s else 0.0
        total = whole + self.profile.step_s
        times_longer = self.profile.ratio(self.latest_quantile, plan.threads, c.crowd(c.config_of(plan)))
        return {
            "objective": total,
            "iteration_s": total,
            **({} if times_longer is None else {"latest_s": total * times_longer}),
            "compute_s": compute,
            "fill_s": bare - compute,
            "transfer_s": whole - near,
            "sync_s": after * share,
            "update_s": after * (1 - share),
            "overhead_s": self.profile.step_s,
            "memory_bytes": max(s.memory_bytes for s in stages),
        }

    def violations(self, plan: TrainingPlan) -> list[str]:
        """What a plan breaks."""
        c = self.costs
        names = [x.name for x in self.profile.layers]
        if bad := self._strange(plan):
            return [bad]
        broken = [
            f"cut before {names[i]!r}, where the model cannot be cut" for i in plan.cuts if i not in self.positions
        ]
        config = c.config_of(plan)
        fits = self._configs.get(_key(config))
        if fits is None or not set(config.replicas) <= set(fits.replicas):
            return [*broken, f"{config} is none of the configurations: {self.describe()}"]
        for k, s in enumerate(plan.stages):
            able = {names[v] for v in self.choices(fits, s.replicas)}
            broken += [
                f"stage {k}: the columns of {v!r} cannot be shared by {s.replicas}" for v in s.columns if v not in able
            ]
        if broken:
            return broken
        limit = c.limit_bytes(config)
        broken += [
            f"memory of stage {k}: {x.memory_bytes:.6g} of {limit:.6g} bytes a worker"
            for k, x in enumerate(c.stages_of(plan))
            if x.memory_bytes > limit * (1 + TOLERANCE)
        ]
        return broken

    def _strange(self, plan: TrainingPlan) -> str | None:
        """Why nothing can be said of a plan."""
        if plan.fingerprint != self.profile.fingerprint:
            return f"was made for model {plan.model!r}, the profile is of {self.profile.model!r}"
        if [v for s in plan.stages for v in s.layers] != [x.name for x in self.profile.layers]:
            return "has stages that are not the profile's layers in their order"
        return None if plan.batch == self.batch else f"is for batches of {plan.batch}, the problem says {self.batch}"

    def plan_for(
        self, config: Config, cuts: Sequence[int], replicas: Sequence[int], columns: Sequence[Sequence[int]] = ()
    ) -> TrainingPlan:
        """The plan of a configuration cut at these positions, with what this problem predicts of it.

        Parameters
        ----------
        config : Config
        cuts : sequence of int
        replicas : sequence of int
            Of each stage.
        columns : sequence of sequence of int
            Of each stage, the layers by number; none by default.
        """
        names = [x.name for x in self.profile.layers]
        ends = [0, *cuts, len(names)]
        shared = columns or [()] * (len(ends) - 1)
        stages = tuple(
            TrainingStage(tuple(names[i:j]), r, tuple(names[v] for v in sorted(k)))
            for i, j, r, k in zip(ends[:-1], ends[1:], replicas, shared, strict=True)
        )
        p = self.profile
        plan = TrainingPlan(
            p.model, p.fingerprint, self.batch, stages, config.micro_batches, config.schedule, config.threads
        )
        predicted = {k: v for k, v in self.evaluate(plan).items() if k != "objective"}
        return replace(plan, predicted=predicted)

    def with_speeds(self, speeds: Sequence[float]) -> HybridTraining:
        """The same problem on cores of these speeds, 1 as measured."""
        return replace(self, speeds=tuple(speeds))

    # -- the declarative model -----------------------------------------------------------------------

    def build(self) -> pyo.ConcreteModel:
        """The MILP as a Pyomo model, its objective scaled by `scale`; for small problems."""
        from splitplan.formulations import training_model

        return training_model.build(self)

    def lp_notes(self) -> list[str]:
        """The problem, then units and what each variable stands for."""
        from splitplan.formulations import training_model

        return [self.describe(), *training_model.notes(self)]

    def read(self, values: Mapping[str, float]) -> TrainingPlan:
        """The plan in a solver's values of the model's variables, by name."""
        from splitplan.formulations import training_model

        return training_model.read(self, values)

    # -- for people ----------------------------------------------------------------------------------

    def plain(self) -> dict[str, TrainingPlan]:
        """The plans that need no search: one core, all threads, data parallel with the fewest micro-batches that fit."""
        n, found = self.costs.layers, {}
        for x in sorted(self.configs(), key=lambda x: (x.micro_batches, -x.workers * x.threads)):
            if x.stages > 1:
                continue
            (r,) = x.replicas
            plan = self.plan_for(x, (), (r,), ())
            if plan.strategy not in found and not self.violations(plan) and len(plan.stages[0].layers) == n:
                found[plan.strategy] = plan
        return found

    def alternatives(self, plan: TrainingPlan) -> tuple[Alternative, ...]:
        """What the plan was chosen over, of those that need no search."""
        same = plan.stages, plan.threads, plan.micro_batches
        return tuple(
            Alternative(
                named(name, x.micro_batches)
                + ", at once" * (name == plan.strategy and x.micro_batches == 1 < plan.micro_batches),
                x.predicted["iteration_s"],
                is_plan=(x.stages, x.threads, x.micro_batches) == same,
            )
            for name, x in self.plain().items()
        )

    def estimate(self, solution: Solution) -> TrainingEstimate:
        """Expected and latest time of an iteration by its parts, beside the best plan of every other strategy."""
        from splitplan.formulations.training_estimate import estimate

        return estimate(self, solution)

    def figure(self, solution: Solution) -> Figure:
        """A Gantt chart of an iteration; beside it the best plan for every number of stages."""
        from splitplan.formulations.training_estimate import gantt
        from splitplan.plots.training import plot_training

        plan = solution.plan
        return plot_training(
            gantt(self, plan),
            title=f"{plan.model}: {plan.strategy}, {solution.objective:.4g} s an iteration",
            curve=self.estimate(solution).curve,
        )

    def describe(self) -> str:
        """The problem in a line."""
        c = self.costs
        facts = [
            f"{c.layers} layers",
            f"batch {self.batch}",
            f"{many(len(c.hosts), 'host')} of {many(c.cores_per_host, 'core')}",
        ]
        facts += [f"at most {many(self.max_stages, 'stage')}"] if self.max_stages is not None else []
        facts += ["any replicas"] if self.replicas == "any" else []
        facts += ["the whole batch at once"] if self.whole_batch else []
        facts += [f"cores' speeds {', '.join(f'{x:.3g}' for x in self.speeds)}"] if self.speeds else []
        return f"HybridTraining: least iteration time of {self.profile.model!r} ({'; '.join(facts)})"

    @property
    def unit(self) -> str:
        """Seconds."""
        return "s"


def _key(config: Config) -> tuple[object, ...]:
    """All of a configuration but which replicas its stages may have."""
    return config.threads, config.stages, config.workers, config.micro_batches, config.schedule


def _divisors(n: int) -> tuple[int, ...]:
    return tuple(d for d in range(1, n + 1) if n % d == 0)
