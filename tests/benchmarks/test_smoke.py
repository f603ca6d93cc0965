"""Every benchmark runs, at its smallest size."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.__main__ import load, main
from benchmarks.registry import ALL
from benchmarks.torch_pipeline import SCHEDULES, SMOKE

load()


@pytest.mark.parametrize("name", list(ALL))
def test_smoke(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--smoke", "--out", str(tmp_path)]) == 0
    text = (tmp_path / f"{name}.md").read_text(encoding="utf-8")
    assert ALL[name].aim in text
    assert text.count("\n| ") >= 2, "the table has no rows"
    assert ALL[name].title in capsys.readouterr().out


def test_the_smoke_run_of_torchs_pipelines_runs_every_schedule() -> None:
    assert SMOKE.together and set(SMOKE.schedules) == set(SCHEDULES), "in one start of torchrun"


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(SystemExit):
        main(["no-such-benchmark"])
