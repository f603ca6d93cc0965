"""The house itself: what importing costs, that every public name is there, and that errors survive a process boundary."""

from __future__ import annotations

import inspect
import pickle
import re
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points, metadata
from pathlib import Path

import pytest

import splitplan as sp
from splitplan import errors

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
HEAVY = ("torch", "cvxpy", "matplotlib", "pandas", "pyomo", "highspy", "scipy", "zmq", "transformers", "torchvision")


def loaded_after(code: str) -> set[str]:
    """Top-level modules in a fresh process after ``code``."""
    script = f"{code}\nimport sys; print(*sorted({{m.partition('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd="/")
    return set(done.stdout.split())


def test_import_is_light() -> None:
    assert not loaded_after("import splitplan").intersection(HEAVY)


def test_looking_at_the_names_loads_nothing() -> None:
    assert not loaded_after(
        "import splitplan; dir(splitplan); splitplan.__all__; splitplan.errors.DataError"
    ).intersection(HEAVY)


def test_data_loads_no_torch_and_no_solver() -> None:
    loaded = loaded_after(
        "import splitplan as sp; sp.System, sp.Profile, sp.SplitPlan, sp.LayerGraph; sp.device('this-cpu')"
    )
    assert not loaded.intersection({"torch", "cvxpy", "pyomo", "highspy", "matplotlib", "zmq"})


@pytest.mark.parametrize("name", sp.__all__)
def test_every_public_name_resolves(name: str) -> None:
    value = getattr(sp, name)
    if inspect.isclass(value) or inspect.isfunction(value):
        assert value.__doc__, f"{name} has no docstring"


def test_public_names_are_the_lazy_ones() -> None:
    assert set(dir(sp)) == set(sp.__all__)
    assert sorted(sp.__all__) == sorted({*sp._HOME, "errors", "read_graph", "__version__"})


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(AttributeError, match=r"no 'tracee'.*trace"):
        sp.tracee  # noqa: B018


def test_one_version() -> None:
    assert metadata("splitplan")["Version"] == sp.__version__


@pytest.mark.parametrize("group", ["splitplan.solvers", "splitplan.formulations", "splitplan.audits"])
def test_entry_points_load(group: str) -> None:
    declared = PYPROJECT["project"]["entry-points"][group]
    installed = {e.name: e for e in entry_points(group=group)}
    assert set(declared) <= set(installed), "pyproject changed since the last install: make install"
    for name in declared:
        assert callable(installed[name].load())


def test_package_data_is_there() -> None:
    assert (Path(sp.__file__).parent / "py.typed").exists()


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.lower().replace("_", "-").split("==") for line in lines if line and not line.startswith("#"))


def test_constraints_pin_every_dependency() -> None:
    project = PYPROJECT["project"]
    needed = [*project["dependencies"], *(d for extra in project["optional-dependencies"].values() for d in extra)]
    names = {re.split(r"[\[><=!~; ]", d)[0].lower().replace("_", "-") for d in needed} - {"splitplan"}
    assert names <= set(pinned())


def test_constraints_name_no_build_and_no_place() -> None:
    assert all(re.fullmatch(r"[0-9a-z.]+", version) for version in pinned().values())


def test_every_bound_has_its_reason() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    bounds = [line for line in text.splitlines() if re.match(r'^    "[a-z][a-z0-9._-]*[><=]', line)]
    assert len(bounds) >= 25
    assert not [line for line in bounds if "  # " not in line]


EXAMPLES = {
    "DataError": errors.DataError(["one", "two"], "here"),
    "UnknownNameError": errors.UnknownNameError("device", "phne", ["phone"], "Try phone"),
    "InfeasibleError": errors.InfeasibleError("too tight", ["deadline"]),
}


@pytest.mark.parametrize(
    "name", [n for n, v in vars(errors).items() if inspect.isclass(v) and issubclass(v, Exception)]
)
def test_errors_survive_pickling(name: str) -> None:
    error = EXAMPLES.get(name) or getattr(errors, name)("what and how to mend it")
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert vars(back) == vars(error)


def test_data_error_lists_all() -> None:
    text = str(errors.DataError(["first", "second"], "file.toml"))
    assert text == "file.toml: 2 problems\n  - first\n  - second"
