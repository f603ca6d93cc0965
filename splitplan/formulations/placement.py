"""OperatorPlacement: which operators of a network run on which of several identical accelerators and CPUs. States; solves nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from numbers import Integral
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from splitplan.data.operators import OperatorGraph, OperatorPlan, accelerator, cpu
from splitplan.errors import DataError, raise_all
from splitplan.formulations.base import TOLERANCE, Formulation
from splitplan.formulations.placement_avoid import without_sentinels
from splitplan.formulations.placement_checks import moving_s, problems
from splitplan.formulations.placement_costs import Groups, ordered
from splitplan.formulations.scaled import Scaled
from splitplan.formulations.solution import Alternative

if TYPE_CHECKING:
    import pyomo.environ as pyo


@dataclass(frozen=True, eq=False)
class OperatorPlacement(Scaled, Formulation):
    r"""Place operators v on devices d so that the busiest device works as short a time T as possible: frames leave every T seconds.

    Operators of one colour are one group g, with seconds a_g on an accelerator and b_g on a CPU and memory s_g, each the sum over its
    operators. A tensor t is what one operator makes for others; ends(t) are the groups of its producer and of its readers, c_t the
    seconds to move it between an accelerator and the host's memory. The devices are K identical accelerators, each with memory M,
    and L CPUs, whose memory is the host's. Variables: x_{g,d} ∈ {0,1}, 1 when group g runs on device d; y_{t,d}, 1 when accelerator
    d moves tensor t.

    Minimize T subject to

    (1) Σ_d x_{g,d} = 1: each group runs on one device; operators of one colour stay together.
    (2) x_{g,d} = 0 where g cannot run on d, or takes so long there that no optimal plan has it there (`placement_avoid`).
    (3) Σ_g s_g x_{g,d} ≤ M on every accelerator.
    (4) y_{t,d} ≥ x_{g,d} − x_{h,d} for g, h ∈ ends(t): an accelerator with some but not all ends of a tensor sends it out or takes
        it in, once, however many operators read it.
    (5) T ≥ Σ_g a_g x_{g,d} + Σ_t c_t y_{t,d} on every accelerator: computing and moving take turns.                         [s]
    (6) T ≥ Σ_g b_g x_{g,d} on every CPU: it pays no transfers.                                                              [s]
    (7) x_{g_i,d} ≤ Σ_{j<i} x_{g_j,d−1} for the heaviest groups g_0, g_1, …: identical devices are used in the order of the
        heaviest group that they have. Leaves out plans that differ by names only.

    Contiguous (``contiguous=True``): a frame passes the devices in a row, so that the plan is a pipeline in which no device is
    visited twice. Then d = 0, …, K + L − 1 are positions in that row, each of which may be an accelerator or a CPU: x_{g,d} is split
    into x_{g,d,accelerator} + x_{g,d,CPU}, o_{d,kind} ∈ {0,1} says what stands at position d, (3) to (6) hold for each position and
    kind, (7) is left out, and

    (8) Σ_{e≤d} x_{w,e} ≤ Σ_{e≤d} x_{v,e} for every edge v → w between forward operators: nothing flows back. Backward operators
        run where their forward ones of the same colour do. Where one of two backward operators v → w has no forward one, the
        backward pass runs against the row: Σ_{e≤d} x_{v,e} ≤ Σ_{e≤d} x_{w,e}.
    (9) x_{g,d,kind} ≤ o_{d,kind}; Σ_kind o_{d,kind} ≤ 1; Σ_d o_{d,accelerator} ≤ K; Σ_d o_{d,CPU} ≤ L.

    A solver that knows a plan may add what it implies for better ones:

    (10) x_{g,d} ≤ x_{h,d} + Σ_{CPUs e} x_{h,e} for g, h ∈ ends(t), d an accelerator, when 2 c_t > K·T̄ + S(L·T̄) − Σ_g a_g: all
        accelerators together have no more time for moving when no device takes more than the known T̄, S(τ) being the most
        accelerator seconds that CPUs can take over in τ.

    This is the "throughput" (max-load) problem of Tarnawski et al. (NeurIPS 2020), whose contiguous plans are those of its dynamic
    program. NP-hard without (8) already for two accelerators, no transfers and no memory (PARTITION).

    Parameters
    ----------
    graph : OperatorGraph
        As `splitplan.read_graph` reads it from others' formats.
    accelerators, cpus : int, optional
        K and L; what the graph says unless given (no CPUs where it does not say).
    contiguous : bool
    memory_bytes : float, optional
        M; what the graph says unless given; None there too: unlimited.
    """

    graph: OperatorGraph
    accelerators: int = None  # type: ignore[assignment]  # None is replaced by the graph's word
    contiguous: bool = False
    cpus: int = None  # type: ignore[assignment]
    memory_bytes: float | None = None
    groups: Groups = field(init=False, repr=False)

    kind: ClassVar[str] = "operator-placement"

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        if not isinstance(self.graph, OperatorGraph):
            raise DataError(
                "give OperatorPlacement(graph, …) a splitplan.OperatorGraph; splitplan.read_graph reads one from a dnn-partitioning file",
                "OperatorPlacement",
            )
        if self.accelerators is None:
            set_(self, "accelerators", self.graph.accelerators)
        if self.cpus is None:
            set_(self, "cpus", self.graph.cpus or 0)
        if self.memory_bytes is None:
            set_(self, "memory_bytes", self.graph.accelerator_bytes)
        for name in ("accelerators", "cpus"):
            if isinstance(value := getattr(self, name), Integral) and not isinstance(value, bool):
                set_(self, name, int(value))  # numpy's, for instance
        set_(self, "groups", Groups.of_graph(self.graph))
        raise_all(problems(self), f"OperatorPlacement for {self.graph.name!r}")

    # -- what it is, for solvers ---------------------------------------------------------------------

    @cached_property
    def parts(self) -> Groups:
        """The groups that solvers place: `groups`, with those merged that no contiguous plan can part if it must be contiguous.

        Their seconds are infinite where they cannot run, and where they take so long that no optimal plan has them there.
        """
        parts = self.groups.contiguous if self.contiguous else replace(self.groups, order=())
        usual = without_sentinels(
            parts, self.able(parts), self.accelerators, self.cpus, self.room, moving_s(self.graph)
        )
        return replace(usual, order=parts.order if self.contiguous else self.groups.order)

    def over(self, parts: Groups, accelerators: int | None = None, cpus: int | None = None) -> OperatorPlacement:
        """The same problem over other parts (merged ones, or some of them), on as many devices as given: for solvers."""
        same = replace(
            self,
            accelerators=self.accelerators if accelerators is None else accelerators,
            cpus=self.cpus if cpus is None else cpus,
        )
        same.__dict__["parts"] = parts
        return same

    @property
    def room(self) -> float:
        """M, infinite when unlimited."""
        return np.inf if self.memory_bytes is None else float(self.memory_bytes)

    @cached_property
    def can(self) -> np.ndarray:
        """Whether a part can run on an accelerator, on a CPU (2); shape (parts, 2)."""
        return self.able(self.parts)

    def able(self, groups: Groups) -> np.ndarray:
        """Whether each of some groups can run on an accelerator, on a CPU; shape (groups, 2)."""
        fits = groups.memory_bytes <= self.room
        on_accelerator = np.isfinite(groups.accelerator_s) & fits & (self.accelerators > 0)
        return np.column_stack([on_accelerator, np.isfinite(groups.cpu_s) & (self.cpus > 0)])

    @cached_property
    def bound(self) -> float:
        """A lower bound without transfers: all work shared out evenly (fractionally, each part where it is relatively quickest), and the largest part."""
        there, here = self.can.T
        a = np.where(there, self.parts.accelerator_s, np.inf)
        b = np.where(here, self.parts.cpu_s, np.inf)
        single = float(np.minimum(a, b).max(initial=0.0))
        return max(single, shared(a, b, self.accelerators, self.cpus))

    @cached_property
    def sampled(self) -> tuple[float, float, float | None]:
        """A guess of a good plan's cost, for the scale: the bound, and all work in one place. No plan is known."""
        most = float(np.where(np.isfinite(self.parts.accelerator_s), self.parts.accelerator_s, self.parts.cpu_s).sum())
        return self.bound or most, most, None

    # -- plain arithmetic ----------------------------------------------------------------------------

    @property
    def devices(self) -> tuple[str, ...]:
        """Names of the devices, accelerators first."""
        return (*(accelerator(i) for i in range(self.accelerators)), *(cpu(i) for i in range(self.cpus)))

    def plan_for(self, device: np.ndarray, order: np.ndarray | None = None) -> OperatorPlan:
        """The plan that runs part g on device ``device[g]``, a number in `devices`.

        Parameters
        ----------
        device : array of int, shape (parts,)
        order : array of int, optional
            Of a contiguous plan: devices in the order in which a frame visits them; those left out come last.
        """
        names = self.devices
        loads = self.parts.loads(device, self.accelerators, self.cpus)
        on = [names[d] for d in device[self.parts.of]]
        row = range(len(names)) if order is None else dict.fromkeys([*order.tolist(), *range(len(names))])
        return OperatorPlan(
            self.graph.name,
            self.graph.fingerprint,
            tuple(names[d] for d in row),
            {o.name: d for o, d in zip(self.graph.operators, on, strict=True)},
            self.contiguous,
            {f"{name}_s": float(s) for name, s in zip(names, loads, strict=True) if np.isfinite(s)},
        )

    def evaluate(self, plan: OperatorPlan) -> dict[str, float]:
        """Costs of a plan by plain arithmetic: ``objective`` (5), (6), and the seconds of each device, ``acc0_s``, …"""
        plan.check(self.graph)
        at = {name: i for i, name in enumerate(self.devices)}
        if unknown := set(plan.placement.values()) - set(at):
            raise DataError(f"names devices that the problem has not: {', '.join(sorted(unknown))}", "plan")
        device = np.array([at[plan.placement[o.name]] for o in self.graph.operators])
        loads = Groups.of_graph(self.graph, apart=True).loads(device, self.accelerators, self.cpus)
        return {"objective": float(loads.max())} | {
            f"{name}_s": float(s) for name, s in zip(self.devices, loads, strict=True)
        }

    def violations(self, plan: OperatorPlan) -> list[str]:
        """What a plan breaks: (1) to (3), (8), in the user's words."""
        plan.check(self.graph)
        ops, at = self.graph.operators, plan.placement
        broken = []
        homes: dict[str, dict[str, None]] = {}
        for o in ops:
            on_cpu = at[o.name].startswith("cpu")
            if (o.cpu_s if on_cpu else o.accelerator_s) is None:
                broken.append(f"operator {o.name!r} is on {at[o.name]}, where it cannot run")
            if o.colour:
                homes.setdefault(o.colour, {})[at[o.name]] = None
        broken += [f"colour {c!r} is on {' and '.join(ds)}" for c, ds in homes.items() if len(ds) > 1]
        for d in self.devices[: self.accelerators]:
            taken = sum(o.memory_bytes for o in ops if at[o.name] == d)
            if taken > self.room * (1 + TOLERANCE):
                broken.append(f"{d} takes {taken:g} bytes, and an accelerator has {self.room:g}")
        if self.contiguous:
            row = {d: i for i, d in enumerate(plan.devices)}
            where = [row[at[o.name]] for o in ops]
            seen = dict.fromkeys(
                (plan.devices[where[v]], plan.devices[where[w]]) for v, w in ordered(self.graph) if where[v] > where[w]
            )
            broken += [f"data flow back from {a} to {b}" for a, b in seen]
        return broken

    # -- the declarative model -----------------------------------------------------------------------

    def build(self) -> pyo.ConcreteModel:
        """The MILP as a Pyomo model, its objective scaled by `scale`."""
        from splitplan.formulations import placement_model

        return placement_model.build(self)

    def lp_notes(self) -> list[str]:
        """What the variables of the LP file stand for."""
        names: dict[int, list[str]] = {}
        for o, g in zip(self.graph.operators, self.parts.of.tolist(), strict=True):
            names.setdefault(g, []).append(o.name)
        where = "at position d of the row, kind 0 an accelerator, 1 a CPU" if self.contiguous else "on device d of kind 0, an accelerator, or 1, a CPU"  # fmt: skip
        notes = [self.describe(), f"T is in units of {1 / self.scale!r} s.", f"x(g_d_kind): group g runs {where}"]
        notes += [f"group {g}: operators {', '.join(names[g])}" for g in sorted(names)]
        return notes + [f"y(t_d): device d moves tensor {t}, which groups {', '.join(map(str, ends))} make or read" for t, ends in enumerate(self.parts.ends)]  # fmt: skip

    def read(self, values: Mapping[str, float]) -> OperatorPlan:
        """The plan in a solver's values of the model's variables, by name."""
        from splitplan.formulations import placement_model

        return self.plan_for(*placement_model.read(self, values))

    # -- for people ----------------------------------------------------------------------------------

    def alternatives(self, plan: OperatorPlan) -> tuple[Alternative, ...]:
        """What the plan was chosen over: everything on one device."""
        found = []
        for d in dict.fromkeys([0, self.accelerators] if self.accelerators and self.cpus else [0]):
            other = self.plan_for(np.full(len(self.parts), d))
            why = "; ".join(self.violations(other))
            value = self.evaluate(other)["objective"]
            found.append(Alternative(f"all on {self.devices[d]}", value, why, other.placement == plan.placement))
        return tuple(found)

    def describe(self) -> str:
        """The problem in a line."""
        facts = [f"{self.accelerators} accelerators", f"{self.cpus} CPUs"]
        facts += [f"{self.room / 1e9:g} GB each"] if self.memory_bytes is not None else []
        how = "contiguous" if self.contiguous else "not contiguous"
        return (
            f"OperatorPlacement: least time of the busiest device for {self.graph.name!r} ({', '.join(facts)}; {how})"
        )

    @property
    def unit(self) -> str:
        """Seconds."""
        return "s"


def shared(a: np.ndarray, b: np.ndarray, accelerators: int, cpus: int) -> float:
    """The least T with Σ a_g x_g ≤ K·T, Σ b_g (1 − x_g) ≤ L·T, 0 ≤ x_g ≤ 1: a fractional knapsack in the order of a_g / b_g.

    Parameters
    ----------
    a, b : array, shape (groups,)
        Seconds on an accelerator, on a CPU; infinite where it cannot run.
    """
    here = np.isinf(a)
    there_s, here_s = float(a[~here].sum()), float(b[here].sum())
    if cpus == 0 or accelerators == 0:
        return there_s / accelerators if accelerators else float(b.sum()) / cpus
    both = np.flatnonzero(~here & np.isfinite(b) & (a > 0))
    pace = np.divide(b[both], a[both])
    for g in both[np.argsort(pace, kind="stable")].tolist():
        step = a[g] / accelerators + b[g] / cpus
        share = min(1.0, max(0.0, (there_s / accelerators - here_s / cpus) / step))
        there_s, here_s = there_s - share * float(a[g]), here_s + share * float(b[g])
        if share < 1:
            break
    return max(there_s / accelerators, here_s / cpus)
