"""Parts of a traced model: what one place runs without waiting for another, as a callable on named tensors.

Values cross between parts by name, row-major; numbers (batch sizes and what is computed from them) never
cross: each part works them out from the symbols. Nodes that depend on no data are repeated in each part
that needs them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import fx

from splitplan.errors import BoundaryError, DataError, raise_all
from splitplan.models.assemble import assemble, numbers_read
from splitplan.models.exported import Exported, expression
from splitplan.models.graph import INPUT, LayerGraph
from splitplan.models.traced import Traced


@dataclass(frozen=True, slots=True)
class ValueSpec:
    """What a tensor at a part's boundary must be: row-major, of this dtype and shape.

    Parameters
    ----------
    name : str
        As in ``graph.tensors``.
    dtype : str
        As ``"float32"``.
    shape : tuple of int or str
        A string is an expression of the symbols, as ``"batch"``.
    is_output : bool
        Whether the model returns it.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    is_output: bool = False
    dims: tuple[Any, ...] = field(default=(), repr=False, compare=False)
    strides: tuple[Any, ...] = field(default=(), repr=False, compare=False)
    exported: Exported | None = field(default=None, repr=False, compare=False)

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype as torch names it."""
        found = getattr(torch, self.dtype)
        assert isinstance(found, torch.dtype)
        return found

    def concrete(self, symbols: Mapping[str, int]) -> tuple[int, ...]:
        """The shape for given symbols, as ``{"batch": 3}``."""
        if self.exported is None:
            return tuple(int(d) for d in self.shape)
        return tuple(int(self.exported.value(d, symbols)) for d in self.dims)

    def layout(self, symbols: Mapping[str, int]) -> tuple[int, ...] | None:
        """The strides that the tensor has in the unsplit model; None where it is row-major there too."""
        if self.exported is None:
            return None
        strides = tuple(int(self.exported.value(d, symbols)) for d in self.strides)
        step = 1
        plain = True
        for size, stride in zip(reversed(self.concrete(symbols)), reversed(strides), strict=True):
            plain &= size == 1 or stride == step
            step *= size
        return None if plain else strides


def names(specs: Iterable[ValueSpec]) -> tuple[str, ...]:
    """The names of values, in order."""
    return tuple(spec.name for spec in specs)


def validate(spec: ValueSpec, tensor: object, symbols: Mapping[str, int], device: torch.device | None = None) -> None:
    """Check one value at a boundary.

    Raises
    ------
    BoundaryError
        When it is no tensor, or has another dtype, shape, layout or device than the part was built for.
    """
    _validate(spec, tensor, spec.concrete(symbols), device)


def _validate(spec: ValueSpec, tensor: object, shape: tuple[int, ...], device: torch.device | None) -> None:
    if not isinstance(tensor, torch.Tensor):
        raise BoundaryError(f"value {spec.name!r} is a {type(tensor).__name__}; a tensor is expected")
    found = f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"
    if tensor.dtype is not spec.torch_dtype or tuple(tensor.shape) != shape:
        raise BoundaryError(f"value {spec.name!r} is {found}; this part takes {spec.dtype} of shape {shape}")
    if not tensor.is_contiguous():
        raise BoundaryError(
            f"value {spec.name!r} ({found}) is not row-major (strides {tensor.stride()}); call .contiguous()"
        )
    if device is not None and tensor.device != device:
        raise BoundaryError(
            f"value {spec.name!r} is on {tensor.device}; this part runs on {device}: move it with .to()"
        )


def lay_out(tensor: torch.Tensor, strides: Sequence[int]) -> torch.Tensor:
    """A copy with the given strides, gaps and repetitions included.

    Kernels choose their algorithm by the layout, so results agree with the unsplit model's to the last bit only
    when a value lies in memory as it does there.
    """
    once = tensor
    for dim, stride in enumerate(strides):
        if stride == 0:
            once = once.narrow(dim, 0, 1)
    laid = torch.empty_strided(once.shape, strides, dtype=tensor.dtype, device=tensor.device)
    return laid.copy_(once).expand(tensor.shape)


@dataclass(frozen=True, slots=True)
class _Sizes:
    """What the symbols of one call mean for a part."""

    shapes: tuple[tuple[int, ...], ...]
    layouts: tuple[tuple[int, ...] | None, ...]
    numbers: tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class Part:
    """One piece of a model that runs in one place.

    Call it with tensors by name, best under `torch.inference_mode`. It returns its outputs by name, row-major.

    Attributes
    ----------
    place : str
    layers : tuple of str
        In the order in which they run.
    inputs, outputs : tuple of ValueSpec
    module : GraphModule
        Holds the weights that these layers read, and no others. On the device of the traced model they are
        that model's own memory.
    device : torch.device
    """

    place: str
    layers: tuple[str, ...]
    inputs: tuple[ValueSpec, ...]
    outputs: tuple[ValueSpec, ...]
    module: fx.GraphModule
    device: torch.device
    traced: Traced = field(repr=False)
    numbers: tuple[fx.Node, ...] = field(repr=False, default=())
    _known: dict[tuple[tuple[str, int], ...], _Sizes] = field(repr=False, default_factory=dict)

    def __call__(self, values: Mapping[str, torch.Tensor], symbols: Mapping[str, int]) -> dict[str, torch.Tensor]:
        """Run it.

        Parameters
        ----------
        values : mapping of str to Tensor
            At least this part's inputs; others are ignored.
        symbols : mapping of str to int
            As from `Traced.symbols`; empty for a model traced at a fixed batch.

        Raises
        ------
        BoundaryError
            When an input is missing or is not what ``inputs`` says.
        """
        with torch.no_grad():
            made = self.module(*self.arguments(values, symbols))
        return {spec.name: value for spec, value in zip(self.outputs, made, strict=True)}

    def arguments(self, values: Mapping[str, torch.Tensor], symbols: Mapping[str, int]) -> list[Any]:
        """Checked positional arguments of ``module``, laid out in memory as in the unsplit model."""
        sizes = self._sizes(symbols)
        found: list[Any] = []
        for spec, shape, strides in zip(self.inputs, sizes.shapes, sizes.layouts, strict=True):
            value = values.get(spec.name)
            if value is None:
                wanted = ", ".join(names(self.inputs))
                raise BoundaryError(f"value {spec.name!r} is missing; the part on {self.place!r} takes {wanted}")
            _validate(spec, value, shape, self.device)
            found.append(value if strides is None else lay_out(value, strides))
        found.extend(sizes.numbers)
        return found

    def _sizes(self, symbols: Mapping[str, int]) -> _Sizes:
        key = tuple(symbols.items())
        if key not in self._known:
            exported = self.traced.exported
            missing = [f"symbol {s!r} is missing" for s in exported.symbols if s not in symbols]
            if missing:
                raise BoundaryError(f"{'; '.join(missing)}: give what Traced.symbols(inputs) returns")
            if len(self._known) >= 256:
                self._known.clear()
            self._known[key] = _Sizes(
                tuple(spec.concrete(symbols) for spec in self.inputs),
                tuple(spec.layout(symbols) for spec in self.inputs),
                tuple(exported.value(expression(n.meta["val"]), symbols) for n in self.numbers),
            )
        return self._known[key]

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights that it carries."""
        return sum(w.numel() * w.element_size() for w in (*self.module.parameters(), *self.module.buffers()))

    def to(self, device: str | torch.device) -> Part:
        """The same part on another device, with its own weights copied there; this one stays where it is."""
        target = _device(device)
        if target == self.device:
            return self
        takes, gives = names(self.inputs), names(self.outputs)
        module = assemble(self.traced, self.layers, takes, gives, self.numbers, target)
        return replace(self, module=module, device=target, _known={})

    def __repr__(self) -> str:
        first, last = self.layers[0], self.layers[-1]
        span = first if len(self.layers) == 1 else f"{first} … {last} ({len(self.layers)} layers)"
        takes, gives = ", ".join(names(self.inputs)), ", ".join(names(self.outputs))
        return f"Part({self.place!r} on {self.device}: {span}; {takes} → {gives})"


