"""What a stage of a training plan costs: seconds forward, backward and after the last gradient, and memory. Written once for all."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise

import numpy as np

from splitplan.data.system import System
from splitplan.data.training_plan import Schedule, TrainingPlan
from splitplan.data.training_profile import TrainingProfile
from splitplan.formulations.training_schedule import StageTimes, in_flight


@dataclass(frozen=True)
class Config:
    """All of a plan but its cuts, its replicas stage by stage and its columns.

    Parameters
    ----------
    threads : int
        Cores of each worker.
    stages, workers, micro_batches : int
    schedule : Schedule
    replicas : tuple of int
        Those that a stage may have, ascending.
    """

    threads: int
    stages: int
    workers: int
    micro_batches: int
    schedule: Schedule
    replicas: tuple[int, ...]


@dataclass(frozen=True)
class StageCost:
    """A stage's seconds and bytes; `sync_s` and `update_s` make up its tail."""

    forward_s: float
    backward_s: float
    sync_s: float
    update_s: float
    memory_bytes: float


@dataclass(frozen=True, eq=False)
class Work:
    """The layers' costs on one worker that shares a micro-batch with others, before any columns are shared.

    Arrays by layer. ``column_*`` are what a layer costs when its columns are shared instead; NaN where they cannot be.
    """

    forward: np.ndarray
    backward: np.ndarray
    update: np.ndarray
    column_forward: np.ndarray
    column_backward: np.ndarray

    @cached_property
    def sums(self) -> np.ndarray:
        """Sums over the first layers, shape (3, layers + 1): forward, backward, update."""
        rows = np.stack([self.forward, self.backward, self.update])
        return np.concatenate([np.zeros((3, 1)), np.cumsum(rows, axis=1)], axis=1)


