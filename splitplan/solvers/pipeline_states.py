"""Is there a pipeline of at most this period? By states (places used, the last of them) → positions reached; exact, with completion bounds.

Places come in types, so that "places used" is how many of each type: 2^m states for m unlike places, few for like ones. A state
is expanded only where what is left of the network can still cost what is left of the places (the walks of `pipeline_bounds`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from splitplan.solvers.pipeline_bounds import SAFE, Prices, walk
from splitplan.solvers.pipeline_units import Units

CHUNK = 1 << 15
"""Columns that are taken through a stage at once."""
MOST_CODES = 1 << 62
"""Sets of places that one number can tell apart."""


class TooMany(Exception):
    """More states than there is room for; caught by the solver."""


class OutOfTime(Exception):
    """The time is over before it is known; caught by the solver."""


@dataclass(frozen=True, eq=False)
class Layer:
    """The states with as many stages, by the type of their last; on a shared medium all under −1, since who sends does not matter.

    Parameters
    ----------
    codes : dict of int to array of int
        How many of each type are used, as one number; ascending.
    values : dict of int to array, shape (states, n + 1)
        At each position: whether it is reached (overlap), the least seconds for which the last is busy (communication added), the
        least seconds of all transfers (shared medium); ∞ where it is not reached.
    """

    codes: dict[int, np.ndarray] = field(default_factory=dict)
    values: dict[int, np.ndarray] = field(default_factory=dict)


class Search:
    """One question: the period, and the states that it takes to answer.

    Parameters
    ----------
    units : Units
    period : float
    prices : Prices
        Of the completion bounds; any are valid, good ones leave few states.
    room_bytes : int
        For all states together.
    left : callable
        Whether there is time left.
    window : int, optional
        Look only at plans in which a place comes before all that are this many or more behind it in the order of the units, all
        of them single places (the neighbourhoods of Balas and Simonetti, 2001). Then "none" proves nothing.
    """

    def __init__(
        self,
        units: Units,
        period: float,
        prices: Prices,
        room_bytes: int,
        left: Callable[[], bool],
        window: int | None = None,
    ) -> None:
        self.window = len(units.count) if window is None else window
        self.units, self.period, self.prices, self.left = units, period, prices, left
        self.room_bytes, self.held_bytes, self.states = room_bytes, 0, 0
        self.radix = np.cumprod([1, *(units.count[:-1] + 1)]).astype(np.int64)
        self.boolean = units.overlap and not units.shared
        self.layers: list[Layer] = []
        exact = units.whole if units.shared else units.span
        self.within = exact <= period
        self.never: Any = False if self.boolean else np.inf
        self.packed = self.within.astype(np.float32)

    def run(self) -> tuple[list[int], list[int]] | None:
        """Types and inner cuts of a plan of at most this period; None when there is none.

        Raises
        ------
        TooMany, OutOfTime
        """
        u = self.units
        if u.floor > self.period:
            return None
        found = walk(u, self.period, self.prices)
        most = self.prices.total(u, self.period) * (1 + SAFE)
        if found.cost > most:
            return None
        if math.prod((u.count + 1).tolist()) > MOST_CODES:
            raise TooMany
        self.to_go = found.to_go
        for stages in range(1, u.most_stages + 1):
            here = Layer()
            for e in range(len(u.count)):
                if not self.left():
                    raise OutOfTime
                codes, inside = self._begin(e) if stages == 1 else self._inside(e)
                if not len(codes):
                    continue
                if (goal := self._through(e, codes, inside, here, stages, most)) is not None:
                    return self._back(e, goal, stages)
            self.layers.append(here)
            if not here.codes:
                return None
        return None

    # -- one stage more ----------------------------------------------------------------------------------

    def _begin(self, e: int) -> tuple[np.ndarray, np.ndarray]:
        """The state in which a type is about to begin the first stage."""
        u = self.units
        if not u.enter[e] <= self.period:
            return np.zeros(0, np.int64), np.zeros((0, u.layers + 1))
        inside = np.full((1, u.layers + 1), self.never)
        inside[0, 0] = True if self.boolean else u.enter[e]
        return self.radix[[e]], inside

    def _inside(self, e: int) -> tuple[np.ndarray, np.ndarray]:
        """The states in which a type is about to begin a stage: by position, whether, or the least of what `Layer` says."""
        u, before = self.units, self.layers[-1]
        sources = []
        for d, codes in before.codes.items():
            hop = u.step if d < 0 else u.hop[d, e]
            free = (codes // self.radix[e]) % (u.count[e] + 1) < u.count[e]
            if e + self.window < len(self.radix):
                free &= codes < self.radix[e + self.window]
            at = np.flatnonzero(free)
            if len(at) and (hop <= self.period).any():
                sources.append((codes[at], before.values[d][at], hop))
        codes = np.unique(np.concatenate([c for c, _, _ in sources])) if sources else np.zeros(0, np.int64)
        inside = np.full((len(codes), u.layers + 1), self.never)
        for own, came, hop in sources:
            where = np.searchsorted(codes, own)
            if self.boolean:
                inside[where] |= came & (hop <= self.period)
            elif u.shared:
                inside[where] = np.minimum(inside[where], came + hop)
            else:
                inside[where] = np.minimum(inside[where], np.where(came + hop <= self.period, hop, np.inf))
        return codes + self.radix[e], inside

    def _through(
        self, e: int, codes: np.ndarray, inside: np.ndarray, here: Layer, stages: int, most: float
    ) -> int | None:
        """Take states through a stage at a type into ``here``; the code of one that is done, or None."""
        u = self.units
        used = (codes[:, None] // self.radix) % (u.count + 1)
        # What is left to do must not cost more than what is left of the places.
        left = most - used @ self.prices.place - stages * self.prices.stage
        to_go = self.to_go.min(axis=0) if u.shared else self.to_go[e]
        kept: list[np.ndarray] = []
        alive_codes: list[np.ndarray] = []
        for start in range(0, len(codes), CHUNK):
            part = slice(start, start + CHUNK)
            out = self._stage(e, inside[part])
            done = out[:, -1] if self.boolean else out[:, -1] + u.leave[e] <= self.period
            if u.leave[e] <= self.period and done.any():
                return int(codes[part][np.flatnonzero(done)[0]])
            if self.boolean:
                out &= to_go <= left[part, None]
                alive = out.any(axis=1)
            else:
                moving = self.prices.second * out if u.shared and self.prices.second else 0.0
                out[~(to_go + moving <= left[part, None])] = np.inf
                alive = np.isfinite(out).any(axis=1)
            kept.append(out[alive])
            alive_codes.append(codes[part][alive])
        values, codes = np.concatenate(kept), np.concatenate(alive_codes)
        if len(codes) and stages < u.most_stages:
            self._add(here, -1 if u.shared else e, codes, values)
        return None

    def _stage(self, e: int, inside: np.ndarray) -> np.ndarray:
        """Values after a stage at a type, from those before it."""
        u = self.units
        if self.boolean:
            reached: np.ndarray = inside.astype(np.float32) @ self.packed[e] > 0
            return reached
        out = np.full(inside.shape, np.inf)
        some = np.isfinite(inside).any(axis=0)
        for j in np.flatnonzero((self.within[e] & some[:, None]).any(axis=0)).tolist():
            at = np.flatnonzero(self.within[e][:, j] & some)
            low, high = int(at[0]), int(at[-1]) + 1
            block = inside[:, low:high] if high - low == len(at) else inside[:, at]
            out[:, j] = block.min(axis=1) if u.shared else (block + u.span[e][at, j]).min(axis=1)
        out[out > self.period] = np.inf
        return out

    def _add(self, here: Layer, last: int, codes: np.ndarray, values: np.ndarray) -> None:
        if last in here.codes:
            old, had = here.codes[last], here.values[last]
            both = np.union1d(old, codes)
            merged = np.full((len(both), values.shape[1]), np.inf)
            merged[np.searchsorted(both, old)] = had
            at = np.searchsorted(both, codes)
            merged[at] = np.minimum(merged[at], values)
            self.held_bytes -= had.nbytes
            codes, values = both, merged
        here.codes[last], here.values[last] = codes, values
        self.held_bytes += values.nbytes
        self.states += len(codes)
        if self.held_bytes > self.room_bytes:
            raise TooMany

    # -- the plan ----------------------------------------------------------------------------------------

    def _back(self, e: int, code: int, stages: int) -> tuple[list[int], list[int]]:
        """Types and inner cuts of the plan that ends at a type with these places used."""
        u, j = self.units, self.units.layers
        types, cuts = [e], list[int]()
        for depth in range(stages - 1, 0, -1):
            code -= int(self.radix[e])
            before = self.layers[depth - 1]
            best: tuple[float, int, int] = (np.inf, -1, -1)
            for d, codes in before.codes.items():
                at = int(np.searchsorted(codes, code))
                if at == len(codes) or codes[at] != code:
                    continue
                value = before.values[d][at]
                hop = u.step if d < 0 else u.hop[d, e]
                if self.boolean:
                    cost = np.where(value & (hop <= self.period) & self.within[e][:, j], u.span[e][:, j], np.inf)
                elif u.shared:
                    cost = np.where(self.within[e][:, j], value + hop, np.inf)
                else:
                    cost = np.where(value + hop <= self.period, hop + u.span[e][:, j], np.inf)
                i = int(cost.argmin())
                best = min(best, (float(cost[i]), d, i))
            _, d, j = best
            cuts.append(j)
            e = self._who(depth, code, j) if d < 0 else d
            types.append(e)
        return types[::-1], cuts[::-1]

    def _who(self, depth: int, code: int, j: int) -> int:
        """On a shared medium: the type whose stage ends at a position in a state, for the least seconds of transfers."""
        u = self.units
        best = (np.inf, -1)
        for e in range(len(u.count)):
            if (code // int(self.radix[e])) % (int(u.count[e]) + 1) == 0:
                continue
            if depth == 1:
                ok = code == int(self.radix[e]) and self.within[e][0, j] and u.enter[e] <= self.period
                best = min(best, (float(u.enter[e]) if ok else np.inf, e))
                continue
            before = self.layers[depth - 2]
            codes = before.codes[-1]
            at = int(np.searchsorted(codes, code - int(self.radix[e])))
            if at < len(codes) and codes[at] == code - int(self.radix[e]):
                cost = np.where(self.within[e][:, j], before.values[-1][at] + u.step, np.inf)
                best = min(best, (float(cost.min()), e))
        return best[1]
