"""Reads the JSON of the dnn-partitioning inputs ("Efficient Algorithms for Device Placement of DNN Graph Operators", NeurIPS 2020)."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from splitplan.data.operators import Operator, OperatorGraph
from splitplan.errors import DataError, raise_all
from splitplan.models.files import read_json
from splitplan.models.graph import number_problem

MS = 1e-3
"""Seconds of a file's unit of time."""

SAME_COST = 1e-6
"""Two costs of one output may differ by as many ms before they contradict each other: the published program's tolerance."""


def is_dnn_partitioning(data: Mapping[str, Any]) -> bool:
    """Whether a JSON object looks like one of these inputs."""
    return {"nodes", "edges"} <= set(data) and "kind" not in data


def read_dnn_partitioning(path: str | os.PathLike[str]) -> OperatorGraph:
    """Read an input of the dnn-partitioning repository; every defect of the file is reported at once.

    ======================================= ===========================================================================
    in the file                             here
    ======================================= ===========================================================================
    ``maxFPGAs``, ``maxCPUs``               ``accelerators``, ``cpus`` ("FPGA" is the file's word for any accelerator)
    ``maxSizePerFPGA`` bytes                ``accelerator_bytes``
    ``id``                                  ``name``, as text; ``name`` is kept as ``label``
    ``fpgaLatency``, ``cpuLatency`` ms      ``accelerator_s`` (None unless ``supportedOnFpga``), ``cpu_s``
    ``size`` bytes (0 when missing)         ``memory_bytes``
    ``colorClass`` (optional)               ``colour``
    ``isBackwardNode``                      ``backward``
    an edge's ``cost`` ms                   ``output_s`` of its source; the same on all edges of a source
    an edge's ``size``                      not read: where it contradicts ``cost``, the cost counts
    ======================================= ===========================================================================

    In the published ``throughput-inputs/LayerGraphs`` the costs were written in seconds although all times are in ms, so that
    moving data is almost free there. They are read as they stand, as ms, so that results compare with published ones.
    An edge that is listed twice counts once.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    OperatorGraph

    Raises
    ------
    DataError
        With every defect.
    """
    return from_dnn_partitioning(read_json(path), Path(path).stem, str(path))


def from_dnn_partitioning(data: Mapping[str, Any], name: str, where: str) -> OperatorGraph:
    """The same of an object that was read already."""
    problems = [
        f"has no {key!r}" for key in ("maxSizePerFPGA", "maxFPGAs", "maxCPUs", "nodes", "edges") if key not in data
    ]
    problems += [
        f"{key} is {data[key]!r}; give a whole number from 0"
        for key in ("maxFPGAs", "maxCPUs")
        if key in data and whole(data[key], 0) is None
    ]
    if "maxSizePerFPGA" in data and (bad := number_problem("maxSizePerFPGA", data["maxSizePerFPGA"])):
        problems.append(bad)
    problems += [
        f"{key} is a {type(data[key]).__name__}; give a list"
        for key in ("nodes", "edges")
        if key in data and not isinstance(data[key], list)
    ]
    nodes = data["nodes"] if isinstance(data.get("nodes"), list) else []
    edges = data["edges"] if isinstance(data.get("edges"), list) else []
    ids, more = _ids(nodes)
    problems += more
    pairs, cost, more = _edges(edges, ids)
    problems += more
    operators = [_operator(node, k, cost, problems) for k, node in enumerate(nodes) if isinstance(node, Mapping)]
    raise_all(problems, where)
    try:
        return OperatorGraph(
            name,
            tuple(o for o in operators if o is not None),
            tuple(pairs),
            int(data["maxFPGAs"]),
            int(data["maxCPUs"]),
            float(data["maxSizePerFPGA"]),
        )
    except DataError as e:
        raise DataError(e.problems, where) from e