def _device(device: str | torch.device) -> torch.device:
    try:
        found = torch.device(device)
        # "cuda" and "cuda:0" are one device but do not compare equal; a tensor names it in full.
        return torch.empty(0, device=found).device
    except (RuntimeError, AssertionError) as e:
        raise DataError(f"torch has no device {str(device)!r} here: {str(e).splitlines()[0]}") from e


def make_parts(traced: Traced, placement: Mapping[str, str]) -> tuple[Part, ...]:
    """Cut a model into parts: as few and as large as running each in one go allows.

    Layers are taken in topological order, place by place: first the place that can run all it has left
    without hearing from another (else the one that can run most), as far as it can. So a device-to-server
    cut gives one head and one tail, and a placement that goes back and forth gives a part for each leg.
    A part's inputs are made by earlier parts (or are the model's), so running them in order is always right.

    Parameters
    ----------
    placement : mapping of str to str
        The place of every layer of ``traced.graph``.

    Returns
    -------
    tuple of Part
        On the device of the traced weights.

    Raises
    ------
    DataError
        When a layer has no place, or a name is no layer.
    """
    graph = traced.graph
    problems = [f"layer {x.name!r} has no place; give each layer one" for x in graph.layers if x.name not in placement]
    problems += [
        f"{name!r} is no layer of it (granularity {traced.granularity!r})"
        for name in placement
        if name not in graph.index
    ]
    raise_all(problems, f"placement of {graph.name!r}")
    device = next((t.device for t in traced.exported.tensors.values()), torch.device("cpu"))
    return tuple(_part(traced, placement[layers[0]], layers, device) for layers in segments(graph, placement))


