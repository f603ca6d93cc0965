"""SlotContinuous exactly, by its KKT conditions: closed forms for device and radio, and a price for each limit that binds.

With θ the price of a second of a frame's own latency beyond ℓ (its deadline) and ω that of a watt (the cap), device and radio part.
On a piece α + β g of the power curve, K = n ℓ c + θ c:

    busy    (p_E τ + ω) β − r τ = K / g²                          g = √(K / ((p_E τ + ω) β − r τ))
    finish  p_E Q (α − P_idle) + K = ω β g²                       an end of the piece when ω = 0: the cost is linear in 1/g

and for the radio, K = n ℓ β + θ β, x = μ ln 2 / W,

    busy    affine: as above. Shannon: (p_E τ + ω) A (ln 2 / W) e^(x−ρ) − r τ = K / μ²; a logarithm when K = 0
    finish  Shannon, ω = 0: e^(x−ρ) (x − 1) = (P_base − A e^−ρ)/A + K/(p_E Q A), so x = 1 + W₀(· e^(ρ−1)), Lambert's function

Each cost is convex in its own coordinate (g or 1/g, μ or 1/μ), and so are the limits; prices are found by bisection. At the price
at which a limit just binds the two sides of the bisection are both optimal, and so is the mixture of them that meets it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from scipy.optimize import brentq
from scipy.special import lambertw

from splitplan.formulations.registry import Ladder
from splitplan.formulations.slot_program import shannon
from splitplan.formulations.solution import Found, Termination
from splitplan.solvers.slot_convex import REGIMES, candidates, settled
from splitplan.solvers.slot_enumerate import conflicts

if TYPE_CHECKING:
    from splitplan.formulations.slot_continuous import Regime, SlotContinuous
    from splitplan.solvers.slot_convex import Choice

STEPS = 100
"""Halvings of a price's range, on a logarithmic scale: to the last bits."""

Point = tuple[float, float]
"""Speed and rate."""


@dataclass(frozen=True)
class SlotKKT:
    """Closed forms, for every cut, number of frames and pair of regimes."""

    name: ClassVar[str] = "slot-kkt"
    solves: ClassVar[tuple[str, ...]] = ("slot-continuous",)
    rung: ClassVar[Ladder] = Ladder.CLOSED_FORM
    exact: ClassVar[bool] = True

    def why_not(self, problem: SlotContinuous) -> str | None:
        """It solves every SlotContinuous."""
        return None

    def solve(self, problem: SlotContinuous, *, time_limit_s: float | None, gap: float, verbose: bool) -> Found:
        """Some microseconds for each candidate without limits, some hundreds with one that binds; none that cannot win by its lower bound."""
        start = time.perf_counter()
        control, each = problem.control, problem.control.costs.cut.tolist()
        knobs: dict[tuple[Regime, Regime], float] = {}
        for pair in REGIMES:
            alone = Regimes(problem, 0, 0, *pair)
            if not alone.empty:
                speed, rate = alone.at(0.0, 0.0)
                knobs[pair] = problem.head(speed)["cost"] + problem.tail(rate)["cost"]
        # What clock and rate cost at least, whatever the frames ask of them, and the frames' own part: a lower bound of every program.
        least = sorted(
            (knob + control.refused[n] + n * each[k], i, (k, n), pair)
            for i, (k, n) in enumerate(candidates(problem))
            for pair, knob in knobs.items()
        )
        answer: tuple[Choice, float] | None = None
        for bound, _, (k, n), pair in least:
            if answer is not None and bound >= answer[1]:
                break
            program = Regimes(problem, k, n, *pair)
            if (point := program.solve()) is not None:
                choice = (k, n, *settled(problem, point))
                value = problem.score(*choice)["objective"]
                if math.isfinite(value) and (answer is None or value < answer[1]):
                    answer = choice, value
        taken = time.perf_counter() - start
        if answer is None:
            return Found(None, Termination.INFEASIBLE, conflicts=conflicts(problem.control), solver_version="splitplan")
        choice, value = answer
        return Found(
            problem.plan_for(*choice),
            Termination.CONVERGED,
            bound=value * (1 - 1e-9),
            objective=value,
            bound_by="stationarity and complementary slackness, solved to the last bits for every cut and regime",
            solver_version="splitplan",
            solve_s=taken,
        )


