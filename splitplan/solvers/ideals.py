"""SplitPoint by enumeration of every head: exact for any objective and limit, for graphs with few order ideals."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from splitplan.errors import NotApplicable, SolverError
from splitplan.formulations.base import ROUNDING
from splitplan.formulations.registry import Ladder
from splitplan.formulations.solution import Found, Termination
from splitplan.formulations.split import KEYS
from splitplan.solvers.infeasible import explain

if TYPE_CHECKING:
    from splitplan.formulations.split import SplitPoint
    from splitplan.models.graph import LayerGraph


@dataclass(frozen=True)
class Ideals:
    """Price every head, vectorised.

    A head is an order ideal (a set that holds what feeds its members). A chain of n layers has n + 1; parallel branches
    multiply. With more than ``cap`` the solver steps aside.

    Parameters
    ----------
    cap : int
        Most ideals that it enumerates.
    """

    cap: int = 20_000

    name: ClassVar[str] = "ideals"
    solves: ClassVar[tuple[str, ...]] = ("split-point",)
    rung: ClassVar[Ladder] = Ladder.DYNAMIC_PROGRAM
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if isinstance(self.cap, bool) or not isinstance(self.cap, int) or self.cap < 1:
            raise SolverError(f"cap={self.cap!r}; give a whole number from 1")

    def why_not(self, problem: SplitPoint) -> str | None:
        """Only counting tells; `solve` does."""
        return None

    def solve(self, problem: SplitPoint, *, time_limit_s: float | None, gap: float, verbose: bool) -> Found:
        """Enumerate, price, choose the first of the cheapest; steps aside when the heads are too many for the time."""
        start = time.perf_counter()
        on_server = self.placements(problem, time_limit_s)
        built = time.perf_counter()
        costs = problem.score(on_server) if len(on_server) else {}
        allowed = np.ones(len(on_server), bool)
        for what, limit in problem.limits.values():
            if len(on_server):
                allowed &= costs[KEYS[what]] <= limit * (1 + ROUNDING)
        solved = time.perf_counter()
        left = None if time_limit_s is None else max(0.0, time_limit_s - (solved - start))
        log = f"{len(on_server)} heads, {int(allowed.sum())} within the limits"
        if not allowed.any():
            return Found(
                None,
                Termination.INFEASIBLE,
                conflicts=explain(problem, left),
                log=log,
                build_s=built - start,
                solve_s=solved - built,
            )
        best = int(np.argmin(np.where(allowed, costs["objective"], np.inf)))
        value = float(costs["objective"][best])
        return Found(
            problem.plan_for(on_server[best]),
            Termination.CONVERGED,
            bound=value,
            objective=value,
            bound_by=f"every one of the {len(on_server)} heads was priced",
            solver_version="splitplan",
            build_s=built - start,
            solve_s=solved - built,
            log=log,
        )

    def placements(self, problem: SplitPoint, time_limit_s: float | None = None) -> np.ndarray:
        """Every placement that the pins allow, shape (placements, layers), bool, True on the server.

        Raises
        ------
        NotApplicable
            There are more than ``cap`` heads, or not all were met within the time limit.
        """
        start = time.perf_counter()
        stay, go = problem.pinned
        graph = problem.profile.graph
        found: list[int] = []
        for head in ideals(graph, frozenset(stay), frozenset(go)):
            found.append(head)
            if len(found) > self.cap:
                raise NotApplicable(f"more than {self.cap} heads (order ideals) to enumerate")
            if time_limit_s is not None and time.perf_counter() - start > time_limit_s:
                raise NotApplicable(
                    f"{len(found)} heads (order ideals) were met within {time_limit_s:.3g} s, and there are more"
                )
        return unpacked(found, len(graph))


def ideals(graph: LayerGraph, stay: frozenset[int] = frozenset(), go: frozenset[int] = frozenset()) -> Iterator[int]:
    """Yield each order ideal of the graph once, as a bit mask over layer positions; those with all of ``stay`` and none of ``go``."""
    return closed_sets(len(graph), graph.edges, stay, go)


def closed_sets(
    n: int, edges: Iterable[Sequence[int]], stay: frozenset[int] = frozenset(), go: frozenset[int] = frozenset()
) -> Iterator[int]:
    """Yield each set of 0 … n−1 that is closed under predecessors once, as a bit mask; positions are a topological order.

    Sets that hold all of ``stay`` and none of ``go``. Each set is extended only by members after its last one
    in topological order whose predecessors it holds, so that none is met twice and memory stays that of one path.
    """
    needs = [0] * n
    for v, w in edges:
        needs[int(w)] |= 1 << int(v)
    must = sum(1 << v for v in stay)
    # From the smallest: what must stay, closed downwards already by the problem's pins.
    pending: list[tuple[int, int]] = [(must, 0)]
    while pending:
        head, start = pending.pop()
        yield head
        for v in range(start, n):
            bit = 1 << v
            if not head & bit and v not in go and needs[v] & ~head == 0:
                pending.append((head | bit, v + 1))


def unpacked(heads: Sequence[int], width: int) -> np.ndarray:
    """Bit masks of what stays as placements, shape (heads, width), bool, True on the server."""
    octets = (width + 7) // 8
    raw = np.frombuffer(b"".join(h.to_bytes(octets, "little") for h in heads), np.uint8).reshape(len(heads), octets)
    on_server: np.ndarray = np.unpackbits(raw, axis=1, bitorder="little", count=width) == 0
    return on_server
