"""The README's Python runs as it stands: here with a small network in ResNet-50's place, marked slow with the real one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def run(code: str, folder: Path) -> str:
    script = folder / "readme.py"
    script.write_text(code, encoding="utf-8")
    command = [sys.executable, "-W", "error::FutureWarning", str(script)]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=folder, env=os.environ | {"SMOKE_TEST": "1"}, timeout=280
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_readme_has_code_that_fits_its_promise() -> None:
    assert len(BLOCKS) == 3
    lines = [line for line in BLOCKS[0].splitlines() if line.strip()]
    assert len(lines) <= 20


@pytest.mark.parametrize("block", range(len(BLOCKS)))
def test_blocks_run(block: int, tmp_path: Path) -> None:
    shown = run(BLOCKS[block].replace("resnet50", "tiny-branch"), tmp_path)
    assert "audited by" in shown
    if block == 0:
        assert "never run on cuda" in shown or "cuda" in shown
        assert "measured" in shown


@pytest.mark.slow
@pytest.mark.skipif(find_spec("torchvision") is None, reason="the zoo extra is not installed")
@pytest.mark.parametrize("block", range(len(BLOCKS)))
def test_blocks_run_with_the_real_network(block: int, tmp_path: Path) -> None:
    assert "audited by" in run(BLOCKS[block], tmp_path)
