"""Stages of several places: which rows of each block each place makes, and where to synchronise. Exact, by two dynamic programs.

Shares of a block: the places stand in an order and take rows from the top, so that place k takes rows c_{k−1} … c_k − 1. With
t_k(p, e) the seconds of place k for rows p … e − 1, halos and its own transfers included (`RowCosts`, (1)–(4)),

    V_1(e) = t_1(0, e),   V_k(e) = min_{p ≤ e} max(V_{k−1}(p), t_k(p, e)),   block = V_g(H):

the least maximum over all whole-number shares, zero rows included, whatever the t_k are. Where transfers go one after the other
their sum is added to the slowest place but the first: for a limit M on what those places compute, the same recursion with +
finds the least sum of transfers; M is searched by branch and bound over the values that there are.

Fusion against synchronisation: blocks of a stage meet nowhere but at its first place, so their seconds add up and

    T(i, i) = 0,   T(i, j) = min_{i ≤ a < j} T(i, a) + min(block(a, j), seconds of layer j on the first place alone if a = j − 1)

is the least over all ways to cut layers i:j into blocks. Deep blocks compute halos twice, short ones gather and scatter more often.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from splitplan.data.pipeline_plan import RowBlock
from splitplan.data.way import Way
from splitplan.errors import DataError
from splitplan.formulations.row_costs import RowCosts
from splitplan.models.graph import LayerGraph
from splitplan.models.rows import RowModel

MOST_CUTS = 512
"""Heights up to this are shared row by row; greater ones in multiples of ⌈rows / MOST_CUTS⌉, and are exact among those."""


@dataclass(frozen=True)
class RowStage:
    """The best that a group of places can do with a run of layers.

    Parameters
    ----------
    seconds : float
        Always finite: what cannot be shared, for a layer that mixes all rows or a way that is missing, runs on the first place.
    blocks : tuple of RowBlock
    exact : bool
        Whether all whole-number shares were weighed; False when a height was above `MOST_CUTS`.
    """

    seconds: float
    blocks: tuple[RowBlock, ...]
    exact: bool = True


@dataclass(frozen=True, eq=False)
class _Tables:
    """Of the block ``start:stop``, by first row and end of the rows that one place makes, shape (cuts, cuts)."""

    share: np.ndarray  # of layer start alone
    bytes_in: np.ndarray
    bytes_out: np.ndarray


@dataclass(eq=False)
class RowStages:
    """Asked for many stages of one profile; what does not depend on the group is worked out once.

    Parameters
    ----------
    costs : RowCosts
    most_cuts : int, optional
        Instead of `MOST_CUTS`.
    """

    costs: RowCosts
    most_cuts: int | None = None
    _tables: dict[int, list[_Tables]] = field(default_factory=dict, repr=False)
    _computing: dict[tuple[int, str], np.ndarray] = field(default_factory=dict, repr=False)
    _cuts: dict[int, np.ndarray] = field(default_factory=dict, repr=False)
    _apart: dict[tuple[str, str], list[np.ndarray]] = field(default_factory=dict, repr=False)
    _groups: dict[tuple[str, ...], _Group] = field(default_factory=dict, repr=False)

    # -- what is asked ---------------------------------------------------------------------------

    def seconds(self, places: Sequence[str]) -> np.ndarray:
        """T: least seconds of layers i:j by this group, in this order, shape (layers + 1, layers + 1); ∞ where j ≤ i."""
        return self._group(places).stages[0]

    def stage(self, start: int, stop: int, places: Sequence[str]) -> RowStage:
        """The best stage of layers ``start:stop`` by this group, in this order, and how.

        Raises
        ------
        DataError
            For an empty group, a place twice or without seconds, or no slice of the layers.
        """
        n = len(self.costs.model.graph)
        if not 0 <= start < stop <= n:
            raise DataError(f"{start}:{stop} is no slice of {n} layers", "stage of rows")
        group = self._group(places)
        seconds, before = group.stages
        names = [layer.name for layer in self.costs.model.graph.layers]
        alone = (0,) * (len(places) - 1)
        found: list[RowBlock] = []
        at = stop
        while at > start:
            a = int(before[start, at])
            rows = group.rows.get((a, at), (self.costs.model.height(at), *alone))
            if found and not any(rows[1:]) and not any(found[-1].rows[1:]):  # one run on the first place
                behind = found.pop()
                found.append(RowBlock((*names[a:at], *behind.layers), behind.rows))
            else:
                found.append(RowBlock(tuple(names[a:at]), rows))
            at = a
        exact = len(places) == 1 or all(self._step(j) == 1 for j in range(start + 1, stop + 1))
        return RowStage(float(seconds[start, stop]), tuple(reversed(found)), exact)

    def bound(self, start: int, stop: int, places: Sequence[str]) -> float:
        """Seconds that no stage of these layers by these places takes less than, whatever its blocks, its shares and their order.

        Layers that mix all rows run on the first place alone. Of every other layer v the shares sum to m_v at least
        (`RowModel.least_shares`), so that for any w ≥ 0 with Σ_k w_k = 1 the stage takes at least Σ_v m_v min_k w_k a_{vk};
        here w_k ∝ 1 / Σ_v a_{vk}, which is the best where the places' speeds are proportional.
        """
        at = np.arange(start, stop)
        alone = np.array([v in self.costs.model.barriers for v in at])
        first = self.costs.seconds[places[0]][start:stop]
        least = self.costs.model.least_shares[start:stop][~alone]
        shared = np.array([self.costs.seconds[p][start:stop][~alone] * least for p in places])
        total = shared.sum(axis=1)
        if not shared.size or not total.all():
            return float(first[alone].sum())
        weight = (1 / total) / (1 / total).sum()
        return float(first[alone].sum() + (weight[:, None] * shared).min(axis=0).sum())

    def blocks(self, places: Sequence[str]) -> tuple[np.ndarray, dict[tuple[int, int], tuple[int, ...]]]:
        """Least seconds of each block by this group, shape (layers + 1, layers + 1), and the shares where places share its rows.

        ∞ where it cannot be, or where single layers on the first place, one after the other, are no slower.
        """
        group = self._group(places)
        return group.block, group.rows

    def last_blocks(self, places: Sequence[str]) -> np.ndarray:
        """Where the last block of the best stage of layers i:j begins, array of int, shape (layers + 1, layers + 1)."""
        return self._group(places).stages[1]

    def best_shares(self, start: int, stop: int, places: Sequence[str]) -> tuple[float, tuple[int, ...]]:
        """Least seconds of one block of layers that can be shared, and the shares; nothing else is worked out."""
        swept = _Group(self, tuple(places), only=(start, stop))
        return swept.block[start, stop], swept.rows[start, stop]

    def _group(self, places: Sequence[str]) -> _Group:
        key = tuple(places)
        if key not in self._groups:
            if not key or len(set(key)) < len(key):
                raise DataError(f"{', '.join(key) or 'nobody'} is no group; name each place once", "stage of rows")
            if strange := [p for p in key if p not in self.costs.seconds]:
                raise DataError(f"no seconds are known at {', '.join(strange)}; profile them", "stage of rows")
            self._groups[key] = _Group(self, key)
        return self._groups[key]

    # -- tables ------------------------------------------------------------------------------------

    def _step(self, stop: int) -> int:
        return -(-self.costs.model.height(stop) // (self.most_cuts or MOST_CUTS))

    def cuts(self, stop: int) -> np.ndarray:
        """Where the rows of a block that ends before layer ``stop`` may be cut: 0, …, all of them."""
        if stop not in self._cuts:
            height = self.costs.model.height(stop)
            self._cuts[stop] = np.unique([*range(0, height, self._step(stop)), height])
        return self._cuts[stop]

    def tables(self, stop: int) -> list[_Tables]:
        """Of the blocks that end before layer ``stop``, from the last layer alone on, as far as no layer mixes all rows."""
        if stop not in self._tables:
            model, cuts = self.costs.model, self.cuts(stop)
            first, last = cuts[:, None], cuts[None, :] - 1
            some = last >= first
            found = []
            for swept in model.sweep(stop, first, last):
                share = np.broadcast_to(swept.share, some.shape)
                taken = (self.costs.row_bytes[t] * n.count for t, n in swept.enters.items())
                given = np.zeros(some.shape)
                for t in model.leaves(swept.start, stop):
                    a, b = model.owned(t.name, stop, first, last)
                    given = given + self.costs.row_bytes[t.name] * (b - a + 1)
                found.append(_Tables(share, np.broadcast_to(sum(taken), some.shape), np.where(some, given, 0.0)))
            self._tables[stop] = found
        return self._tables[stop]

    def computing(self, stop: int, place: str) -> np.ndarray:
        """C of the blocks that end before layer ``stop`` at a place, shape (depth, cuts, cuts); ∞ where rows end before they begin."""
        if (stop, place) not in self._computing:
            seconds, fixed = self.costs.seconds[place], self.costs.fixed(place)
            cuts = self.cuts(stop)
            beside = (cuts[None, :] > cuts[:, None]) * self.costs.block_s.get(place, 0.0)
            total = beside + np.where(cuts[None, :] >= cuts[:, None], 0.0, np.inf)
            found = []
            for k, table in enumerate(self.tables(stop)):
                v = stop - 1 - k
                total = total + table.share * (seconds[v] - fixed[v]) + (table.share > 0) * fixed[v]
                found.append(total)
            self._computing[stop, place] = np.array(found).reshape(-1, len(cuts), len(cuts))
        return self._computing[stop, place]

    def apart(self, head: str, place: str) -> list[np.ndarray]:
        """Seconds of the rows of another place than the first, its own transfers included, by the layer before which the blocks end.

        For groups no two of whose ways use one resource; shape (depth, cuts, cuts) each. Kept for one first place at a time.
        """
        if any(key[0] != head for key in self._apart):
            self._apart.clear()
        if (head, place) not in self._apart:
            there, back = self.costs.ways.get((head, place)), self.costs.ways.get((place, head))
            found = []
            for stop in range(1, len(self.costs.model.graph) + 1):
                cuts, tables = self.cuts(stop), self.tables(stop)
                some = cuts[None, :] > cuts[:, None]
                seconds = self.computing(stop, place)
                if there is None or back is None:
                    seconds = np.where(some, np.inf, seconds)
                elif tables:
                    into = _busy_s(there, np.array([t.bytes_in for t in tables]))
                    home = _busy_s(back, np.array([t.bytes_out for t in tables]))
                    seconds = seconds + some * (there.delay_s + back.delay_s + into + home)
                found.append(seconds)
            self._apart[head, place] = found
        return self._apart[head, place]


class _Group:
    """The blocks and the stages of one group."""

    def __init__(self, stages: RowStages, places: tuple[str, ...], only: tuple[int, int] | None = None) -> None:
        self.asked, self.costs, self.places = stages, stages.costs, places
        self.serial = tuple(self.costs.shares_one(places, back=back) for back in (False, True))
        self.rows: dict[tuple[int, int], tuple[int, ...]] = {}
        n = len(self.costs.model.graph)
        block = np.full((n + 1, n + 1), np.inf)
        self.block = block
        alone = self.costs.seconds[places[0]]
        if only is not None:
            start, stop = only
            block[start, stop], self.rows[start, stop] = self._block(stop, stop - 1 - start)
            return
        for stop in range(1, n + 1):
            block[stop - 1, stop] = alone[stop - 1]
            if len(places) == 1:
                continue
            for k, (value, rows) in enumerate(self._ending(stop)):
                start = stop - 1 - k
                # A single layer alone is in hand already; more layers alone are single ones, one after the other.
                if value < block[start, stop]:
                    block[start, stop] = value
                    self.rows[start, stop] = rows
        self.stages = _fused(block)

    def _ending(self, stop: int) -> list[tuple[float, tuple[int, ...]]]:
        """Least seconds and shares of the blocks that end before a layer, from that of the last layer alone on."""
        depth = len(self.asked.tables(stop))
        if not depth or any(self.serial):
            return [self._block(stop, k) for k in range(depth)]
        value = self.asked.computing(stop, self.places[0])[:, 0].copy()
        whole = np.cumsum(self.costs.seconds[self.places[0]][:stop][::-1])
        value[:, -1] = whole[:depth]  # all rows: the layers as they are
        came = []
        for place in self.places[1:]:
            reach = np.maximum(value[:, :, None], self.asked.apart(self.places[0], place)[stop - 1])
            came.append(reach.argmin(axis=1))
            value = np.take_along_axis(reach, came[-1][:, None, :], axis=1)[:, 0]
        every = np.arange(depth)
        ends = [np.full(depth, value.shape[1] - 1)]
        for table in reversed(came):
            ends.append(table[every, ends[-1]])
        cuts = self.asked.cuts(stop)[np.array(ends[::-1])]
        rows = np.diff(cuts, axis=0, prepend=0).T.tolist()
        return [(float(v), tuple(r)) for v, r in zip(value[:, -1], rows, strict=True)]

    def _block(self, stop: int, depth: int) -> tuple[float, tuple[int, ...]]:
        """Least seconds of the block of the last ``depth + 1`` layers before ``stop``, and its shares."""
        cuts = self.asked.cuts(stop)
        mine = self.asked.computing(stop, self.places[0])[depth][0].copy()
        mine[-1] = self.costs.seconds[self.places[0]][stop - 1 - depth : stop].sum()  # all rows: the layers as they are
        table = self.asked.tables(stop)[depth]
        some = cuts[None, :] > cuts[:, None]
        own, moved = [], []
        for place in self.places[1:]:
            computing = self.asked.computing(stop, place)[depth]
            there, back = (self.costs.ways.get(e) for e in ((self.places[0], place), (place, self.places[0])))
            if there is None or back is None:
                own.append(np.where(some, np.inf, computing))
                moved.append(np.zeros(some.shape))
                continue
            alone = computing + some * (there.delay_s + back.delay_s)
            added = np.zeros(some.shape)
            for way, carried, serial in zip((there, back), (table.bytes_in, table.bytes_out), self.serial, strict=True):
                busy = some * _busy_s(way, carried)
                if serial:
                    added = added + busy
                else:
                    alone = alone + busy
            own.append(alone)
            moved.append(added)
        if any(self.serial):
            value, at = _serial(mine, own, moved)
        else:
            value, at = _parallel(mine, own)
        ends = cuts[at]
        return value, tuple(int(x) for x in np.diff(ends, prepend=0))


def _busy_s(way: Way, carried: np.ndarray) -> np.ndarray:
    return 8.0 * (carried * way.overhead + way.header_bytes) / way.rate_bps


def _parallel(mine: np.ndarray, own: Sequence[np.ndarray]) -> tuple[float, list[int]]:
    """The least maximum of shares, and where each place's rows end."""
    value, came = mine, []
    for t in own:
        reach = np.maximum(value[:, None], t)
        came.append(reach.argmin(axis=0))
        value = reach[came[-1], np.arange(len(value))]
    return float(value[-1]), _back(came, len(mine) - 1)


