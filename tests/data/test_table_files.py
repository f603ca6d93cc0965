"""Tables on disk: by the suffix, whole or not at all, no other name."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

import splitplan as sp
from splitplan.errors import DataError
from splitplan.models.files import save_table
from tests.simulator.test_simulate import carried

TABLE = pd.DataFrame({"V": [0.1, 1.0], "name": ["a", "b"]}, index=[5, 7])


def test_by_its_suffix(tmp_path: Path) -> None:
    save_table(TABLE, tmp_path / "t.csv")
    save_table(TABLE, str(tmp_path / "t.parquet"))
    plain = TABLE.reset_index(drop=True)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "t.csv"), plain)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "t.parquet"), plain)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t.csv", "t.parquet"]


@pytest.mark.parametrize("name", ["t.xlsx", "t.json", "t", "t.csv.gz", "t.CSV"])
def test_another_name_is_refused(tmp_path: Path, name: str, diamond_profile: sp.Profile) -> None:
    for save in (lambda path: save_table(TABLE, path), diamond_profile.save):
        with pytest.raises(DataError, match=r"give \.csv or \.parquet"):
            save(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_results_too(tmp_path: Path) -> None:
    control, scene = carried(2, 0.3, 5.0)
    result = sp.simulate(sp.SlotPolicy(control), scene)
    for made in (result, sp.compare([result]), sp.sweep(control, scene, [1e-3])):
        with pytest.raises(DataError, match=r"give \.csv or \.parquet"):
            made.save(tmp_path / "run.xlsx")
    assert not list(tmp_path.iterdir())


def test_who_cannot_write_leaves_what_was_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be written"):
        save_table(TABLE, tmp_path / "none" / "t.parquet")
