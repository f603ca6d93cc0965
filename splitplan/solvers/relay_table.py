"""Every rate of one link of a relay at once: the lower envelope of all placements' costs, by cuts over labels."""

from __future__ import annotations

import numpy as np

from splitplan.data.rate_table import describe_place
from splitplan.data.relay_table import LINK_FIELDS, RelayTable
from splitplan.errors import DataError, SolverError, did_you_mean
from splitplan.formulations.relay import RelaySplit
from splitplan.solvers.envelope import Line, best_lines, envelope
from splitplan.solvers.ishikawa import LabelNetwork


def relay_table(problem: RelaySplit, link: tuple[str, str]) -> RelayTable:
    """Every placement that is best at some uplink rate of one link, and the rates at which the best one changes.

    A placement's cost is a line in λ = 1 / rate, since each tensor crosses the link at most once; the envelope of all lines
    takes about 2H cuts for H of them (`envelope`). The link's own uplink rate plays no part; all other rates are the table's
    for good.

    Parameters
    ----------
    problem : RelaySplit
        Without direct links.
    link : (str, str)
        Two neighbours on its path.

    Returns
    -------
    RelayTable

    Raises
    ------
    SolverError
        The problem has direct links.
    """
    if not isinstance(problem, RelaySplit):
        raise DataError(f"got a {type(problem).__name__}; give a splitplan.RelaySplit", "relay_table")
    if problem.no_cut:
        raise SolverError(f"a table needs cuts: {problem.no_cut}. Solve for each rate, or leave direct out")
    pairs = list(zip(problem.path[:-1], problem.path[1:], strict=True))
    if not isinstance(link, (tuple, list)) or tuple(link) not in pairs:
        known = [f"{a} → {b}" for a, b in pairs]
        named = " → ".join(map(str, link)) if isinstance(link, (tuple, list)) else link
        raise DataError(
            f"link {named!r} is not on the path; give a pair of places, as {pairs[0]!r}; links: {', '.join(known)}{did_you_mean(named, known)}",
            "relay_table",
        )
    arc = pairs.index((link[0], link[1]))
    fixed, per_lambda = problem.price_by_lambda(arc)
    network, costs = LabelNetwork.of(problem), problem.costs

    def totals(labels: np.ndarray) -> np.ndarray:
        return costs.totals(labels, *costs.moves(labels))

    def cut(p: float, q: float) -> tuple[np.ndarray, float]:
        labels, found = network.cut(p * fixed + q * per_lambda)
        return labels, found.value

    def line(labels: np.ndarray) -> Line:
        row = totals(labels[None])[0]
        return float(row @ fixed), float(row @ per_lambda)

    found, solved = envelope(cut, line)
    labels = np.unique(np.array(found), axis=0)
    every = totals(labels)
    kept, breaks = best_lines(list(zip(every @ fixed, every @ per_lambda, strict=True)))
    graph, (near, far) = problem.profile.graph, pairs[arc]
    links = [{k: getattr(problem.system.links[pair], k) for k in LINK_FIELDS} for pair in pairs]
    del links[arc]["rate_up_bps"]
    return RelayTable(
        model=graph.name,
        fingerprint=graph.fingerprint,
        path=problem.path,
        link=(near, far),
        layers=tuple(layer.name for layer in graph.layers),
        labels=labels[kept],
        totals=every[kept],
        breaks_bps=np.array(breaks),
        objective=problem.weights,
        fixed=fixed,
        per_lambda=per_lambda,
        links=tuple(links),
        places={place: describe_place(problem.system, place) for place in problem.path},
        wire=problem.wire,
        result=problem.result,
        clock_hz=costs.clock_hz,
        about={"layers": float(len(graph)), "minimum_cuts": float(solved)},
    )
