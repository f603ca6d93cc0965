"""splitplan: where to cut a neural network between a device and a server, how good that is, and running it.

The public names, and nothing else. Each is loaded when it is first used, so that ``import splitplan`` is quick and loads
neither torch nor cvxpy, matplotlib or pandas.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from splitplan import errors
    from splitplan.data.catalog import device, device_names, link, link_names
    from splitplan.data.device import Device
    from splitplan.data.link import Link, Radio
    from splitplan.data.plan import SplitPlan
    from splitplan.data.profile import Origin, Profile
    from splitplan.data.system import System
    from splitplan.data.users import AllocationPlan, User
    from splitplan.executor.app import App, deploy
    from splitplan.executor.profiler import profile
    from splitplan.executor.report import Report
    from splitplan.formulations.allocation import RateAllocation
    from splitplan.formulations.solution import Solution, Status, Termination
    from splitplan.formulations.split import SplitPoint
    from splitplan.models.graph import Layer, LayerGraph, Tensor
    from splitplan.models.trace import Traced, load_traced, trace
    from splitplan.models.zoo import zoo, zoo_example, zoo_names
    from splitplan.solvers.convex import Convex
    from splitplan.solvers.highs import Highs, HighsLP
    from splitplan.solvers.ideals import Ideals
    from splitplan.solvers.kkt import KKT
    from splitplan.solvers.mincut import MinCut

    read_graph = LayerGraph.read

_WHERE = {
    "splitplan.data.catalog": ("device", "device_names", "link", "link_names"),
    "splitplan.data.device": ("Device",),
    "splitplan.data.link": ("Link", "Radio"),
    "splitplan.data.plan": ("SplitPlan",),
    "splitplan.data.profile": ("Origin", "Profile"),
    "splitplan.data.system": ("System",),
    "splitplan.data.users": ("AllocationPlan", "User"),
    "splitplan.executor.app": ("App", "deploy"),
    "splitplan.executor.profiler": ("profile",),
    "splitplan.executor.report": ("Report",),
    "splitplan.formulations.allocation": ("RateAllocation",),
    "splitplan.formulations.solution": ("Solution", "Status", "Termination"),
    "splitplan.formulations.split": ("SplitPoint",),
    "splitplan.models.graph": ("Layer", "LayerGraph", "Tensor"),
    "splitplan.models.trace": ("Traced", "load_traced", "trace"),
    "splitplan.models.zoo": ("zoo", "zoo_example", "zoo_names"),
    "splitplan.solvers.convex": ("Convex",),
    "splitplan.solvers.highs": ("Highs", "HighsLP"),
    "splitplan.solvers.ideals": ("Ideals",),
    "splitplan.solvers.kkt": ("KKT",),
    "splitplan.solvers.mincut": ("MinCut",),
}
_HOME = {name: module for module, names in _WHERE.items() for name in names}

__all__ = [
    "KKT",
    "AllocationPlan",
    "App",
    "Convex",
    "Device",
    "Highs",
    "HighsLP",
    "Ideals",
    "Layer",
    "LayerGraph",
    "Link",
    "MinCut",
    "Origin",
    "Profile",
    "Radio",
    "RateAllocation",
    "Report",
    "Solution",
    "SplitPlan",
    "SplitPoint",
    "Status",
    "System",
    "Tensor",
    "Termination",
    "Traced",
    "User",
    "__version__",
    "deploy",
    "device",
    "device_names",
    "errors",
    "link",
    "link_names",
    "load_traced",
    "profile",
    "read_graph",
    "trace",
    "zoo",
    "zoo_example",
    "zoo_names",
]


def __getattr__(name: str) -> Any:
    if name == "errors":
        return import_module("splitplan.errors")
    if name == "read_graph":
        return import_module("splitplan.models.graph").LayerGraph.read
    if name not in _HOME:
        raise AttributeError(f"splitplan has no {name!r}; its public names: {', '.join(__all__)}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
