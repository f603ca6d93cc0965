"""PipelinePlacement: which of several unlike devices computes which run of layers, for the most frames a second. States the problem; solves nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import permutations
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from splitplan.data.pipeline_plan import PipelinePlan, RowBlock, Stage
from splitplan.data.plan import Wire
from splitplan.data.profile import Profile
from splitplan.data.system import System
from splitplan.errors import DataError, raise_all
from splitplan.formulations import pipeline_naive
from splitplan.formulations.base import TOLERANCE, Formulation
from splitplan.formulations.pipeline_checks import leg_term, problems, rows_term
from splitplan.formulations.pipeline_costs import PipelineCosts
from splitplan.formulations.pipeline_groups import Group, GroupCosts, SharedStage
from splitplan.formulations.scaled import Scaled
from splitplan.formulations.solution import Alternative

if TYPE_CHECKING:
    import pyomo.environ as pyo
    from matplotlib.figure import Figure

    from splitplan.formulations.solution import Solution


@dataclass(frozen=True, eq=False)
class PipelinePlacement(Scaled, Formulation):
    r"""Cut a network into runs of layers, one after the other, and give each to a place of its own: the least period.

    Layers 1, …, n in execution order, positions i = 0, …, n between them; places d, e. Variables: z_{ije} ∈ {0,1}, 1 when place e
    computes the layers between positions i < j (a stage); y_{dei} ∈ {0,1}, 1 when d hands over to e at position i; T seconds, the
    period. A place that no stage names is not used.

    Minimize T subject to

    (1) Σ_{j,e} z_{0je} = 1, Σ_{i,e} z_{ine} = 1: the first stage begins with the first layer, the last ends with the last.
    (2) Σ_i z_{ije} = Σ_f y_{efj}, Σ_k z_{jke} = Σ_d y_{dej} for 0 < j < n: where a stage ends the next begins, elsewhere;
        y_{dei} = 0 where nothing leads from d to e.
    (3) Σ_{i,j} z_{ije} ≤ 1: a place computes one stage at most.
    (4) Σ_{i,j,e} z_{ije} ≤ max_stages, when given.
    (5) z_{ije} = 0 unless par(i,j) + max_{i<v≤j} act_v + held_i + held_j ≤ memory_e                                       [bytes]
    (6) τ_{dei} = 8 (overhead_{de} Σ_{t ∈ live(i)} bytes_t + header_{de}) / R_{de}; y_{se0} = Σ_j z_{0je} for e ≠ s when there is a
        source s, y_{etn} = Σ_i z_{ine} for e ≠ t when there is a sink t: inputs and results move as any other.                [s]
    (7) T ≥ Σ_{i,j} c_e(i,j) z_{ije} (+ Σ_{d,i} τ_{dei} y_{dei} + Σ_{f,i} τ_{efi} y_{efi} when communication is added) for every
        place e, c_e(i,j) = Σ_{i<v≤j} a_{ve}.                                                                                  [s]
    (8) T ≥ Σ_{(d,e) over r} Σ_i τ_{dei} y_{dei} for every resource r: each direction of a pair's link; each place's way up and
        its way down in a star; the medium when it is shared.                                                                  [s]

    Lower bounds on T, whether communication is overlapped or added:

    (9)  T ≥ max_v min_e a_{ve}, over the places whose memory holds v.
    (10) T ≥ Σ_v min_e w_e a_{ve} for any w ≥ 0 with Σ_e w_e = 1: the dual of sharing layers out by fractions.
    (11) T ≥ P when no walk over (position, place) whose stages and transfers each take at most P, places repeated at will, costs
         at most Σ_e w_e + μ·max_stages + λ P, a stage at e costing w_e + μ and a transfer on a shared medium λ τ; any w, μ, λ ≥ 0.

    With ``rows`` a stage may be a group g = (g_1, g_2, …) of two to ``max_group`` places, in order, that share the rows of its layers
    block by block: z_{ijg} ∈ {0,1}, and x_{abgr} ∈ {0,1}, 1 when g makes the layers between positions a < b as one block, its places r
    rows each from the top (`RowCosts`: halos are computed twice; g_1 hands out rows and gathers them between blocks). A layer that
    mixes all rows, or whose rows are not known, is made by g_1 alone. A single place is a group without blocks.

    (12) (1), (2), (4), (6) sum over groups in place of places, e standing for the first of each; in (3) and (7) a place counts each group
         that it is in; (5) holds for g_1, which so could run the stage alone.
    (13) Σ_j z_{pjg} + Σ_{a,r} x_{apgr} = Σ_i z_{ipg} + Σ_{b,r} x_{pbgr} for every group g and position p: blocks make up the stage.
    (14) c_g(i,j) = Σ_{abr} block_{abgr} x_{abgr} in (7), for each place of g: the whole group works on one frame at a time.           [s]
    (15) (8) counts the seconds of rows, Σ_{abgr} busy^ρ_{abgr} x_{abgr}, for every resource ρ that anything else of a frame may keep
         busy as well: all of a star and of a shared medium; between pairs what leaves a source or enters a sink. (Elsewhere, and in
         (7) when communication is added, they are part of c_g.)                                                               [s]
    (16) Σ_p bytes_p h_{pe} + W_e ≤ memory_e, h_{pe} ≥ Σ x_{abgr}, W_e ≥ act_v Σ x_{abgr} over the blocks with layer v, a reader of p, in
         which e, not the first of g, has rows: it holds the parameters of the layers that it computes and their largest working
         set.                                                                                                              [bytes]

    With rows (9)–(11) do not hold, since a layer may be shared, but, m_v being the part of layer v that is computed at least, over all
    places (`RowModel.least_shares`; 1 where rows cannot be shared):

    (17) T ≥ max_v m_v / Σ_{e ∈ E_v} 1/a_{ve}, E_v the ``max_group`` quickest places for v, just the quickest one where v cannot be shared.
    (18) T ≥ Σ_v m_v min_e w_e a_{ve} for any w ≥ 0 whose max_stages · max_group largest sum to 1.

    a_{ve} seconds of layer v at e; live(i): the tensors that were made before position i and are read after it (results too, until
    the end, when there is a sink), each once; bytes_t at the wire's precision; held_i their bytes in memory; par(i,j) bytes of
    the parameters read there, shared ones once; act_v a layer's working set. Tensors that only a later stage reads go through
    the stages between: this, and that branches do not run side by side, is what a pipeline of intervals gives up on a DAG. (7)
    without added communication takes sending and receiving to cost a place no time to compute. Delays shift frames and leave
    the period alone; they are part of ``latency_s``.

    Parameters
    ----------
    profile : Profile
        With times for every place of the system.
    system : System
        Its medium says what is a resource: pairs, star or shared.
    overlap : bool
        Whether a place computes while it sends and receives; else it does one after the other.
    rows : bool
        Whether places may share the rows of a stage's layers. The graph must know its operators' rows (`RowModel`).
    max_stages : int, optional
    wire : {"fp32", "fp16", "int8"}
        Precision in which floating-point tensors cross.
    source, sink : str, optional
        Where inputs are, where results must go; free unless given: inputs are at the first stage, results stay where they are made.
    max_group : int
        Most places that share rows in one stage. What a solver calls optimal is so among stages of at most so many.
    """

    profile: Profile
    system: System
    overlap: bool = True
    rows: bool = False
    max_stages: int | None = None
    wire: Wire = "fp32"
    source: str | None = None
    sink: str | None = None
    max_group: int = 3
    costs: PipelineCosts = field(init=False, repr=False)

    kind: ClassVar[str] = "pipeline-placement"

    def __post_init__(self) -> None:
        if not isinstance(self.profile, Profile) or not isinstance(self.system, System):
            raise DataError(
                "give PipelinePlacement(profile, system, …): a splitplan.Profile and a splitplan.System",
                "PipelinePlacement",
            )
        raise_all(problems(self), f"PipelinePlacement for {self.profile.graph.name!r}")
        costs = PipelineCosts(self.profile, self.system, self.wire, self.source, self.sink)
        object.__setattr__(self, "costs", costs)

    @cached_property
    def groups(self) -> GroupCosts:
        """What stages of several places cost."""
        return GroupCosts(self.costs, self.max_group)

    @property
    def alone(self) -> PipelinePlacement:
        """The same problem without rows. By (12) it has a plan whenever this one has."""
        return replace(self, rows=False)

    # -- what it is, for solvers ---------------------------------------------------------------------

    @property
    def most_stages(self) -> int:
        """Stages that a plan can have at most: no more than layers, places and ``max_stages``."""
        limits = [len(self.profile.graph), len(self.costs.places)]
        return min([*limits, self.max_stages] if self.max_stages is not None else limits)

    @cached_property
    def sampled(self) -> tuple[float, float, float | None]:
        """Of some plain plans: the least positive period (within the limits if any is), the largest, the least within."""
        plans = list(pipeline_naive.plans(self).values())
        allowed = [v for x in plans if not self.violations(x) for v in [self.evaluate(x)["objective"]]]
        values = [v for x in plans for v in [self.evaluate(x)["objective"]] if np.isfinite(v)]
        floor = float(self.costs.seconds.min(axis=0).max())  # (9), memory and rows aside: a scale, no bound
        positive = [v for v in allowed if v > 0] or [v for v in (floor, *values) if v > 0]
        return min(positive, default=0.0), max(values, default=floor), min(allowed, default=None)

    # -- plain arithmetic ----------------------------------------------------------------------------

    def evaluate(self, plan: PipelinePlan) -> dict[str, float]:
        """Costs of a plan by plain arithmetic.

        Returns
        -------
        dict of str to float
            ``objective`` and ``period_s``; ``throughput_hz`` unless the period is 0; ``latency_s`` of a frame that waits for nothing;
            ``at_P_s`` computing, ``P_to_Q_s`` on the way, ``rows_P_to_Q_s`` of rows within a stage, ``busy_X_s`` of each place (when communication is added) and of each
            resource that several transfers share. Where no way leads, ∞.
        """
        plan.check(self.profile.graph)
        c = self.costs
        order, cuts = self.order_of(plan)
        shared = self.groups.shared(plan) if self.rows else {}
        at_place, over = self._busy(order, cuts, shared)
        ends = [0, *cuts, c.layers]
        computing, passed = dict[int, float](), 0.0
        for k, (e, i, j) in enumerate(zip(order, ends[:-1], ends[1:], strict=True)):
            if k in shared:
                computing |= dict(zip(shared[k].group, shared[k].computing_s, strict=True))
                passed += shared[k].seconds
            else:
                computing[e] = float(c.seconds[e, i:j].sum())
                passed += computing[e]
        terms, delays = {f"at_{c.places[e]}_s": s for e, s in computing.items()}, 0.0
        terms |= {f"stage_{'+'.join(self.groups.names(x.group))}_s": x.seconds for x in shared.values()}
        for x in shared.values():
            terms |= {rows_term(c.places[d], c.places[e]): s for (d, e), s in x.rows_s.items()}
        for d, e, i in c.moves(order, cuts):
            way = c.ways.get((d, e))
            terms[leg_term(c.places[d], c.places[e])] = float(c.transfer[d, e, i])
            delays += float(c.transfer[d, e, i]) + (way.delay_s if way else np.inf)
        if not self.overlap:
            terms |= {f"busy_{c.places[e]}_s": s for e, s in at_place.items()}
        if self.system.medium != "pairs":
            terms |= {f"busy_{r}_s": s for r, s in over.items()}
        period = max([*at_place.values(), *over.values()])
        return {
            "objective": period,
            "period_s": period,
            **({"throughput_hz": 1.0 / period} if period > 0 else {}),
            "latency_s": passed + delays,
            **terms,
        }

    def _busy(
        self, order: Sequence[int], cuts: Sequence[int], shared: Mapping[int, SharedStage] | None = None
    ) -> tuple[dict[int, float], dict[str, float]]:
        """(7), (8), (14), (15): seconds for which a frame keeps each place and each resource busy; ∞ where no way leads."""
        c, ends = self.costs, [0, *cuts, self.costs.layers]
        places, over = defaultdict[int, float](float), defaultdict[str, float](float)
        for k, (e, i, j) in enumerate(zip(order, ends[:-1], ends[1:], strict=True)):
            stage = (shared or {}).get(k)
            for x in (e,) if stage is None else stage.group:
                places[x] += float(c.seconds[e, i:j].sum()) if stage is None else stage.seconds
            for r, seconds in () if stage is None else stage.busy_s.items():
                over[r] += seconds
        for d, e, i in c.moves(tuple(order), tuple(cuts)):
            seconds = float(c.transfer[d, e, i])
            for r in c.ways[d, e].resources if (d, e) in c.ways else ("nothing",):
                over[r] += seconds
            for x in () if self.overlap else (d, e):
                places[x] += seconds
        return places, over

    def period(self, order: Sequence[int], cuts: Sequence[int]) -> float:
        """The period of these places, by number, cut at these inner positions, none of them sharing rows."""
        places, over = self._busy(order, cuts)
        return max([*places.values(), *over.values()])

    def violations(self, plan: PipelinePlan) -> list[str]:
        """What a plan breaks: (2), (4), (5), (16), and the problem's own data, in the user's words."""
        plan.check(self.profile.graph)
        broken = [
            f"{name} is {got!r}, the problem says {own!r}"
            for name in ("wire", "overlap", "source", "sink")
            if (got := getattr(plan, name)) != (own := getattr(self, name))
        ]
        c = self.costs
        order, cuts = self.order_of(plan)
        broken += [
            f"nothing leads from {c.places[d]} to {c.places[e]}"
            for d, e, _ in c.moves(order, cuts)
            if (d, e) not in c.ways
        ]
        if self.max_stages is not None and len(order) > self.max_stages:
            broken.append(f"max_stages={self.max_stages}: the plan has {len(order)} stages")
        ends = [0, *cuts, c.layers]
        for e, i, j in zip(order, ends[:-1], ends[1:], strict=True):
            if c.memory[i, j] > c.limits[e] * (1 + TOLERANCE):
                broken.append(f"memory of {c.places[e]}: {c.memory[i, j]:.6g} of {c.limits[e]:.6g} bytes")
        return broken + (self.groups.broken(plan) if self.rows else [])

    def order_of(self, plan: PipelinePlan) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The first places of a plan's stages by their numbers, and the inner positions at which it is cut."""
        unknown = [p for p in plan.places if p not in self.costs.index]
        raise_all([f"names place {p!r}, which the system has not" for p in unknown], "pipeline plan")
        if not self.rows and any(len(s.places) > 1 for s in plan.stages):
            raise DataError("has a stage of several places; this problem shares no rows (rows=True)", "pipeline plan")
        cuts = np.cumsum([len(s.layers) for s in plan.stages])[:-1]
        return tuple(self.costs.index[s.place] for s in plan.stages), tuple(cuts.tolist())

    def plan_for(
        self,
        order: Sequence[int],
        cuts: Sequence[int],
        shared: Mapping[int, tuple[Group, tuple[RowBlock, ...]]] | None = None,
    ) -> PipelinePlan:
        """The plan of these places, by number, cut at these inner positions, with what this problem predicts of it.

        Parameters
        ----------
        order : sequence of int
            The first place of each stage.
        cuts : sequence of int
        shared : dict of int to (tuple of int, tuple of RowBlock), optional
            Of the stages of several places, by their numbers: the places, and their blocks.
        """
        names = [layer.name for layer in self.profile.graph.layers]
        ends = [0, *cuts, len(names)]
        stages = []
        for k, (e, i, j) in enumerate(zip(order, ends[:-1], ends[1:], strict=True)):
            group, blocks = (shared or {}).get(k, ((e,), ()))
            stages.append(Stage(tuple(names[i:j]), self.groups.names(group), blocks))
        facts: dict[str, Any] = {"overlap": self.overlap, "source": self.source, "sink": self.sink, **self._limits}
        plan = PipelinePlan(self.profile.graph.name, self.profile.graph.fingerprint, tuple(stages), self.wire, **facts)
        predicted = {k: v for k, v in self.evaluate(plan).items() if k != "objective" and np.isfinite(v)}
        return replace(plan, predicted=predicted)

    def plan(self, counts: Mapping[str, int]) -> PipelinePlan:
        """A plan of your own with what this problem predicts of it, to be compared, simulated and run like any other.

        Parameters
        ----------
        counts : mapping of str to int
            Places in the order of the stages, and how many layers each computes, together all of the graph's:
            ``problem.plan({"camera": 10, "box": 21})``. No rows are shared.

        Raises
        ------
        DataError
            A place that the system has not, a number of layers that is none, layers that are not as many as the graph has; or what the
            problem forbids (`violations`); all of it at once.
        """
        return pipeline_naive.own(self, counts)

    def adopted(self, plan: PipelinePlan) -> PipelinePlan:
        """A plan of `alone` as one of this problem."""
        return replace(plan, **self._limits)

    @property
    def _limits(self) -> dict[str, Any]:
        """What a plan tells of the limits under which it was made."""
        return {"max_stages": self.max_stages, "max_group": self.max_group if self.rows else 1}

    # -- the declarative model -----------------------------------------------------------------------

    def build(self) -> pyo.ConcreteModel:
        """The MILP as a Pyomo model, its objective scaled by `scale`."""
        from splitplan.formulations import pipeline_model

        return pipeline_model.build(self)

    def read(self, values: Mapping[str, float]) -> PipelinePlan:
        """The plan in a solver's values of the model's variables, by name."""
        from splitplan.formulations import pipeline_model

        return self.plan_for(*pipeline_model.read(self, values))

    def lp_notes(self) -> list[str]:
        """The problem, then units and names."""
        places = ", ".join(f"{e}: {p}" for e, p in enumerate(self.costs.places))
        notes = [
            self.describe(),
            f"T is the period in seconds times {self.scale!r}, and so is the objective.",
            f"Places: {places}.",
            "z(i_j_e): place e computes the layers between positions i and j; position i is before layer i, counted from 0.",
            "y(d_e_i): place d hands over to place e at position i.",
        ]
        if self.rows:
            groups = enumerate(self.groups.groups(), len(self.costs.places))
            notes.append(
                "z(i_j_g), x(a_b_g_r): group g; r counts the shares of the block's rows, see pipeline_rows_model.shares."
            )
            notes.append(f"Groups: {', '.join(f'{k}: ' + '+'.join(self.groups.names(g)) for k, g in groups)}.")
        return notes

    # -- for people ----------------------------------------------------------------------------------

    def alternatives(self, plan: PipelinePlan) -> tuple[Alternative, ...]:
        """What the plan was chosen over: the best single place, and plans by layers, by memory and by FLOPs alone."""
        plain = pipeline_naive.plans(self)
        if any(len(s.places) > 1 for s in plan.stages):
            plain["the same stages, no rows shared"] = self.plan_for(*self.order_of(plan))
        priced = {name: (x, self.evaluate(x)["objective"]) for name, x in plain.items()}
        return tuple(
            Alternative(name, value, "; ".join(self.violations(x)), is_plan=x.stages == plan.stages)
            for name, (x, value) in priced.items()
            if np.isfinite(value)
        )

    def facts(self, plan: PipelinePlan, duals: Mapping[str, Any]) -> dict[str, str]:
        """What bounds the period."""
        terms = self.evaluate(plan)
        period = terms.pop("objective")
        # Rows within a stage are a part of the stage. A place may be called rows_x: the terms are left out by their whole names.
        within = {rows_term(a, b) for a, b in permutations(self.costs.places, 2)} if self.rows else set()
        names = [
            k
            for k, v in terms.items()
            if k.startswith(("at_", "busy_", "stage_")) or ("_to_" in k and k not in within)
            if v >= period * (1 - 1e-9)
        ]
        return {"bottleneck": ", ".join(names)} if names else {}

    def figure(self, solution: Solution) -> Figure:
        """A Gantt chart of the first frames; beside it how a search converged, when one did."""
        import pandas as pd

        from splitplan.formulations.pipeline_schedule import schedule
        from splitplan.plots.pipeline import plot_pipeline

        history = solution.duals.get("convergence")
        return plot_pipeline(
            schedule(self, solution.plan),
            title=f"{self.profile.graph.name}: a frame every {solution.objective:.4g} s",
            convergence=None if history is None else pd.DataFrame(history),
        )

    def describe(self) -> str:
        """The problem in a line."""
        c = self.costs
        facts = [
            f"{c.layers} layers",
            f"{len(c.places)} places",
            {"pairs": "links by pair", "star": "links by a hub", "shared": "one shared medium"}[self.system.medium],
            "communication overlapped" if self.overlap else "communication added",
            f"wire {self.wire}",
        ]
        facts += [f"rows shared by up to {self.max_group} places"] if self.rows else []
        facts += [f"at most {self.max_stages} stages"] if self.max_stages is not None else []
        facts += [f"{name} {value}" for name in ("source", "sink") if (value := getattr(self, name)) is not None]
        return f"PipelinePlacement: least period of {self.profile.graph.name!r} ({'; '.join(facts)})"

    @property
    def unit(self) -> str:
        """Seconds."""
        return "s"
