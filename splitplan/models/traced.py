"""A traced model: its exported program, its layer graph, its fingerprint, and the way in and out of it."""

from __future__ import annotations

import html
import json
import os
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from splitplan.errors import DataError, FingerprintError, TraceError
from splitplan.models.call import Call
from splitplan.models.exported import Exported
from splitplan.models.files import check_schema, is_instead
from splitplan.models.fingerprint import fingerprint
from splitplan.models.graph import LayerGraph
from splitplan.models.layers import Granularity, build_graph, check_granularity
from splitplan.models.measure import run_fake
from splitplan.models.wrapped import refuse_taken

_SIDE_FILE = "splitplan.json"
_KIND, _SCHEMA = "splitplan.Traced", 1


class Traced:
    """A model ready to be planned for, cut and run. Made by `trace` or `load_traced`; never changed.

    Attributes
    ----------
    name : str
    graph : LayerGraph
        Sizes and FLOPs are those of the example's batch.
    granularity : str
        ``"operator"``, ``"layer"`` or ``"block"``.
    program : ExportedProgram
        Functional. Its weights are the model's own tensors, not copies.
    fingerprint : str
        Hex; of structure and weights.
    """

    def __init__(
        self,
        exported: Exported,
        graph: LayerGraph,
        granularity: Granularity,
    ) -> None:
        self.exported = exported
        self.program: ExportedProgram = exported.program
        self.graph = graph
        self.granularity: Granularity = granularity
        self.name = graph.name
        self.fingerprint = graph.fingerprint
        self._call = Call(exported, graph.name)

    # -- in and out ------------------------------------------------------------------------------

    def flatten(self, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        """The tensors of a call by name, checked against what was traced; every defect is named.

        Takes what the model's ``forward`` takes, by position or by keyword. Tensors come back row-major.

        Raises
        ------
        DataError
            For a missing, surplus or misplaced argument, a wrong shape or dtype, or another constant
            than the one that was traced.
        """
        return self._call.flatten(args, kwargs)

    def symbols(self, values: Mapping[str, torch.Tensor]) -> dict[str, int]:
        """The sizes that these inputs fix, as ``{"batch": 3}``; empty for a model traced at a fixed batch.

        Parameters
        ----------
        values : mapping of str to Tensor
            As from `flatten`.

        Raises
        ------
        DataError
            When two inputs disagree or a size lies outside what was exported.
        """
        return self._call.symbols(values)

    def unflatten(self, outputs: Mapping[str, torch.Tensor], symbols: Mapping[str, int] | None = None) -> Any:
        """The model's own output structure, from its output tensors by name.

        Parameters
        ----------
        outputs : mapping of str to Tensor
            One for each of ``graph.outputs``; others are ignored. An input that the model hands through
            goes by the input's name.
        symbols : mapping of str to int, optional
            Needed only by a model that returns sizes besides tensors.

        Raises
        ------
        DataError
            When an output is missing, or ``symbols`` where they are needed.
        """
        return self._call.unflatten(outputs, symbols)

    def example_inputs(self, batch: int | None = None) -> dict[str, torch.Tensor]:
        """Tensors to run it on, by name: the example of the trace, its rows repeated to ``batch``.

        Raises
        ------
        DataError
            For another batch than the example's when the batch is fixed, or a batch below 1.
        """
        batch = self.graph.batch if batch is None else batch
        if batch < 1:
            raise DataError(f"batch is {batch}; give at least 1", self.name)
        if "batch" not in self.exported.symbols and batch != self.graph.batch:
            raise DataError(f"batch is {batch}, but it was traced at the fixed batch {self.graph.batch}", self.name)
        given = self.program.example_inputs
        if given is None:
            raise DataError("the program was exported without example inputs; give inputs of your own", self.name)
        values = {}
        for (name, fixed), leaf in zip(self.exported.flat_inputs, pytree.tree_leaves(given), strict=True):
            if fixed is None:
                wanted = self.exported.shape(self.exported.inputs[name])
                value = leaf.detach()
                if wanted and self.exported.symbols.get("batch") == wanted[0]:
                    value = value[torch.arange(batch) % len(value)]
                values[name] = value.contiguous()
        return values

    def example_call(self, batch: int | None = None) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The example of the trace as one calls the model with it: ``args, kwargs``, at its own batch or at ``batch``.

        ``program.example_inputs`` may have another batch: the exporter needs two rows to see that they are free.
        """
        return self._call.nest(self.example_inputs(batch))

    def module(self) -> fx.GraphModule:
        """The whole model as a GraphModule that takes what ``forward`` takes; made once."""
        return self._module

    @cached_property
    def _module(self) -> fx.GraphModule:
        with quiet():
            return self.program.module(check_guards=False)

    # -- other views -----------------------------------------------------------------------------

    def at(self, granularity: Granularity) -> Traced:
        """The same model with other layers."""
        check_granularity(granularity)
        if granularity == self.granularity:
            return self
        facts = run_fake(self.exported, self._example_symbols())
        graph = build_graph(self.exported, facts, granularity, self.name, self.fingerprint, self.graph.batch)
        return Traced(self.exported, graph, granularity)

    def _example_symbols(self) -> dict[str, int]:
        return self.symbols(self.example_inputs()) if self.exported.symbols else {}

    # -- on disk ---------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a ``.pt2`` file, whole or not at all: the exported program with our layer graph beside it.

        `torch.export.load` reads it too. Load such files from people you trust only: torch's loader can
        run code that a file brings.
        """
        target = Path(path)
        if target.suffix != ".pt2":
            raise DataError("the name of a traced model ends in .pt2; rename it", str(target))
        side = {
            "kind": _KIND,
            "schema": _SCHEMA,
            "granularity": self.granularity,
            "graph": self.graph.to_dict(),
        }
        try:
            with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as beside, quiet():
                whole = Path(beside, "model.pt2")
                torch.export.save(self.program, whole, extra_files={_SIDE_FILE: json.dumps(side)})
                os.replace(whole, target)
        except OSError as e:
            raise DataError(f"cannot be written: {e.strerror}. Nothing was changed there", str(target)) from e

    def __reduce__(self) -> NoReturn:
        raise DataError(
            "a traced model is not pickled; write it with .save(path) and read it with load_traced(path)", self.name
        )

    def __repr__(self) -> str:
        sizes = "dynamic batch" if "batch" in self.exported.symbols else f"fixed batch {self.graph.batch}"
        return f"Traced({self.graph!r}, {self.granularity} granularity, {sizes}, fingerprint {self.fingerprint[:12]})"

    def _repr_html_(self) -> str:
        return f"<p><code>{html.escape(repr(self))}</code></p>{self.graph._repr_html_()}"


def load_traced(
    path: str | os.PathLike[str], *, granularity: Granularity | None = None, name: str | None = None
) -> Traced:
    """Read what `Traced.save` wrote, or any ``.pt2`` of `torch.export.save`.

    Parameters
    ----------
    path : path
        A file of this host that you trust as you trust code: torch's loader can run code from it.
    granularity : str, optional
        As saved, or ``"layer"`` for a file that splitplan did not write.
    name : str, optional
        As saved, or the file's name.

    Raises
    ------
    DataError
        When the file cannot be read, is damaged or is no exported program.
    FingerprintError
        When the weights or the structure are not those that were saved.
    """
    source = Path(path)
    program, text = _read(source)
    if text is None:
        return from_program(program, granularity=granularity or "layer", name=name or source.stem)
    try:
        side = json.loads(text)
    except json.JSONDecodeError as e:
        raise DataError(f"its {_SIDE_FILE} is not valid JSON ({e}); save the model again", str(source)) from e
    check_schema(side, _KIND, _SCHEMA, str(source))
    exported = Exported(program)
    graph = LayerGraph.from_dict(side["graph"], str(source))
    found = fingerprint(exported)
    if found != graph.fingerprint:
        raise FingerprintError(
            f"{source}: the model's fingerprint is {found[:12]}, but {graph.fingerprint[:12]} was saved; the file was "
            "altered, or another torch reads it differently. Trace and save it again."
        )
    if name is not None:
        graph = LayerGraph(name, graph.layers, graph.tensors, graph.parameter_bytes, found, graph.batch, graph.rows)
    traced = Traced(exported, graph, side["granularity"])
    return traced if granularity is None else traced.at(granularity)


def _read(source: Path) -> tuple[ExportedProgram, str | None]:
    try:
        with zipfile.ZipFile(source) as archive:
            ours = any(entry.endswith(f"/{_SIDE_FILE}") for entry in archive.namelist())
    except OSError as e:
        raise DataError(f"cannot be read: {e.strerror}", str(source)) from e
    except zipfile.BadZipFile as e:
        other = is_instead(source, of="a traced model")
        raise DataError(other or "is no .pt2 file, or is cut short; save the model again", str(source)) from e
    extra = {_SIDE_FILE: ""} if ours else {}
    try:
        with quiet():
            program = torch.export.load(source, extra_files=extra)
    except Exception as e:  # torch raises a dozen kinds for a damaged archive; each means the same to the user
        raise DataError(
            f"torch cannot load it ({type(e).__name__}: {first_line(e)}); save the model again", str(source)
        ) from e
    return program, extra.get(_SIDE_FILE)


def from_program(
    program: ExportedProgram,
    *,
    granularity: Granularity = "layer",
    name: str = "model",
    batch: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> Traced:
    """Make a `Traced` of an exported program of your own (inference, exported from a model in eval mode).

    Parameters
    ----------
    program : ExportedProgram
        Made functional here if it is not.
    batch : int, optional
        The batch at which sizes are counted; the example's if not given.
    progress : callable, optional
        Told what it is at.
    """
    check_granularity(granularity)
    refuse_taken(program)
    tell = progress or (lambda _: None)
    tell("making it functional")
    with quiet():
        functional = program.run_decompositions({})
    exported = Exported(functional)
    symbols = {text: _example_size(exported, text) for text in exported.symbols}
    if batch is not None and "batch" in symbols:
        symbols["batch"] = batch
    tell("counting sizes and work")
    facts = run_fake(exported, symbols)
    if "batch" in symbols:
        # A size that the exporter took for a constant shows here, and 1 is where that happens.
        low, high = exported.range_of(exported.symbols["batch"])
        for size in {1, 3} - {symbols["batch"]}:
            if low <= size and (high is None or size <= high):
                run_fake(exported, symbols | {"batch": size})
    leading = [facts.values[n].shape[0] for n in exported.inputs.values() if facts.values[n].dim()]
    at = symbols.get("batch", leading[0] if leading else 1)
    graph = build_graph(exported, facts, granularity, name, fingerprint(exported), at)
    return Traced(exported, graph, granularity)


def _example_size(exported: Exported, text: str) -> int:
    for node in exported.inputs.values():
        for i, d in enumerate(exported.shape(node)):
            if d == exported.symbols[text]:
                return int(node.meta["val"].shape[i].node.hint)
    raise TraceError(f"no input gives the size {text!r}; export the model again with its example inputs")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep back the deprecation warnings that torch's exporter raises about its own code."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module=r"torch\.")
        # It takes such attributes back; whether the model leans on them is seen when it is compared.
        warnings.filterwarnings("ignore", message="The tensor attribute", category=UserWarning)
        yield


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
