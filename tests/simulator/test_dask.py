"""A sweep on a Dask cluster: a user's client serves it by the name of joblib's backend, and its rows are the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

import splitplan as sp
from tests.simulator.test_simulate import carried

distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def client() -> Iterator[object]:
    """Workers of this process: what is tested is the way there, not Dask's processes."""
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as cluster,
        distributed.Client(cluster) as made,
    ):
        yield made


def test_a_sweep_on_dask_has_the_same_rows(client: object, tmp_path: Path) -> None:
    case = carried(3, 0.5, 60.0)
    here = sp.sweep(*case, [1e-4, 1e-2, 1.0], seeds=[1, 2])
    there = sp.sweep(*case, [1e-4, 1e-2, 1.0], seeds=[1, 2], backend="dask", jobs=2, folder=tmp_path)
    pd.testing.assert_frame_equal(there.to_frame(), here.to_frame())
    assert len(list(tmp_path.glob("*.json"))) == 6
    again = sp.sweep(*case, [1e-4, 1e-2, 1.0], seeds=[1, 2], folder=tmp_path)
    pd.testing.assert_frame_equal(again.to_frame(), here.to_frame())


def test_the_work_was_done_by_dask(client: object) -> None:
    case = carried(3, 0.5, 10.0)
    with distributed.get_task_stream(client) as stream:
        sp.sweep(*case, [1e-3, 1e-2], backend="dask", jobs=2)
    assert len(stream.data) >= 2