def _back(came: Sequence[np.ndarray], end: int) -> list[int]:
    """From where each place's rows came, the ends of all places' rows."""
    ends = [end]
    for table in reversed(came):
        ends.append(int(table[ends[-1]]))
    return ends[::-1]


def _serial(mine: np.ndarray, own: Sequence[np.ndarray], moved: Sequence[np.ndarray]) -> tuple[float, list[int]]:
    """The least max(first place, slowest other + all transfers), and where each place's rows end.

    For a limit M on the others' own seconds, X_M(e) is the least sum of transfers when the first place's rows end at e. X falls as
    M grows, so no M in [low, high] gives less than min_e max(mine(e), low + X_high(e)).
    """
    limits = np.unique(np.concatenate([t[np.isfinite(t)] for t in own]))
    best, at = float(mine[-1]), [len(mine) - 1] * (len(own) + 1)
    waiting = [(0, len(limits) - 1)]
    while waiting:
        low, high = waiting.pop()
        least, ends, slowest = _moved(mine, own, moved, limits[high])
        value = float(np.maximum(mine, slowest + least)[ends[0]]) if ends else np.inf
        bound = float(np.maximum(mine, limits[low] + least).min())
        if value < best:
            best, at = value, ends
        if low < high and bound < best:
            middle = (low + high) // 2
            waiting += [(middle + 1, high), (low, middle)]
    return best, at


