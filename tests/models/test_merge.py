"""Granularity rules on random graphs: every operator once, no cycle, and no cut lost beyond what is stated."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from splitplan.models.merge import SOURCE, Value, join_blocks, join_cheap


@st.composite
def graphs(draw: st.DrawFn, most: int = 9) -> tuple[list[bool], list[Value]]:
    n = draw(st.integers(1, most))
    cheap = draw(st.lists(st.booleans(), min_size=n, max_size=n))
    readers: dict[int, set[int]] = {i: set() for i in range(-1, n)}
    for i in range(n):
        for p in draw(st.sets(st.integers(-1, i - 1), min_size=1, max_size=3)):
            readers[p].add(i)
    sizes = [draw(st.sampled_from([1.0, 2.0, 4.0])) for _ in range(n + 1)]
    return cheap, [Value(i, frozenset(r), sizes[i], not r) for i, r in readers.items()]


def quotient_order(runs: list[list[int]], values: list[Value]) -> bool:
    """Whether the given order of the runs is topological."""
    at = {m: i for i, run in enumerate(runs) for m in run}
    return all(v.producer == SOURCE or at[v.producer] <= at[r] for v in values for r in v.readers)


def cuts(count: int, values: list[Value]) -> list[frozenset[int]]:
    """Every monotone cut: the device's operators."""
    found = []
    for bits in itertools.product((False, True), repeat=count):
        device = frozenset(i for i, b in enumerate(bits) if b)
        if all(v.producer in device or v.producer == SOURCE for v in values for r in v.readers if r in device):
            found.append(device)
    return found


def crossing(device: frozenset[int], values: list[Value]) -> float:
    return sum(
        v.size_bytes for v in values if (v.producer == SOURCE or v.producer in device) and not v.readers <= device
    )


@settings(max_examples=600)
@given(graphs(most=14))
def test_runs_and_blocks_are_ordered_partitions(graph: tuple[list[bool], list[Value]]) -> None:
    cheap, values = graph
    runs = join_cheap(cheap, values)
    blocks = join_blocks(runs, values)
    for pieces in (runs, blocks):
        assert sorted(m for piece in pieces for m in piece) == list(range(len(cheap)))
        assert quotient_order(pieces, values)
    # Only one operator of a run may be dear, and it is the first.
    assert all(all(cheap[m] for m in run[1:]) for run in runs)
    at = {m: i for i, block in enumerate(blocks) for m in block}
    assert all(len({at[m] for m in run}) == 1 for run in runs)


@settings(max_examples=600)
@given(graphs())
def test_every_lost_cut_has_one_that_sends_no_more(graph: tuple[list[bool], list[Value]]) -> None:
    cheap, values = graph
    runs = join_cheap(cheap, values)
    kept = [device for device in cuts(len(cheap), values) if all(set(r) <= device or not set(r) & device for r in runs)]
    for device in cuts(len(cheap), values):
        torn = [r for r in runs if set(r) & device and not set(r) <= device]
        nearby = [k for k in kept if all(m in {x for r in torn for x in r} for m in k ^ device)]
        assert min(crossing(k, values) for k in nearby) <= crossing(device, values)
        # Only cheap operators change sides.
        best = min(nearby, key=lambda k: crossing(k, values))
        assert all(cheap[m] or m in device for m in best ^ device)


@given(graphs(most=12))
def test_a_block_hears_from_one_place(graph: tuple[list[bool], list[Value]]) -> None:
    cheap, values = graph
    blocks = join_blocks(join_cheap(cheap, values), values)
    for i in range(1, len(blocks)):
        before = {m for block in blocks[:i] for m in block}
        producers = {
            v.producer for v in values if (v.producer in before or v.producer == SOURCE) and not v.readers <= before
        }
        assert SOURCE not in producers
        runs = [run for run in join_cheap(cheap, values) if set(run) & producers]
        assert len(runs) <= 1


def test_a_chain_of_convolution_normalisation_activation() -> None:
    values = [Value(i - 1, frozenset([i]), 4.0) for i in range(6)] + [Value(5, frozenset(), 4.0, True)]
    cheap = [False, True, True, False, True, True]
    assert join_cheap(cheap, values) == [[0, 1, 2], [3, 4, 5]]


def test_a_growing_operator_stays_apart() -> None:
    values = [Value(SOURCE, frozenset([0]), 1.0), Value(0, frozenset([1]), 1.0), Value(1, frozenset(), 2.0, True)]
    assert join_cheap([False, True], values) == [[0], [1]]


def test_a_diamond_of_cheap_operators() -> None:
    # x → a; a → b, c; b, c → d  (b narrow, c as wide as d)
    values = [
        Value(SOURCE, frozenset([0]), 4.0),
        Value(0, frozenset([1, 2]), 4.0),
        Value(1, frozenset([3]), 1.0),
        Value(2, frozenset([3]), 4.0),
        Value(3, frozenset(), 4.0, True),
    ]
    assert join_cheap([False, True, True, True], values) == [[0, 1, 2, 3]]
    # c as narrow as b: cutting behind both sends less than d does
    values[3] = Value(2, frozenset([3]), 1.0)
    assert join_cheap([False, True, True, True], values) == [[0], [1], [2], [3]]
