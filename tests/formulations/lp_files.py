"""What an LP file states, by a reader that is not ours."""

from __future__ import annotations

from pathlib import Path

import highspy


def least_of_file(path: Path) -> float:
    """The optimum of the model in a file, as HiGHS reads and solves it; in the file's own units."""
    h = highspy.Highs()
    h.setOptionValue("output_flag", False)
    assert h.readModel(str(path)) == highspy.HighsStatus.kOk
    h.run()
    return float(h.getInfo().objective_function_value)
