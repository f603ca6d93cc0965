"""Reads a graph, whatever wrote it: a layer graph or operator graph of ours, or an input of the dnn-partitioning repository."""

from __future__ import annotations

import os
from pathlib import Path

from splitplan.data.import_dnn_partitioning import from_dnn_partitioning, is_dnn_partitioning
from splitplan.data.operators import OperatorGraph
from splitplan.models.files import read_json
from splitplan.models.graph import LayerGraph


def read_graph(path: str | os.PathLike[str]) -> LayerGraph | OperatorGraph:
    """Read a graph, whatever wrote it.

    PipeDream's profiles say nothing of a link, without which they are no operator graph: `read_pipedream` reads them.

    Parameters
    ----------
    path : path-like
        What `LayerGraph.save` or `OperatorGraph.save` wrote, or a dnn-partitioning JSON file (`read_dnn_partitioning` says how
        its units are read).

    Returns
    -------
    LayerGraph or OperatorGraph

    Raises
    ------
    DataError
        With every defect of the file.
    """
    data = read_json(path)
    if is_dnn_partitioning(data):
        return from_dnn_partitioning(data, Path(path).stem, str(path))
    if data.get("kind") == "splitplan.OperatorGraph":
        return OperatorGraph.from_dict(data, str(path))
    return LayerGraph.from_dict(data, str(path))