class TrainingCosts:
    """Coefficients of `HybridTraining`: from a profile and a system to seconds of stages and links.

    Parameters
    ----------
    profile : TrainingProfile
    system : System
        Like hosts; each has ``threads`` cores.
    batch : int
    speeds : tuple of float
        Of each core, 1 as it was measured; empty: all 1.
    """

    def __init__(self, profile: TrainingProfile, system: System, batch: int, speeds: Sequence[float] = ()) -> None:
        self.profile, self.system, self.batch = profile, system, batch
        self.layers = len(profile.layers)
        self.hosts = tuple(system.places)
        self.cores_per_host = next(iter(system.places.values())).threads
        self.cores = self.cores_per_host * len(self.hosts)
        self.speeds = tuple(speeds)
        limits = [d.memory_bytes for d in system.places.values()]
        self.host_bytes = min((x for x in limits if x is not None), default=math.inf)
        self.weights = np.array([x.parameter_bytes for x in profile.layers])
        self.saved = np.array([x.saved_bytes for x in profile.layers])
        self._weight_sums, self._saved_sums = (
            np.concatenate([[0.0], np.cumsum(x)]) for x in (self.weights, self.saved)
        )
        self.crossing = np.array([0.0, *profile.crossing_bytes, 0.0])
        self.work = lru_cache(maxsize=None)(self._work)
        self._delay_s, self._rate_bps = self._between_hosts()

    def _between_hosts(self) -> tuple[float, float]:
        """Longest delay and least rate of the ways between hosts; nothing for one host."""
        ways = [w for a in self.hosts for b in self.hosts if a != b and (w := self.system.way(a, b)) is not None]
        return max((w.delay_s for w in ways), default=0.0), 1 / max(
            (w.busy_s(1e6) / 8e6 for w in ways), default=math.inf
        )

    # -- workers and hosts ---------------------------------------------------------------------------

    def per_host(self, threads: int) -> int:
        """Workers of so many threads that fit on a host."""
        return self.cores_per_host // threads

    def crowd(self, config: Config) -> int:
        """Workers on one host at once."""
        return min(config.workers, self.per_host(config.threads))

    def apart(self, config: Config, first: int, last: int) -> bool:
        """Whether these workers, by their numbers, are on several hosts."""
        each = self.per_host(config.threads)
        return first // each != last // each

    def slowness(self, config: Config, first: int, replicas: int) -> float:
        """Seconds of the slowest of these workers over those of a core as measured."""
        if not self.speeds:
            return 1.0
        t, each = config.threads, self.per_host(config.threads)
        cores = [
            w // each * self.cores_per_host + w % each * t + c for w in range(first, first + replicas) for c in range(t)
        ]
        return 1 / min(self.speeds[c] for c in cores)

    def limit_bytes(self, config: Config) -> float:
        """Memory of one worker: its host's, shared evenly by the workers there."""
        return self.host_bytes / self.crowd(config)

    # -- seconds -------------------------------------------------------------------------------------

    def exchange_s(self, what: str, workers: int, size_bytes: float, apart: bool) -> float:
        """Seconds of a collective; between hosts not less than the link takes for what passes each worker."""
        return float(self.exchanges_s(what, workers, np.array(size_bytes), apart))

    def exchanges_s(
        self, what: str, workers: int, size_bytes: np.ndarray, apart: bool, factor: float = 1.0
    ) -> np.ndarray:
        """`exchange_s` of many sizes at once; on a host so many times as long."""
        here = factor * self.profile.collectives_s(what, workers, size_bytes)
        if not apart or workers <= 1:
            return here
        share = (2.0 if what == "all_reduce" else 1.0) * (workers - 1) / workers
        return self._over_link_s(here, share * size_bytes)

    def _over_link_s(self, here: np.ndarray, size_bytes: np.ndarray) -> np.ndarray:
        """Seconds of exchanges between hosts: those on one, and not less than the link takes for so many bytes."""
        there = self._delay_s + 8 * size_bytes / self._rate_bps
        return np.where(size_bytes > 0, np.maximum(here, there), here)

    def steepest(self, what: str, workers: int, apart: bool) -> tuple[float, float]:
        """Seconds and seconds a byte that an exchange of so many bytes more never exceeds, whatever goes with them."""
        fixed, slope = self.profile.steepest(what, workers)
        if apart:
            share = 2.0 if what == "all_reduce" else 1.0
            return max(fixed, self._delay_s), max(slope, 8 * share / self._rate_bps)
        return fixed, slope

    def micro_samples(self, config: Config) -> int:
        """Samples of a micro-batch, over all replicas."""
        return self.batch // config.micro_batches

    def _work(self, config: Config, replicas: int, apart: bool) -> Work:
        """Of one worker of a stage of so many replicas."""
        p, t, crowd = self.profile, config.threads, self.crowd(config)
        g = self.micro_samples(config)
        forward, backward = p.seconds(g / replicas, t, crowd)
        update = p.update_s(t, crowd)
        # All micro-batches but the first one's gradients are added to what is there.
        added = p.add_s(t, crowd) * (1 - 1 / config.micro_batches)
        backward = backward + added
        column = np.full((2, self.layers), math.nan)
        low, high = p.samples(t)
        if replicas > 1 and low <= g <= high:
            able = np.flatnonzero([x.columns >= replicas for x in p.layers])
            factor = p.factor("columns", replicas)
            whole = factor * p.seconds(g, t, crowd)[:, able] / replicas
            column[:, able] = whole + self._column_exchange(able, g, replicas, apart, factor)
            column[1, able] += added[able] / replicas
        return Work(forward, backward, update, column[0], column[1])

    def _column_exchange(
        self, layers: np.ndarray, samples: int, replicas: int, apart: bool, factor: float
    ) -> np.ndarray:
        """Seconds forward and backward of each: the inputs of all samples to everyone and each sample's outputs to its replica; then the same of gradients."""
        made = [self.profile.layers[v] for v in layers]
        into = np.array([samples * x.input_bytes for x in made])
        out = np.array([samples * x.output_bytes for x in made])
        gathered = self.exchanges_s("all_gather", replicas, out, apart, factor)
        there = self.exchanges_s("all_gather", replicas, into, apart, factor)
        return np.stack(
            [there + gathered, gathered + self.exchanges_s("reduce_scatter", replicas, into, apart, factor)]
        )

    def columns(self, config: Config, replicas: int) -> tuple[int, ...]:
        """The layers whose columns so many replicas can share."""
        return tuple(np.flatnonzero(np.isfinite(self.work(config, replicas, False).column_forward)).tolist())

    def stage(
        self, config: Config, k: int, i: int, j: int, first: int, replicas: int, columns: Collection[int] = ()
    ) -> StageCost:
        """Stage k, layers i … j − 1, on the workers from ``first`` on."""
        apart = self.apart(config, first, first + replicas - 1)
        w = self.work(config, replicas, apart)
        slow = self.slowness(config, first, replicas)
        micro = self.profile.micro_s / 2
        f, b, u = (w.sums[:, j] - w.sums[:, i]).tolist()
        weights = float(self._weight_sums[j] - self._weight_sums[i])
        g = self.micro_samples(config)
        held = float(self._saved_sums[j] - self._saved_sums[i]) * g / replicas
        shared = 0.0
        if columns:  # added up anew: a difference would leave a rounding to send
            weights = math.fsum(self.weights[v] for v in range(i, j) if v not in columns)
        for v in columns:
            f += float(w.column_forward[v] - w.forward[v])
            b += float(w.column_backward[v] - w.backward[v])
            u += float(w.update[v]) * (1 / replicas - 1)
            shared += float(self.weights[v])
            held += self.profile.layers[v].input_bytes * g * (1 - 1 / replicas)
        sync = self.exchange_s("all_reduce", replicas, weights, apart) if replicas > 1 else 0.0
        memory = (weights + shared / replicas) * (2 + self.profile.state_factor)
        memory += held * in_flight(k, config.stages, config.micro_batches, config.schedule)
        memory += float(self.received_bytes(i, j, replicas))
        return StageCost(slow * f + slow * micro, slow * b + slow * micro, sync, slow * u, memory)

    def received_bytes(self, i: int | np.ndarray, j: int | np.ndarray, replicas: int) -> np.ndarray:
        """What a worker of a stage of layers i … j − 1 receives into: of all micro-batches the activations from before, and gradients from behind.

        torch's pipelines have a buffer for each of them as long as they live; what is kept for the backward pass is there.
        """
        found: np.ndarray = self.batch / replicas * (self.crossing[i] + self.crossing[j])
        return found

    def link(self, config: Config, i: int, first: int, before: int, after: int) -> float:
        """Seconds of a transfer at position i, between a stage of ``before`` replicas from worker ``first`` on and one of ``after``."""
        return float(self.links(config, np.array(i), first, before, after))

    def links(self, config: Config, at: np.ndarray, first: int, before: int, after: int) -> np.ndarray:
        """`link` at many positions. All replicas send at once: between hosts not less than the link takes for all that crosses it."""
        whole = self.crossing[at] * self.micro_samples(config)
        here = self.profile.collectives_s("send", 2, whole / min(before, after))
        part = self.crosses(config, first, before, after)
        return self._over_link_s(here, part * whole) if part else here

    def crosses(self, config: Config, first: int, before: int, after: int) -> float:
        """The largest part of the samples that goes between two hosts, from a stage's replicas to those of the next."""
        if not self.apart(config, first, first + before + after - 1):
            return 0.0
        each, parts = self.per_host(config.threads), defaultdict[tuple[int, int], float](float)
        for a in range(before):
            for b in range(after):
                both = min((a + 1) / before, (b + 1) / after) - max(a / before, b / after)
                hosts = (first + a) // each, (first + before + b) // each
                if hosts[0] != hosts[1] and both > 0:
                    parts[hosts] += both
        return max(parts.values(), default=0.0)

    # -- plans ---------------------------------------------------------------------------------------

    def config_of(self, plan: TrainingPlan) -> Config:
        """What a plan has beside cuts, replicas and columns."""
        replicas = tuple(sorted({s.replicas for s in plan.stages}))
        return Config(plan.threads, len(plan.stages), plan.workers, plan.micro_batches, plan.schedule, replicas)

    def stages_of(self, plan: TrainingPlan) -> list[StageCost]:
        """Each stage's costs."""
        index = {x.name: k for k, x in enumerate(self.profile.layers)}
        columns = [[index[v] for v in s.columns] for s in plan.stages]
        return self.stages(self.config_of(plan), plan.cuts, [s.replicas for s in plan.stages], columns)

    def stages(
        self, config: Config, cuts: Sequence[int], replicas: Sequence[int], columns: Sequence[Collection[int]]
    ) -> list[StageCost]:
        """Each stage's costs, of cuts, replicas and columns by stage."""
        first, found = 0, []
        for k, (i, j) in enumerate(pairwise((0, *cuts, self.layers))):
            found.append(self.stage(config, k, i, j, first, replicas[k], columns[k]))
            first += replicas[k]
        return found

    def times_of(self, plan: TrainingPlan, stages: Iterable[StageCost]) -> StageTimes:
        """The pieces of an iteration, for the schedule's recurrence."""
        return self.times(self.config_of(plan), plan.cuts, [s.replicas for s in plan.stages], list(stages))

    def times(
        self, config: Config, cuts: Sequence[int], replicas: Sequence[int], costs: Sequence[StageCost]
    ) -> StageTimes:
        """The same of stages whose costs are known."""
        first, links = 0, []
        for i, (a, b) in zip(cuts, pairwise(replicas), strict=True):
            links.append(self.link(config, i, first, a, b))
            first += a
        return StageTimes(
            tuple(x.forward_s for x in costs),
            tuple(x.backward_s for x in costs),
            tuple(links),
            tuple(links),
            tuple(x.sync_s + x.update_s for x in costs),
        )