class Regimes:
    """One convex program: a cut, a number of frames, a regime of the device and one of the radio."""

    def __init__(self, problem: SlotContinuous, cut: int, frames: int, device: Regime, radio: Regime) -> None:
        control, s, p = problem.control, problem.control.state, problem.costs.prices
        self.device, self.radio, self.curve, tau = device, radio, problem.curve, control.slot_s
        self.pieces = list(
            zip(
                self.curve.breaks.tolist(),
                self.curve.breaks.tolist()[1:],
                self.curve.offset.tolist(),
                self.curve.slope.tolist(),
                strict=False,
            )
        )
        c, beta, _ = control.choices.works[cut].tolist() if frames else (0.0, 0.0, 0.0)
        self.c, self.beta = float(c), float(beta)
        self.late = float(frames * p.lateness)
        self.joule, self.head_service = float(p.energy), float(p.device_served) * tau
        self.tail_service = float(p.uplink_served) * tau
        self.tau, self.work, self.bits = tau, float(s.device_s), float(s.uplink_bits)
        self.idle = float(control.choices.power_w[0])
        air = control.choices.radio
        self.slope, self.base, self.band = air.up_w_per_bps, air.base_w, air.bandwidth_hz
        self.amplitude, self.rho = shannon(problem)
        most = min(self.curve.high, problem.most_speed)
        self.speeds = {
            "off": (0.0, 0.0),
            "busy": (self.curve.low, min(most, self.work / tau)),
            "finish": (max(self.curve.low, self.work / tau), most),
        }[device]
        self.rates = {
            "off": (0.0, 0.0),
            "busy": (problem.least_rate, min(problem.top_rate, self.bits / tau)),
            "finish": (max(problem.least_rate, self.bits / tau), problem.top_rate),
        }[radio]
        self.time_left = math.inf
        if control.deadline_s is not None and frames:
            self.time_left = control.deadline_s - float(problem.costs.own_s[cut])
        self.cap = math.inf if control.power_cap_w is None else control.power_cap_w
        stuck = control.timed and frames
        self.empty = (
            (device != "off" and not 0 < self.speeds[0] <= self.speeds[1])
            or (radio != "off" and not 0 < self.rates[0] <= self.rates[1])
            or bool(stuck and device == "off" and c > 0)
            or bool(stuck and radio == "off" and beta > 0)
        )

    # -- the two limits ----------------------------------------------------------------------------------

    def seconds(self, point: Point) -> float:
        """How far a point is over the deadline; at most 0 within it."""
        if self.time_left == math.inf:
            return -math.inf
        g, rate = point
        return (self.c / g if self.c else 0.0) + (self.beta / rate if self.beta else 0.0) - self.time_left

    def watts(self, point: Point) -> float:
        """How far a point is over the cap."""
        if self.cap == math.inf:
            return -math.inf
        g, rate = point
        drawn = self.curve.at(g) if g else self.idle
        return drawn + (self.radio_w(rate) if rate else 0.0) - self.cap

    def radio_w(self, rate: float) -> float:
        """Watts at a rate."""
        if self.band is None:
            return self.slope * rate + self.base
        return self.amplitude * (math.exp(rate / self.band * math.log(2) - self.rho) - math.exp(-self.rho)) + self.base

    # -- solving ---------------------------------------------------------------------------------------------

    def solve(self) -> Point | None:
        """The optimum, or None where no point is within the limits."""
        if self.empty:
            return None
        free = self.at(0.0, 0.0)
        if self.seconds(free) <= 0 and self.watts(free) <= 0:
            return free
        fastest, coolest = (self.speeds[1], self.rates[1]), (self.speeds[0], self.rates[0])
        if self.seconds(fastest) > 0 or self.watts(coolest) > 0:
            return None
        in_time = self.priced(self.seconds, lambda theta: self.at(theta, 0.0), free, fastest)
        if self.watts(in_time) <= 0:
            return in_time
        within = self.priced(self.watts, lambda omega: self.at(0.0, omega), free, coolest)
        if self.seconds(within) <= 0:
            return within
        return self.both()

    def both(self) -> Point | None:
        """Both limits bind: for a price of power, the price of time that meets the deadline; then the price of power."""

        def timely(omega: float) -> Point:
            start = self.at(0.0, omega)
            if self.seconds(start) <= 0:
                return start
            return self.priced(
                self.seconds, lambda theta: self.at(theta, omega), start, (self.speeds[1], self.rates[1])
            )

        coolest = self.coolest_in_time()
        if coolest is None:
            return None
        return self.priced(self.watts, timely, timely(0.0), coolest)

    def coolest_in_time(self) -> Point | None:
        """The point of least power within the deadline, if that is within the cap."""
        kept = self.joule, self.late, self.head_service, self.tail_service
        self.joule = self.late = self.head_service = self.tail_service = 0.0
        try:
            start = self.at(0.0, 1.0)
            found = start
            if self.seconds(start) > 0:
                found = self.priced(
                    self.seconds, lambda theta: self.at(theta, 1.0), start, (self.speeds[1], self.rates[1])
                )
        finally:
            self.joule, self.late, self.head_service, self.tail_service = kept
        return found if self.watts(found) <= 1e-9 * self.cap else None

    def priced(
        self, over: Callable[[Point], float], at: Callable[[float], Point], outside: Point, inside: Point
    ) -> Point:
        """The optimum where a limit binds: the price is bisected, then the two sides are mixed so that it is just met.

        Parameters
        ----------
        over : callable
            How far a point is over the limit: convex in the point's own coordinates.
        at : callable
            Price → the best point at it.
        outside, inside : Point
            At price 0, over the limit; at any price, within it.
        """
        low, high = 0.0, 1e-12
        while over(point := at(high)) > 0 and high < 1e18:
            low, outside, high = high, point, high * 16
        if over(point) <= 0:
            inside = point
        for _ in range(STEPS):
            middle = math.sqrt(low * high) if low else high * 1e-3
            if not low < middle < high:
                break
            point = at(middle)
            if over(point) > 0:
                low, outside = middle, point
            else:
                high, inside = middle, point
        return self.mixed(over, outside, inside)

    def mixed(self, over: Callable[[Point], float], outside: Point, inside: Point) -> Point:
        """The mixture, in the regimes' own coordinates, that just meets a limit."""
        a, b = self.own(outside), self.own(inside)
        if a == b:
            return inside

        def mixture(t: float) -> Point:
            return self.own((a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1])))

        low, high = 0.0, 1.0
        for _ in range(60):
            middle = 0.5 * (low + high)
            if over(mixture(middle)) > 0:
                low = middle
            else:
                high = middle
        return mixture(high)

    def own(self, point: Point) -> Point:
        """To the coordinates in which the program is convex, and back: a reciprocal where a regime finishes."""
        g, rate = point
        return (1 / g if self.device == "finish" else g), (1 / rate if self.radio == "finish" else rate)

    # -- the closed forms ------------------------------------------------------------------------------------

    def at(self, theta: float, omega: float) -> Point:
        """The best point at given prices of time and power."""
        return self.best_speed(self.c * (self.late + theta), omega), self.best_rate(
            self.beta * (self.late + theta), omega
        )

    def best_speed(self, k: float, omega: float) -> float:
        """Of the device, with K = k."""
        low, high = self.speeds
        if self.device == "off":
            return 0.0
        g = high
        for start, end, offset, slope in self.pieces:
            if self.device == "busy":
                # The cost falls while rising < k / g².
                rising = (self.joule * self.tau + omega) * slope - self.head_service
                turn = math.sqrt(k / rising) if rising > 0 else math.inf
            else:
                # The cost falls with g while saved > ω slope g².
                saved = self.joule * self.work * (offset - self.idle) + k
                spent = omega * slope
                turn = 0.0 if saved < 0 else math.sqrt(saved / spent) if spent > 0 else math.inf
            if turn <= end:
                g = max(turn, start)
                break
        return min(max(g, low), high)

    def best_rate(self, k: float, omega: float) -> float:
        """Of the radio, with K = k."""
        low, high = self.rates
        if self.radio == "off":
            return 0.0
        if self.band is None:
            if self.radio == "busy":
                rising = (self.joule * self.tau + omega) * self.slope - self.tail_service
                rate = math.sqrt(k / rising) if rising > 0 else math.inf
            else:
                saved, spent = self.joule * self.bits * self.base + k, omega * self.slope
                rate = math.sqrt(saved / spent) if spent > 0 else math.inf
            return min(max(rate, low), high)
        return self.shannon_busy(k, omega) if self.radio == "busy" else self.shannon_finish(k, omega)

    def shannon_busy(self, k: float, omega: float) -> float:
        """(p_E τ + ω) A (ln 2/W) e^(x−ρ) = r τ + K/μ²."""
        low, high = self.rates
        assert self.band is not None
        per = math.log(2) / self.band
        front = (self.joule * self.tau + omega) * self.amplitude * per
        if front <= 0:
            return high if self.tail_service + k > 0 else low
        if k == 0:
            if self.tail_service <= 0:
                return low
            return min(max((math.log(self.tail_service / front) + self.rho) / per, low), high)

        def slope(rate: float) -> float:
            return front * math.exp(per * rate - self.rho) - self.tail_service - k / rate**2

        return self.root(slope)

    def shannon_finish(self, k: float, omega: float) -> float:
        """p_E Q (P_base + A (e^(x−ρ) (1 − x) − e^−ρ)) + K = ω A x² e^(x−ρ) W/ln 2; the left side less the right falls with the rate."""
        low, high = self.rates
        assert self.band is not None
        per, front = math.log(2) / self.band, self.joule * self.bits * self.amplitude
        rest = self.joule * self.bits * (self.base - self.amplitude * math.exp(-self.rho)) + k
        if omega == 0:
            if (
                front <= 0 or self.rho > 600
            ):  # beyond what a float's exponent holds the corner is above any rate there is
                return high
            x = 1 + float(lambertw(max(rest / front * math.exp(self.rho - 1), -1 / math.e)).real)
            return min(max(x / per, low), high)

        def slope(rate: float) -> float:
            x = per * rate
            return math.exp(x - self.rho) * (omega * self.amplitude * x * x / per - front * (1 - x)) - rest

        return self.root(slope)

    def root(self, slope: Callable[[float], float]) -> float:
        """Where a slope that rises with the rate is 0, kept to the regime's range."""
        low, high = self.rates
        if slope(low) >= 0:
            return low
        if slope(high) <= 0:
            return high
        return float(brentq(slope, low, high, xtol=1e-12 * high, rtol=1e-14))