def make_part(traced: Traced, layers: Sequence[str], place: str) -> Part:
    """Only the part of these layers, which run in one go; in the graph's execution order. See `make_parts`."""
    device = next((t.device for t in traced.exported.tensors.values()), torch.device("cpu"))
    return _part(traced, place, tuple(layers), device)


def whole(traced: Traced, place: str = "device") -> Part:
    """The model in one part."""
    (part,) = make_parts(traced, {layer.name: place for layer in traced.graph.layers})
    return part


def segments(graph: LayerGraph, placement: Mapping[str, str]) -> list[tuple[str, ...]]:
    """The layers of each part, in the order in which the parts run; see `make_parts`."""
    reads: dict[str, set[str]] = {layer.name: set() for layer in graph.layers}
    for t in graph.tensors:
        if t.producer != INPUT:
            for c in t.consumers:
                reads[c].add(t.producer)
    left: dict[str, list[str]] = {}
    for layer in graph.layers:
        left.setdefault(placement[layer.name], []).append(layer.name)
    done: set[str] = set()
    found: list[tuple[str, ...]] = []
    while left:
        ready: dict[str, list[str]] = {}
        for place, layers in left.items():
            reached = set(done)
            ready[place] = []
            for name in layers:
                if reads[name] <= reached:
                    reached.add(name)
                    ready[place].append(name)
        place = max(left, key=lambda p: (len(ready[p]) == len(left[p]), len(ready[p])))
        found.append(tuple(ready[place]))
        done.update(ready[place])
        left[place] = [name for name in left[place] if name not in done]
        if not left[place]:
            del left[place]
    return found


def run_parts(
    parts: Iterable[Part], values: Mapping[str, torch.Tensor], symbols: Mapping[str, int]
) -> dict[str, torch.Tensor]:
    """Run parts one after another in this process: inputs by name in, every value that crosses or is returned out."""
    known = dict(values)
    with torch.inference_mode():
        for part in parts:
            here = {s.name: known[s.name].to(part.device) for s in part.inputs}
            known.update(part(here, symbols))
    return known


def _part(traced: Traced, place: str, layers: tuple[str, ...], device: torch.device) -> Part:
    inside = set(layers)
    exported = traced.exported

    def spec(name: str) -> ValueSpec:
        node = exported.by_name[name]
        dims = exported.shape(node)
        tensor = tensors[name]
        return ValueSpec(
            name,
            tensor.dtype,
            tuple(map(exported.text, dims)),
            tensor.is_output,
            dims,
            exported.strides(node),
            exported,
        )

    tensors = {t.name: t for t in traced.graph.tensors}
    inputs = tuple(
        spec(t.name) for t in tensors.values() if t.producer not in inside and any(c in inside for c in t.consumers)
    )
    outputs = tuple(
        spec(t.name)
        for t in tensors.values()
        if t.producer in inside and (t.is_output or any(c not in inside for c in t.consumers))
    )
    takes, gives = names(inputs), names(outputs)
    numbers = numbers_read(traced, layers, gives)
    module = assemble(traced, layers, takes, gives, numbers, device)
    return Part(place, layers, inputs, outputs, module, device, traced, numbers)