def _moved(
    mine: np.ndarray, own: Sequence[np.ndarray], moved: Sequence[np.ndarray], limit: float
) -> tuple[np.ndarray, list[int], float]:
    """X_M by where the first place's rows end; the ends of the best shares, and what their slowest place but the first takes."""
    value = np.full(len(mine), np.inf)
    value[-1] = 0.0
    came = []
    for t, x in zip(reversed(own), reversed(moved), strict=True):
        reach = np.where(t <= limit, x, np.inf) + value[None, :]
        came.append(reach.argmin(axis=1))
        value = reach[np.arange(len(value)), came[-1]]
    start = int(np.maximum(mine, limit + value).argmin())
    if not np.isfinite(value[start]):
        return value, [], np.inf
    ends = [start]
    for table in reversed(came):
        ends.append(int(table[ends[-1]]))
    slowest = max(t[a, b] for t, a, b in zip(own, ends[:-1], ends[1:], strict=True))
    return value, ends, float(slowest)


def _fused(block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """T(i, j), and where its last block begins, from the seconds of every block, shape (n + 1, n + 1)."""
    n = len(block) - 1
    value, before = np.full((n + 1, n + 1), np.inf), np.zeros((n + 1, n + 1), int)
    for i in range(n):
        value[i, i] = 0.0
        for j in range(i + 1, n + 1):
            reach = value[i, i:j] + block[i:j, j]
            a = int(reach.argmin())
            value[i, j], before[i, j] = reach[a], i + a
    np.fill_diagonal(value, np.inf)
    return value, before


def row_stage(
    graph: LayerGraph,
    seconds: Mapping[str, np.ndarray],
    ways: Mapping[tuple[str, str], Way],
    start: int,
    stop: int,
    places: Sequence[str],
) -> RowStage:
    """The best stage of layers ``start:stop`` by these places, in this order; `RowStages` answers many such questions faster.

    Parameters
    ----------
    graph : LayerGraph
        That knows its operators' rows.
    seconds : dict of str to array
        Seconds of each layer at full height by place.
    ways : dict of (str, str) to Way
    """
    return RowStages(RowCosts(RowModel(graph), seconds, ways)).stage(start, stop, places)
