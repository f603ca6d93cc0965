"""What a stage of several places costs: seconds of a block whose rows they share, halos and transfers included.

The formulation and the solvers read it here; the audit in ``solvers/`` adds up on its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations, permutations

import numpy as np

from splitplan.data.pipeline_plan import RowBlock
from splitplan.data.plan import Wire, wire_bytes
from splitplan.data.profile import Profile
from splitplan.data.system import System
from splitplan.data.way import Way
from splitplan.errors import DataError, listed
from splitplan.models.rows import PlaceNeed, RowModel, check_shares


@dataclass(frozen=True)
class BlockCosts:
    """What one block of rows takes.

    Parameters
    ----------
    seconds : float
        From the moment the first place has the input to the moment it has the output.
    computing_s, getting_s, returning_s : tuple of float
        By place. Getting and returning are the ways' busy seconds and delays; 0 at the first place.
    busy_s : dict of str to float
        By resource, over all transfers of the block.
    """

    seconds: float
    computing_s: tuple[float, ...]
    getting_s: tuple[float, ...]
    returning_s: tuple[float, ...]
    busy_s: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class RowCosts:
    r"""Seconds of blocks whose rows several places share.

    The places of a group stand in an order, k = 1, …, g; the first has the block's input, hands each other place the rows that it
    needs, and gets its rows back: nothing is exchanged inside a block. Place k computes the share φ_{vk} of layer v, halos
    included, out of its a_{vk} seconds at full height:

    (1) C_k = b_k + Σ_v φ_{vk} a_{vk} + Σ_{v: φ_{vk} > 0} (1 − φ_{vk}) f_{vk}, 0 without rows                                  [s]
    (2) σ_k = 8 (overhead · bytes_in(k) + header)/R over the way from the first place to k, ρ_k likewise back; 0 without rows  [s]
    (3) S_k = σ_k, or Σ_j σ_j when two ways from the first place use one resource; R_k likewise from ρ and the ways back       [s]
    (4) block = max( C_1, max_{k>1, rows_k > 0} S_k + delay_{1k} + C_k + delay_{k1} + R_k )                                    [s]
    (5) stage = Σ over its blocks; a block on the first place alone costs Σ_v a_{v1} and moves nothing                         [s]

    So transfers that use one resource go one after the other, all of them before a place computes and all of them behind it. Served in
    the order in which they ask, they take no longer, where nothing else asks for the resource; of three places and more on a star or a
    shared medium they may take less, as a place that has its rows computes while others are given theirs. So a simulated or a true
    pipeline may be quicker than predicted there. Where other transfers of the plan use the resource too, rows also wait for them.

    Parameters
    ----------
    model : RowModel
    seconds : dict of str to array
        Seconds of each layer at full height by place, shape (layers,).
    ways : dict of (str, str) to Way
        Pairs that nothing joins are left out.
    wire : {"fp32", "fp16", "int8"}
        Precision in which floating-point rows cross.
    fixed_s : dict of str to array
        f: of the seconds of each layer those that fewer rows do not make less (dispatch, weights to read), by place, shape
        (layers,); 0 unless given.
    block_s : dict of str to float
        b: seconds that a place spends on its rows of a block beside the layers (calling the part, checking and cutting what it
        takes), by place; 0 unless given.
    """

    model: RowModel
    seconds: Mapping[str, np.ndarray]
    ways: Mapping[tuple[str, str], Way]
    wire: Wire = "fp32"
    fixed_s: Mapping[str, np.ndarray] = field(default_factory=dict)
    block_s: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, profile: Profile, system: System, wire: Wire = "fp32", places: Iterable[str] | None = None) -> RowCosts:
        """The costs of blocks of a profile's graph on a system.

        Parameters
        ----------
        profile : Profile
            At its highest clock. Where it knows no ``fixed_s``, fewer rows save all of their seconds: see `Profile.rows_guessed`.
        system : System
        wire : {"fp32", "fp16", "int8"}
        places : iterable of str, optional
            Those that may share rows; by default all of the system's.

        Raises
        ------
        DataError
            A place without times, or that the system has not; or the graph knows of no rows.
        """
        some = tuple(dict.fromkeys(system.places if places is None else places))
        ways = {(a, b): way for a, b in permutations(some, 2) if (way := system.way(a, b)) is not None}
        seconds, fixed = ({p: x(p) for p in some} for x in (profile.seconds, profile.fixed_s))
        return cls(RowModel(profile.graph), seconds, ways, wire, fixed, {p: profile.block_s(p) for p in some})

    # -- coefficients --------------------------------------------------------------------------------

    @cached_property
    def row_bytes(self) -> dict[str, float]:
        """Bytes of one row of each tensor as it crosses; of all of it where it has no rows."""
        rows = self.model.rows
        return {t.name: wire_bytes(t.size_bytes, t.dtype, self.wire) / rows[t.name] for t in self.model.graph.tensors}

    def fixed(self, place: str) -> np.ndarray:
        """f: seconds of each layer that fewer rows do not make less, never more than all of them, shape (layers,)."""
        return np.asarray(np.minimum(self.fixed_s.get(place, 0.0), self.seconds[place]))

    def shares_one(self, places: Sequence[str], *, back: bool) -> bool:
        """Whether two ways from the first place (or back to it) use one resource, so that transfers go one after the other."""
        ends = [(p, places[0]) if back else (places[0], p) for p in places[1:]]
        used = [set(self.ways[e].resources) for e in ends if e in self.ways]
        return any(a & b for a, b in combinations(used, 2))

    # -- what a plan costs ---------------------------------------------------------------------------

    def block(self, start: int, stop: int, rows: Sequence[int], places: Sequence[str]) -> BlockCosts:
        """The costs of layers ``start:stop`` when the places share their rows so; (1) to (4).

        Rows all on the first place are that place alone, whatever the layers are. Where no way leads, ∞.

        Raises
        ------
        DataError
            When rows on other places meet a layer that mixes all rows, or do not add up.
        """
        first, none = places[0], (0.0,) * len(places)
        if not any(rows[1:]):
            check_shares(rows, self.model.height(stop), f"block of layers {start}:{stop}")
            alone = float(self.seconds[first][start:stop].sum())
            return BlockCosts(alone, (alone, *none[1:]), none, none)
        needs = self.model.block(start, stop, rows)
        computing = [self._computing(p, start, n) for p, n in zip(places, needs, strict=True)]
        busy: dict[str, float] = {}
        getting, returning = [0.0], [0.0]
        delays = [0.0]
        for place, need in zip(places[1:], needs[1:], strict=True):
            if not need.gives:
                getting.append(0.0)
                returning.append(0.0)
                delays.append(-np.inf)
                continue
            there, back = self.ways.get((first, place)), self.ways.get((place, first))
            if there is None or back is None:
                return BlockCosts(np.inf, tuple(computing), none, none)
            delays.append(there.delay_s + back.delay_s)
            for way, carried, into in ((there, need.takes, getting), (back, need.gives, returning)):
                seconds = way.busy_s(sum((b - a + 1) * self.row_bytes[t] for t, (a, b) in carried.items()))
                into.append(seconds)
                for resource in way.resources:
                    busy[resource] = busy.get(resource, 0.0) + seconds
        out = [sum(getting)] * len(places) if self.shares_one(places, back=False) else getting
        home = [sum(returning)] * len(places) if self.shares_one(places, back=True) else returning
        far = [out[k] + delays[k] + computing[k] + home[k] for k in range(1, len(places))]
        return BlockCosts(max([computing[0], *far]), tuple(computing), tuple(getting), tuple(returning), busy)

    def _computing(self, place: str, start: int, need: PlaceNeed) -> float:
        if not need.gives:
            return 0.0
        share = np.asarray(need.shares)
        at = slice(start, start + len(share))
        less = (share > 0) * (1 - np.minimum(share, 1))
        return float(self.block_s.get(place, 0.0) + share @ self.seconds[place][at] + less @ self.fixed(place)[at])

    def stage(self, start: int, stop: int, blocks: Sequence[RowBlock], places: Sequence[str]) -> list[BlockCosts]:
        """The costs of each block of a stage that computes layers ``start:stop``; its seconds are their sum, (5).

        Raises
        ------
        DataError
            When the blocks are not the stage's layers, run after run, or a place has no seconds.
        """
        if strange := [p for p in places if p not in self.seconds]:
            raise DataError(f"{listed(strange)}: no seconds are known there", "stage of rows")
        names = [layer.name for layer in self.model.graph.layers[start:stop]]
        if [v for b in blocks for v in b.layers] != names:
            raise DataError("its blocks do not make up its layers, run after run", "stage of rows")
        found, at = [], start
        for b in blocks:
            found.append(self.block(at, at + len(b.layers), b.rows, places))
            at += len(b.layers)
        return found
