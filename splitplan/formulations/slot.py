"""SlotControl: cut, clock and rate of one slot together, by drift plus penalty. States the problem; solves nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from splitplan.data.cut_set import CutSet
from splitplan.data.plan import ResultAt, Wire
from splitplan.data.profile import Profile
from splitplan.data.slot import SlotPlan, SlotState, Thermal
from splitplan.data.system import System
from splitplan.errors import DataError, SolverError, raise_all
from splitplan.formulations import registry, slot_next
from splitplan.formulations.base import TOLERANCE, Formulation
from splitplan.formulations.scaled import SCALE
from splitplan.formulations.slot_checks import MODES, cut_problems, hull_loses, problems
from splitplan.formulations.slot_choice import choice_problems, numbers_in, plan_problems
from splitplan.formulations.slot_costs import Choices, Prices, SlotCosts
from splitplan.formulations.split import SplitPoint

if TYPE_CHECKING:
    import pyomo.environ as pyo

LEVELS = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)


@dataclass(frozen=True, eq=False)
class SlotControl(Formulation):
    r"""Choose, for one slot of τ seconds, the cut k, the device's clock f, the uplink's rate μ and the admitted frames n.

    The state is the work that is left: Q_D seconds of the device at its top clock, Q_N bits, Q_S seconds of the server; A frames
    arrive; the uplink can carry R bit/s. A frame by cut k asks c_k, β_k, s_k of the three; d_k are its delays, e_k joules to
    receive its result. Clock f has speed g(f) and power P(f), off has 0 and P_idle; μ = φ_j R, silent is 0.

    (1) b_D = min(τ g(f), Q_D), b_N = min(τ μ, Q_N), b_S = min(τ, Q_S)                                  done in the slot
    (2) Q_D ← Q_D − b_D + n c_k,   Q_N ← Q_N − b_N + n β_k,   Q_S ← Q_S − b_S + n s_k
    (3) E = P_idle τ + (P(f) − P_idle) b_D/g(f) + P_radio(μ) b_N/μ + n e_k                              [J]
    (4) L = c_k/g(f) + β_k/μ + s_k + d_k                              a frame's own seconds, waiting left out [s]
    (5) Y ← [Y + E − τ P_avg]⁺,  Z ← [Z + n (L − L_max)]⁺,  H ← [H + τ n_min − n]⁺                      debts of the limits on means
    (6) z_D ← [z_D + ε τ·1{Q_D > 0} − b_D]⁺, likewise z_N                                               ε-persistence

    Minimize the bound of drift plus penalty, every queue in seconds (u_N bit, u_E joule, u_H frames a second),

    (7) V (w_E E + w_L n L − w_U ln(1+n)) + Q_D n c_k − (Q_D + z_D) b_D + (Q_N n β_k − (Q_N + z_N) b_N)/u_N² + Q_S (n s_k − b_S)
        + Y E/u_E² + Z n (L − L_max) − H n/u_H²  (+ V w_E (J_cut·1{k changes} + J_clock·1{f changes}))

    subject to

    (8) one cut, one clock, one rate; n = A, or 0 ≤ n ≤ A where throughput is weighed or limited
    (9) L ≤ deadline_s when n > 0
    (10) P(f) + P_radio(μ) ≤ power_cap_w
    (11) the slot does not end above the thermal limit if the device draws P(f) throughout

    Place-holders (Neely 2010, §4.8): of Q_D, what is below P_D = V w_E min_f (P(f) − P_idle)/g(f) would never be served where energy alone
    is weighed, but for (6): it only keeps the price up, and frames wait in it for nothing. So Q_D + P_D stands for Q_D wherever (7)
    multiplies by it; likewise Q_N + P_N, P_N = u_N² V w_E times the least joules that a bit took in any slot up to this one (on a better
    channel than ever before less is held from then on). b stays what (1) says. The rule does as it would with so much more in its
    queues, to within a slot's service, and is quicker by that much. What a deadline or a latency's weight forces on is served below
    them too.

    The objective that is reported is (7) plus what no choice changes, so that it is never negative: the service that is forgone
    against the most, frames refused against none. Work that is admitted is served from the next slot on.

    The rule is the drift-plus-penalty method (Neely, Stochastic Network Optimization, 2010). CutEdge's idea, by its abstract, is such
    a rule over partition point, GPU clock and transmission rate; its own equations were not available to us.

    Which cuts: those of a `CutSet`. (7) is, for given f and μ, a sum of non-negative multiples of c, β, s, d and e. Of a model with
    one output d and e are the same for all cuts that offload, and 0 for the one that does not; so a cut that no weights of c, β, s
    favour cannot win (what a mixture of others undercuts stays undercut), and the hull's cuts hold an optimum. Under (9), or with
    several outputs, that is not so, and Pareto cuts are taken; the hull's are refused.

    Parameters
    ----------
    profile : Profile
    system : System
        Of two places, ``device`` (clocks, powers, idle power) and ``server``; the link's radio.
    slot_s : float
    V : float
        Weight of the penalty, s² a joule (or a second, or a unit of ln(1+n)).
    mode : str or mapping
        ``"min-energy"``, ``"min-latency"``, ``"max-throughput"``, or weights of energy, latency, throughput.
    deadline_s, power_cap_w : float, optional
    thermal : Thermal, optional
    power_budget_w, latency_limit_s, throughput_min_hz : float, optional
        Limits on long-run means: of the power, of (4) for admitted frames, of admitted frames a second.
    cut_change_j, clock_change_j : float
        What a change costs.
    place_holders : bool
        False: the rule as it stands in textbooks.
    persistence : float
        ε, as a share of the top speed and of the link's nominal rate; 0: none, and frames may be stranded.
    rate_levels : tuple of float
        φ_j, ascending shares of what the uplink can carry.
    most_frames : int
        Where frames may be refused: for how many a compiled model has columns.
    cuts : CutSet, optional
        Found when not given.
    wire, result, input_bytes, pin_device, pin_server
        As in `SplitPoint`.
    state : SlotState
    """

    profile: Profile
    system: System
    slot_s: float = 0.1
    V: float = 1.0
    mode: str | Mapping[str, float] = "min-energy"
    deadline_s: float | None = None
    power_cap_w: float | None = None
    thermal: Thermal | None = None
    power_budget_w: float | None = None
    latency_limit_s: float | None = None
    throughput_min_hz: float | None = None
    cut_change_j: float = 0.0
    clock_change_j: float = 0.0
    place_holders: bool = True
    persistence: float = 0.01
    rate_levels: tuple[float, ...] = LEVELS
    most_frames: int = 0
    cuts: CutSet | None = None
    wire: Wire = "fp32"
    result: ResultAt = "device"
    input_bytes: float | None = None
    pin_device: Collection[str] = ()
    pin_server: Collection[str] = ()
    state: SlotState = field(default_factory=SlotState)
    choices: Choices = field(init=False, repr=False)
    device_j: float | None = field(init=False, repr=False, default=None)
    bit_levels: tuple[int, ...] | None = field(init=False, repr=False, default=None)

    kind: ClassVar[str] = "slot-control"

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        if not isinstance(self.profile, Profile) or not isinstance(self.system, System):
            raise DataError(
                "give SlotControl(profile, system, …): a splitplan.Profile and a splitplan.System", "SlotControl"
            )
        set_(self, "rate_levels", tuple(self.rate_levels))
        raise_all(problems(self), f"SlotControl for {self.profile.graph.name!r}")
        if self.cuts is None:
            keep = "pareto" if hull_loses(self) else "hull"
            set_(self, "cuts", registry.load("splitplan.choices", "cuts")(self.split, keep=keep))
        assert self.cuts is not None
        raise_all(cut_problems(self, self.cuts), f"SlotControl for {self.profile.graph.name!r}")
        set_(self, "choices", Choices.of(self.cuts, self.profile, self.system, self.rate_levels))

    @property
    def split(self) -> SplitPoint:
        """The split whose cuts these are: the same model, places, wire, result, input and pins."""
        same = ("wire", "result", "input_bytes", "pin_device", "pin_server")
        return SplitPoint(self.profile, self.system, **{name: getattr(self, name) for name in same})

    # -- what it is, for solvers -----------------------------------------------------------------------

    @property
    def weights(self) -> dict[str, float]:
        """Weight of energy, latency, throughput under V."""
        given = MODES[self.mode] if isinstance(self.mode, str) else self.mode
        return {k: float(given.get(k, 0.0)) for k in ("energy", "latency", "throughput")}

    @cached_property
    def units(self) -> dict[str, float]:
        """What counts as a second in each queue: bits at the link's nominal rate, joules at the top power, frames of the longest head."""
        longest = float(self.choices.works[:, 0].max()) or self.slot_s
        return {
            "uplink": self.system.link.rate_up_bps,
            "energy": float(self.choices.power_w.max()) or 1.0,
            "frames": 1.0 / longest,
        }

    @property
    def admits(self) -> bool:
        """Whether frames may be refused."""
        return self.weights["throughput"] > 0 or self.throughput_min_hz is not None

    @property
    def counts(self) -> tuple[int, ...]:
        """Numbers of frames that may be admitted."""
        return tuple(range(int(self.state.frames) + 1)) if self.admits else (int(self.state.frames),)

    def bit_j(self, rate_bps: Any) -> Any:
        """The least joules that a bit takes on an uplink that carries so much, at the levels that whoever decides may choose."""
        return self.choices.bit_j(rate_bps, self.bit_levels)

    def place_held(self, state: Any) -> tuple[Any, Any]:
        """Place-holders of device and uplink as prices, in a state or in many: V times the least joules of a second of work, and of a bit up to now."""
        if not self.place_holders:
            return 0.0, 0.0
        weight, now = self.V * self.weights["energy"], self.bit_j(state.rate_bps)
        least = now if state.least_bit_j is None else np.minimum(now, state.least_bit_j)
        device_j = self.choices.least_j if self.device_j is None else self.device_j
        return weight * device_j, weight * np.where(np.isfinite(least), least, 0.0)[()]

    def prices(self, state: Any) -> Prices:
        """What things are worth in a state; its fields may be arrays (…,) of many states."""
        w, u = self.weights, self.units
        late = self.V * w["latency"] + (state.latency_debt_s if self.latency_limit_s is not None else 0.0)
        debt = state.energy_debt_j / u["energy"] ** 2 if self.power_budget_w is not None else 0.0
        frame = state.frame_debt / u["frames"] ** 2 if self.throughput_min_hz is not None else 0.0
        held = self.place_held(state)
        device, uplink = state.device_s + held[0], state.uplink_bits / u["uplink"] ** 2 + held[1]
        return Prices(
            energy=self.V * w["energy"] + debt,
            device=device,
            uplink=uplink,
            server=state.server_s,
            device_served=device + state.device_wait_s,
            uplink_served=uplink + state.uplink_wait_bits / u["uplink"] ** 2,
            lateness=late,
            frame=frame,
        )

    def costs_at(self, state: Any) -> SlotCosts:
        """All coefficients in a state, or in many."""
        return SlotCosts(
            self.choices, self.slot_s, self.prices(state), state.device_s, state.uplink_bits, state.rate_bps
        )

    @cached_property
    def costs(self) -> SlotCosts:
        """All coefficients in this problem's state."""
        return self.costs_at(self.state)

    @cached_property
    def refused(self) -> dict[int, float]:
        """What it costs to admit n frames and not all, by n: the debt's worth, the utility forgone, lateness that is allowed."""
        all_, p = int(self.state.frames), self.costs.prices
        utility = self.V * self.weights["throughput"]
        allowed = p.lateness - self.V * self.weights["latency"]
        return {
            n: float(
                (all_ - n) * p.frame
                + utility * (np.log1p(all_) - np.log1p(n))
                + (all_ - n) * allowed * (self.latency_limit_s or 0.0)
            )
            for n in self.counts
        }

    @property
    def most_power_w(self) -> float:
        """The most that the device may draw in this slot, by (11)."""
        if self.thermal is None:
            return np.inf
        now = self.thermal.ambient_c if self.state.temperature_c is None else self.state.temperature_c
        return self.thermal.most_power_w(now, self.slot_s)

    @cached_property
    def cut_change(self) -> np.ndarray:
        """What the choice of a cut costs because it is another one than before, shape (K,)."""
        worth = self.costs.prices.energy * self.cut_change_j
        last = self.state.last_cut
        return np.where(np.arange(len(self.choices.works)) == last, 0.0, worth if last is not None else 0.0)

    @cached_property
    def clock_change(self) -> np.ndarray:
        """Likewise of a clock, shape (F,)."""
        worth = self.costs.prices.energy * self.clock_change_j
        last = self.state.last_clock_hz
        return np.where(self.choices.clock_hz == last, 0.0, worth if last is not None else 0.0)

    @cached_property
    def in_time(self) -> np.ndarray:
        """Which (cut, clock, level) meet (9) if a frame is admitted and end at all, array of bool, shape (K, F, J)."""
        c, costs = self.choices, self.costs
        seconds = costs.own_s[:, None, None] + c.seconds[:, :, None] + costs.tail_s[:, None, :]
        if self.deadline_s is not None:
            return np.asarray(seconds <= self.deadline_s * (1 + TOLERANCE))
        return np.isfinite(seconds) if self.timed else np.ones(seconds.shape, bool)

    @property
    def timed(self) -> bool:
        """Whether a frame's own seconds, (4), play a part."""
        return self.deadline_s is not None or self.weights["latency"] > 0 or self.latency_limit_s is not None

    @cached_property
    def within_power(self) -> np.ndarray:
        """Which (clock, level) meet (10), array of bool, shape (F, J)."""
        drawn = self.choices.power_w[:, None] + self.costs.sending_w
        cap = np.inf if self.power_cap_w is None else self.power_cap_w
        return np.asarray(drawn <= cap * (1 + TOLERANCE))

    @cached_property
    def hot(self) -> np.ndarray:
        """Which clocks (11) forbids, array of bool, shape (F,); off never."""
        c = self.choices
        return np.asarray((c.power_w > self.most_power_w * (1 + TOLERANCE)) & (c.speed > 0))

    @cached_property
    def allowed(self) -> np.ndarray:
        """Which (cut, clock, level) meet (9) to (11) if a frame is admitted, array of bool, shape (K, F, J)."""
        return np.asarray(self.in_time & (self.within_power & ~self.hot[:, None])[None])

    @property
    def scale(self) -> float:
        """Factor that brings the costs to the size that solvers' absolute tolerances ask for."""
        most = max(
            float(np.max(self.costs.clock)),
            float(np.max(self.costs.level)),
            self.state.frames * float(np.max(self.costs.cut)),
        )
        return SCALE / most if most > 0 else 1.0

    @property
    def smallest(self) -> float:
        """A unit of the scaled objective."""
        return 1.0 / self.scale

    # -- plain arithmetic ------------------------------------------------------------------------------

    def score(self, cut: int, frames: int, clock: int, level: int) -> dict[str, float]:
        """Costs of one choice by plain arithmetic: ``objective`` and its parts."""
        c, costs, s = self.choices, self.costs, self.state
        busy, sending = float(costs.busy_s[clock]), float(costs.sending_s[level])
        own = float(c.seconds[cut, clock] + costs.tail_s[cut, level] + costs.own_s[cut]) if frames else 0.0
        energy = float(
            c.power_w[0] * self.slot_s
            + c.active_w[clock] * busy
            + costs.sending_w[level] * sending
            + frames * c.receive_j[cut]
        )
        objective = float(costs.clock[clock] + costs.level[level] + self.clock_change[clock] + self.refused[frames])
        if frames:
            objective += float(frames * costs.cut[cut] + self.cut_change[cut])
            if (late := costs.prices.lateness) > 0:
                objective += float(frames * late * (c.seconds[cut, clock] + costs.tail_s[cut, level]))
        return {
            "objective": objective,
            "energy_j": energy,
            "device_busy_s": busy,
            "sending_s": sending,
            "computed_s": float(costs.computed_s[clock]),
            "sent_bits": float(costs.sent_bits[level]),
            "served_s": min(self.slot_s, s.server_s),
            "own_latency_s": own,
        }

    def evaluate(self, plan: SlotPlan) -> dict[str, float]:
        """Costs of a plan by plain arithmetic: ``objective`` and its parts, see `score`."""
        return self.score(*self.numbers_of(plan))

    def violations(self, plan: SlotPlan) -> list[str]:
        """What a plan breaks: (8) to (11), in the user's words."""
        k, n, f, j = self.numbers_of(plan)
        c, costs, broken = self.choices, self.costs, []
        if n not in self.counts:
            broken.append(
                f"{n} frames are admitted of {self.state.frames}" + ("" if self.admits else ", which all must be")
            )
        own = c.seconds[k, f] + costs.tail_s[k, j] + costs.own_s[k]
        if n and self.deadline_s is not None and own > self.deadline_s * (1 + TOLERANCE):
            broken.append(f"deadline_s={self.deadline_s:g}: a frame takes {own:.6g} s")
        drawn = c.power_w[f] + costs.sending_w[j]
        if self.power_cap_w is not None and drawn > self.power_cap_w * (1 + TOLERANCE):
            broken.append(f"power_cap_w={self.power_cap_w:g}: {drawn:.6g} W are drawn")
        if self.hot[f]:
            broken.append(
                f"thermal limit: {c.power_w[f]:.6g} W, at most {self.most_power_w:.6g} W from {self.state.temperature_c} °C"
            )
        return broken

    def numbers_of(self, plan: SlotPlan) -> tuple[int, int, int, int]:
        """A plan as the numbers of its cut, frames, clock and level.

        Raises
        ------
        DataError
            It is no plan, or its cut, clock or rate is none of this slot's; lists those that are.
        """
        if (found := numbers_in(self, plan)) is None:
            raise DataError(plan_problems(self, plan), "SlotControl")
        return found

    def plan_for(self, cut: int, frames: int, clock: int, level: int) -> SlotPlan:
        """The plan of a choice, with what this problem predicts of it.

        Parameters
        ----------
        cut, clock, level : int
            Numbers into ``choices``; clock 0 is off, level 0 silent.
        frames : int
            That are admitted: of those that arrive all, unless frames may be refused.

        Raises
        ------
        DataError
            There is no such cut, clock or level, or so many frames cannot be admitted; lists what there is.
        """
        raise_all(choice_problems(self, cut, frames, clock, level), "SlotControl.plan_for")
        terms = self.score(cut, frames, clock, level)
        predicted = {k: v for k, v in terms.items() if k != "objective" and np.isfinite(v)}
        return SlotPlan(cut, frames, float(self.choices.clock_hz[clock]), float(self.costs.rates[level]), predicted)

    def after(self, state: SlotState, plan: SlotPlan, *, energy_j: float, busy_s: float, **seen: Any) -> SlotState:
        """The next slot's state but for what is ``seen`` of it: queues, debts, persistence, temperature, see `slot_next.after`."""
        return slot_next.after(self, state, plan, energy_j=energy_j, busy_s=busy_s, **seen)

    # -- the declarative model -------------------------------------------------------------------------

    def build(self) -> pyo.ConcreteModel:
        """The MILP as a Pyomo model."""
        from splitplan.formulations import slot_model

        return slot_model.build(self)

    def read(self, values: Mapping[str, float]) -> SlotPlan:
        """The plan in a solver's values of the model's variables, by name."""
        from splitplan.formulations import slot_model

        return self.plan_for(*slot_model.chosen(self, values))

    def lp_notes(self) -> list[str]:
        """The problem, and what the variables stand for."""
        from splitplan.formulations import slot_model

        return [self.describe(), *slot_model.notes(self)]

    def describe(self) -> str:
        """The problem in a line."""
        s = self.state
        what = (
            self.mode if isinstance(self.mode, str) else " + ".join(f"{w:g}·{k}" for k, w in self.weights.items() if w)
        )
        facts = [f"{s.frames} frames arrive", f"{s.rate_bps / 1e6:g} Mbit/s"]
        facts += [f"left: {s.device_s:.4g} s, {s.uplink_bits:.4g} bits, {s.server_s:.4g} s"]
        names = ("deadline_s", "power_cap_w", "power_budget_w", "latency_limit_s", "throughput_min_hz")
        facts += [f"{n} {v:g}" for n in names if (v := getattr(self, n)) is not None]
        return f"SlotControl: {what}, V {self.V:g}, {self.profile.graph.name!r} ({', '.join(facts)})"

    @property
    def unit(self) -> str:
        """Squared seconds and V times the penalty."""
        return "s²"

    # -- slots -----------------------------------------------------------------------------------------

    @property
    def slot_parameters(self) -> tuple[str, ...]:
        """The fields of `SlotState`."""
        return tuple(f.name for f in fields(SlotState))

    def with_slot(self, **slot: Any) -> SlotControl:
        """The same problem in another state; what is not given stays as it is."""
        unknown = sorted(set(slot) - set(self.slot_parameters))
        if unknown:
            raise SolverError(f"unknown slot parameters {', '.join(unknown)}; known: {', '.join(self.slot_parameters)}")
        return self.at(replace(self.state, **slot))

    def at(
        self,
        state: SlotState,
        *,
        place_holders: bool | None = None,
        device_j: float | None = None,
        levels: Sequence[int] | None = None,
    ) -> SlotControl:
        """The same problem in a given state. Nothing else is looked at again, but for the place-holders, where they are to be others.

        Parameters
        ----------
        state : SlotState
        place_holders : bool, optional
        device_j : float, optional
            The least joules of a second of the device's work, for whoever may not choose all clocks.
        levels : sequence of int, optional
            Those that may be chosen, which say what a bit takes at least.
        """
        made = object.__new__(SlotControl)
        kept = {k: v for k, v in self.__dict__.items() if k in self.__dataclass_fields__}
        there = self.place_holders if place_holders is None else place_holders
        made.__dict__.update(
            kept,
            state=state,
            place_holders=there,
            device_j=self.device_j if device_j is None else device_j,
            bit_levels=self.bit_levels if levels is None else tuple(levels),
        )
        return made
