"""Arrivals: kinds that are known, times of one's own; scenarios that end after their channel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import splitplan as sp
from splitplan.data.channel import constant
from splitplan.errors import DataError


@pytest.mark.parametrize("kind", ["gamma", "times", None, ["poisson"]])
def test_an_unknown_kind_is_told_with_the_known_ones(kind: object) -> None:
    with pytest.raises(
        DataError, match="is no kind of arrivals; give 'poisson', 'periodic', 'bursty', 'recorded'"
    ) as told:
        sp.Arrivals(kind)  # type: ignore[arg-type]
    assert len(told.value.problems) == 1


def test_a_kind_that_is_nearly_right_is_told() -> None:
    with pytest.raises(DataError, match="did you mean 'poisson'"):
        sp.Arrivals("poison", 1.0)  # type: ignore[arg-type]


def test_recorded_times(tmp_path: Path) -> None:
    times = [0.25, 1.0, 1.0, 7.5]
    assert sp.recorded(times) == sp.Arrivals("recorded", times_s=tuple(times))
    path = tmp_path / "frames.csv"
    for text in ("0.25\n1\n1.0\n7.5\n", "arrive_s,latency_s\n0.25,1\n1,inf\n\n1.0,\n7.5,2\n"):
        path.write_text(text, encoding="utf-8")
        np.testing.assert_array_equal(sp.recorded(path).times(10.0), times)
    np.testing.assert_array_equal(sp.recorded(path).times(5.0), times[:3])


def test_recorded_times_that_are_wrong(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="times_s is "):
        sp.recorded(["soon"])  # type: ignore[list-item]
    with pytest.raises(DataError, match="ascending"):
        sp.recorded([2.0, 1.0])
    with pytest.raises(DataError, match=r"none\.csv: cannot be read"):
        sp.recorded(tmp_path / "none.csv")
    (tmp_path / "t.csv").write_text("1\nx\ny\n", encoding="utf-8")
    with pytest.raises(DataError, match="t.csv: 2 problems") as told:
        sp.recorded(tmp_path / "t.csv")
    assert told.value.problems[1] == "line 3: 'y' is no number of seconds"
    (tmp_path / "t.csv").write_text("2\n1\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"t\.csv: line 2: 1 s is before 2 s of a line above"):
        sp.recorded(tmp_path / "t.csv")


def test_a_camera_gives_each_slot_its_frame() -> None:
    """0.3/0.1 is a little less than 3, and 0.3 s is the fourth slot all the same."""
    for slot_s in (0.1, 0.05, 0.02, 1 / 30):
        slotted = sp.Scenario(sp.periodic(1 / slot_s), constant(1e6), slots=1000).slotted(slot_s)
        assert (slotted.frames == 1).all(), slot_s
        assert (np.floor(slotted.arrive_s / slot_s + 1e-6) == np.arange(1000)).all()