def whole(value: object, least: int | None = None) -> int | None:
    """A whole number (2.0 counts as one), or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return int(value) if value == int(value) and (least is None or value >= least) else None


def _ids(nodes: list[Any]) -> tuple[set[int], list[str]]:
    problems = [] if nodes else ["nodes is empty; give at least one"]
    ids: set[int] = set()
    for k, node in enumerate(nodes):
        if not isinstance(node, Mapping):
            problems.append(f"nodes[{k}] is a {type(node).__name__}; give an object")
        elif "id" not in node:
            problems.append(f"nodes[{k}] has no 'id'")
        elif (number := whole(node["id"])) is None:
            problems.append(f"nodes[{k}].id is {node['id']!r}; give a whole number")
        elif number in ids:
            problems.append(f"nodes[{k}].id {number} is another node's too; ids must be unique")
        else:
            ids.add(number)
    return ids, problems


def _operator(node: Mapping[str, Any], k: int, cost: Mapping[int, float], problems: list[str]) -> Operator | None:
    where = f"node {node.get('id', f'number {k}')}"
    found: dict[str, float] = {}
    for key, optional in (("fpgaLatency", False), ("cpuLatency", False), ("size", True)):
        if key not in node:
            found[key] = 0.0
            problems += [f"{where} has no {key!r}"] * (not optional)
        elif bad := number_problem(f"{where}: {key}", node[key]):
            problems.append(bad)
        else:
            found[key] = float(node[key])
    flags: dict[str, bool] = {}
    for key in ("supportedOnFpga", "isBackwardNode"):
        if key not in node:
            problems.append(f"{where} has no {key!r}")
        elif isinstance(node[key], bool) or whole(node[key]) in (0, 1):
            flags[key] = bool(node[key])
        else:
            problems.append(f"{where}: {key} is {node[key]!r}; give true, false, 1 or 0")
    colour = node.get("colorClass")
    if colour is not None and whole(colour) is None:
        problems.append(f"{where}: colorClass is {colour!r}; give a whole number, or leave it out")
    number = whole(node.get("id"))
    if len(found) < 3 or len(flags) < 2 or number is None:
        return None
    return Operator(
        name=str(number),
        accelerator_s=found["fpgaLatency"] * MS if flags["supportedOnFpga"] else None,
        cpu_s=found["cpuLatency"] * MS,
        output_s=cost.get(number, 0.0) * MS,
        memory_bytes=found["size"],
        colour="" if colour is None else str(whole(colour)),
        backward=flags["isBackwardNode"],
        label=str(node.get("name", "")),
    )


def _edges(edges: list[Any], ids: set[int]) -> tuple[list[tuple[str, str]], dict[int, float], list[str]]:
    """The pairs in order, each once; the cost of each source's output; what is wrong."""
    pairs: dict[tuple[str, str], None] = {}
    cost: dict[int, float] = {}
    problems: list[str] = []
    contradicted: set[int] = set()
    for k, edge in enumerate(edges):
        if not isinstance(edge, Mapping):
            problems.append(f"edges[{k}] is a {type(edge).__name__}; give an object")
            continue
        ends: list[int] = []
        for key in ("sourceId", "destId"):
            end = whole(edge.get(key))
            if key not in edge:
                problems.append(f"edges[{k}] has no {key!r}")
            elif end is None or end not in ids:
                problems.append(f"edges[{k}].{key} is {edge[key]!r}, and there is no such node")
            else:
                ends.append(end)
        if "cost" not in edge:
            problems.append(f"edges[{k}] has no 'cost'")
            continue
        if bad := number_problem(f"edges[{k}].cost", edge["cost"]):
            problems.append(bad)
            continue
        if len(ends) < 2:
            continue
        source, value = ends[0], float(edge["cost"])
        pairs[str(source), str(ends[1])] = None
        if abs(cost.setdefault(source, value) - value) > SAME_COST and source not in contradicted:
            contradicted.add(source)
            problems.append(
                f"edges[{k}]: moving the output of node {source} costs {value:g} ms here and {cost[source]:g} ms on an edge before; "
                "an output has one cost"
            )
    return list(pairs), cost, problems
