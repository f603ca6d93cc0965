"""Writing: whole or not at all, whatever fails on the way; what stood there before stays."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import splitplan as sp
from splitplan.errors import DataError
from splitplan.models.files import write_whole


@pytest.fixture(params=["graph.json", "plan.json", "system.toml", "profile.csv", "profile.parquet"])
def saved(
    request: pytest.FixtureRequest, diamond: sp.LayerGraph, system: sp.System, diamond_profile: sp.Profile
) -> Any:
    name: str = request.param
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow", reason="the parquet extra is not installed")
    things: dict[str, Any] = {
        "graph": diamond,
        "plan": sp.SplitPlan.for_cut(diamond, {"d"}),
        "system": system,
        "profile": diamond_profile,
    }
    return name, things[name.partition(".")[0]].save


def disk_full(*args: object, **kwargs: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("where", ["write", "rename"])
def test_disk_full_leaves_the_old_file(
    saved: tuple[str, Callable[[Path], None]], tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, save = saved
    path = tmp_path / name
    path.write_text("what stood there before", encoding="utf-8")
    with monkeypatch.context() as patched:
        if where == "write":
            patched.setattr(Path, "write_bytes", disk_full)
        else:
            patched.setattr(os, "replace", disk_full)
        with pytest.raises(DataError, match=r"No space left on device. Nothing was changed") as caught:
            save(path)
    assert caught.value.where == str(path)
    assert path.read_text(encoding="utf-8") == "what stood there before"
    assert list(tmp_path.iterdir()) == [path]


def test_interrupt_leaves_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "f.json", "{}")
    assert list(tmp_path.iterdir()) == []


def test_no_such_folder(saved: tuple[str, Callable[[Path], None]], tmp_path: Path) -> None:
    name, save = saved
    with pytest.raises(DataError, match=r"cannot be written: No such file or directory"):
        save(tmp_path / "none" / name)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full exists on Linux only")
def test_a_device_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The part file becomes a link to /dev/full: the write itself fails in the kernel.
    (tmp_path / f".f.json.{os.getpid()}.part").symlink_to("/dev/full")
    with pytest.raises(DataError, match=r"No space left on device"):
        write_whole(tmp_path / "f.json", "{}" * 10000)
    assert not (tmp_path / "f.json").exists()


def test_replaces_what_was_there_and_keeps_to_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    write_whole(path, "one")
    write_whole(path, "two")
    assert path.read_text(encoding="utf-8") == "two"
    assert stat.S_IMODE(path.stat().st_mode) & 0o600 == 0o600


def test_a_file_of_another_kind_is_told_as_that(saved: Any, tmp_path: Path) -> None:
    name, save = saved
    path = tmp_path / name
    save(path)
    kind = name.partition(".")[0]
    says = {
        "graph": "splitplan.read_graph",
        "plan": r"SplitPlan\.read",
        "profile": r"Profile\.read",
        "system": r"System\.read",
    }
    readers: dict[str, Any] = {"plan": sp.SplitPlan.read, "profile": sp.Profile.read, "traced": sp.load_traced}
    for other, read in readers.items():
        if other != kind:
            with pytest.raises(DataError, match=rf"{says[kind]}|is a 'splitplan\.") as caught:
                read(path)
            assert "damaged" not in str(caught.value)
    damaged = tmp_path / "damaged.csv"
    damaged.write_text('# {"kind": "splitplan.Profile"}\nlayer\n', encoding="utf-8")
    with pytest.raises(DataError, match="line 2 names no column"):
        sp.Profile.read(damaged)
