"""Compression keeps the optimum at every rate, and is refused where it would lose it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from splitplan.solvers.compress import articulations, compress, dominated, merge_series
from splitplan.solvers.cutgraph import INPUT, CutGraph
from splitplan.solvers.ideals import closed_sets, unpacked

LAMBDAS = np.r_[0.0, np.geomspace(1e-3, 1e3, 121)]


def graph(
    device: list[float], server: list[float], tensors: list[tuple[int, list[int], float]], **changes: object
) -> CutGraph:
    """Tensors as (producer, readers, bits); the last node's is the output, and returns free of charge."""
    n = len(device)
    made = CutGraph(
        device=np.array(device, float),
        server=np.array(server, float),
        stay=np.zeros(n, bool),
        go=np.zeros(n, bool),
        producer=np.array([t[0] for t in tensors]),
        readers=tuple(np.array(t[1], int) for t in tensors),
        bits=np.array([t[2] for t in tensors], float),
        output=np.array([not t[1] for t in tensors]),
        bit=np.array([0.0, 1.0]),
        up_message=np.zeros(2),
        down_message=0.0,
        result_at_server=False,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def cuts(g: CutGraph) -> np.ndarray:
    """Every closed cut within the pins."""
    edges = [(p, int(w)) for p, readers in zip(g.producer, g.readers, strict=True) if p != INPUT for w in readers]
    masks = unpacked(list(closed_sets(len(g), edges)), len(g))
    return masks[~(masks & g.stay).any(axis=1) & ~(~masks & g.go).any(axis=1)]


def least(g: CutGraph) -> np.ndarray:
    """The least cost at each of `LAMBDAS`, by enumeration."""
    lines = np.array([g.line(m) for m in cuts(g)])
    return (lines[:, :1] + LAMBDAS * lines[:, 1:]).min(axis=0)


@st.composite
def graphs(draw: st.DrawFn) -> CutGraph:
    n = draw(st.integers(1, 9))
    number = st.integers(0, 6)
    tensors = []
    read = np.zeros(n, bool)
    for v in range(n):  # everything is fed by the input or by something before
        fed_by = draw(st.lists(st.integers(-1, v - 1), min_size=1, max_size=2, unique=True))
        for p in fed_by:
            mine = [t for t in tensors if t[0] == p]
            if mine and draw(st.booleans()):
                mine[0][1].append(v)
            else:
                tensors.append((p, [v], draw(number)))
            if p >= 0:
                read[p] = True
    tensors += [(v, [], 1) for v in range(n) if not read[v]]  # and leads to an output
    g = graph([draw(number) for _ in range(n)], [draw(number) for _ in range(n)], tensors)
    stay, go = np.zeros(n, bool), np.zeros(n, bool)
    if draw(st.booleans()):
        stay[: draw(st.integers(0, n - 1))] = draw(st.booleans())
    at_server = draw(st.booleans())
    return replace(
        g, stay=stay, go=go, result_at_server=at_server, up_message=np.array([draw(number), draw(number)], float)
    )


@settings(max_examples=300)
@given(graphs())
def test_the_optimum_is_the_same_at_every_rate(g: CutGraph) -> None:
    small = compress(g)
    np.testing.assert_allclose(least(small.graph), least(g), rtol=1e-12, atol=1e-12)
    # And a cut of the small graph is one of the large, with the same line.
    for mask in cuts(small.graph):
        np.testing.assert_allclose(g.line(mask[small.label]), small.graph.line(mask), rtol=1e-12, atol=1e-12)


@settings(max_examples=200)
@given(graphs())
def test_every_cut_is_in_one_block(g: CutGraph) -> None:
    joints = articulations(g)
    for mask in cuts(g):
        for v in joints:
            if not mask[v]:
                assert not mask[:v].any(), "an articulation node on the device, and something before it on the server"


def test_the_lines_after_positions_are_those_of_their_cuts() -> None:
    g = graph(
        [1, 2, 3], [3, 2, 1], [(-1, [0, 2], 5), (0, [1], 2), (1, [2], 4), (2, [], 7)], up_message=np.array([1.0, 2.0])
    )
    for at_server in (False, True):
        h = replace(g, result_at_server=at_server)
        fixed, rising = h.lines_after(np.array([-1, 0, 1, 2]))
        for k, end in enumerate([-1, 0, 1, 2]):
            assert (fixed[k], rising[k]) == h.line(np.arange(3) > end)


def chain(bits: list[float], device: list[float], server: list[float]) -> CutGraph:
    n = len(device)
    return graph(
        device, server, [(-1, [0], bits[0]), *((v, [v + 1], bits[v + 1]) for v in range(n - 1)), (n - 1, [], 1.0)]
    )


def test_a_chain_merges_where_its_tensors_grow() -> None:
    g = chain([4, 8, 2, 3], [5, 5, 5, 5], [1, 1, 1, 1])
    small, label = merge_series(g)
    assert (
        label.tolist() == [0, 0, 1, 1] and len(small) == 2
    )  # after layer 0 (8 ≥ 4) and after layer 2 (3 ≥ 2) no cut pays
    np.testing.assert_allclose(least(small), least(g))


def test_series_merging_is_refused_where_it_would_lose_the_optimum() -> None:
    # Slower on the server: keeping layer 0 here pays although its tensor is larger.
    g = chain([4, 5], [1, 9], [9, 1])
    assert len(merge_series(g)[0]) == 2
    wrong = g.contract(np.array([0, 0]))
    assert (least(wrong) > least(g) + 0.5).any()
    # Pinned to the device.
    g = chain([4, 5], [9, 9], [1, 1])
    assert len(merge_series(g)[0]) == 1
    pinned = replace(g, stay=np.array([True, False]))
    assert len(merge_series(pinned)[0]) == 2
    assert (least(pinned.contract(np.array([0, 0]))) > least(pinned) + 0.5).any()


def diamond(branch_bits: float, server: list[float]) -> CutGraph:
    """Layer 0 feeds 1 and 2, which feed 3."""
    tensors = [(-1, [0], 9.0), (0, [1, 2], 4.0), (1, [3], branch_bits), (2, [3], branch_bits), (3, [], 1.0)]
    return graph([5, 5, 5, 50], server, tensors)


def test_a_block_that_sends_more_inside_than_before_it_is_dominated() -> None:
    g = diamond(2.5, [1, 1, 1, 1])
    assert dominated(g, 0, 3) and len(compress(g).graph) < 4
    np.testing.assert_allclose(least(compress(g).graph), least(g))


def test_domination_is_refused_where_it_would_lose_the_optimum() -> None:
    thin = diamond(1.0, [1, 1, 1, 1])  # 2 inside, 4 before: cuts inside pay
    assert not dominated(thin, 0, 3)
    assert (least(thin.contract(np.array([0, 1, 1, 1]))) > least(thin) + 0.1).any()
    slow = diamond(2.5, [1, 9, 9, 1])  # inside costs more on the server
    assert not dominated(slow, 0, 3)
    assert (least(slow.contract(np.array([0, 1, 1, 1]))) > least(slow) + 0.1).any()


def test_merging_would_lose_the_period_which_therefore_uses_blocks_alone() -> None:
    # Two layers of one second each side: cut between them, each side is busy for one; merged, one side for two.
    g = chain([1, 1], [1, 1], [1, 1])
    assert len(merge_series(g)[0]) == 1
    masks = cuts(g)
    period = [max(g.device[~m].sum(), g.server[m].sum()) for m in masks]
    assert min(period) == 1.0
    merged = g.contract(np.array([0, 0]))
    assert min(max(merged.device[~m].sum(), merged.server[m].sum()) for m in cuts(merged)) == 2.0
