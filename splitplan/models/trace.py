"""From a PyTorch model to a `Traced`: exported, made functional, checked against the model itself."""

from __future__ import annotations

import io
import logging
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.func import functional_call
from torch.utils import _pytree as pytree

from splitplan.errors import DataError, TraceError
from splitplan.models.layers import Granularity, check_granularity
from splitplan.models.traced import Traced, first_line, from_program, load_traced, quiet
from splitplan.models.wrapped import exportable

__all__ = ["Traced", "from_program", "load_traced", "trace"]

_MAX_BATCH = 65536


def trace(
    model: nn.Module,
    example: torch.Tensor | tuple[Any, ...] | Mapping[str, Any],
    *,
    granularity: Granularity = "layer",
    dynamic_batch: bool = True,
    name: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> Traced:
    """Read a model's layer graph and a program that can be cut at any of its tensors.

    The model is exported with `torch.export` (non-strict), made functional, and run once beside the
    original on the example (and, with a dynamic batch, on one row of it): what is returned has been seen to
    compute the same. Nothing of the model is changed or copied; the program holds its own tensors.

    `nn.MultiheadAttention` and the Transformer encoder layers have a fused fast path in eager eval mode
    whose rounding differs (about 1e-6). It is switched off here while tracing and comparing: a traced
    model always takes the ordinary path. Call ``torch.backends.mha.set_fastpath_enabled(False)`` to have
    the eager model agree bit for bit.

    Parameters
    ----------
    model : nn.Module
        In eval mode.
    example : Tensor, tuple or mapping of str
        The argument, the positional arguments, or the keyword arguments of ``forward``. Sizes and FLOPs
        are counted at its batch. Arguments that are no tensors are fixed at the value given.
    granularity : {"layer", "operator", "block"}
        How much makes one layer; the rules are in `splitplan.models.merge`.
    dynamic_batch : bool
        Whether dimension 0 may differ from call to call: of every tensor of the example whose dimension 0
        has the size that the first tensor's has. Give a batch of 2 or more where another tensor only
        happens to have 1 there.
    name : str, optional
        The class name if not given.
    progress : callable, optional
        Told what it is at; making the program functional takes longest, several times the export.

    Raises
    ------
    TraceError
        When the model itself fails on the example, or runs but cannot be exported or cut: what stands in the
        way, and the cure.
    DataError
        When the example is none.
    """
    check_granularity(granularity)
    _check_model(model)
    args, kwargs = _call(example)
    batch = _batch_of(args, kwargs)
    with _undisturbed(model), quiet(), torch.no_grad():
        tell = progress or (lambda _: None)
        tell("exporting")
        program = _export(model, args, kwargs, batch if dynamic_batch else None)
        traced = from_program(
            program, granularity=granularity, name=name or type(model).__name__, batch=batch, progress=tell
        )
        if dynamic_batch and "batch" not in traced.exported.symbols:
            raise TraceError(
                f"the model fixes the batch at {batch} (no size in it depends on the batch given). Trace with dynamic_batch=False."
            )
        tell("comparing with the model")
        _compare(model, traced, args, kwargs, batch)
        if dynamic_batch and batch > 1:
            _compare(model, traced, *_rows(args, kwargs, batch, 1), 1)
    return traced


def _check_model(model: object) -> None:
    if isinstance(model, Traced):
        raise TraceError("a Traced was given, which is traced already; use it as it is, or traced.at(granularity)")
    if isinstance(model, type) and issubclass(model, nn.Module):
        raise TraceError(
            f"the class {model.__name__} was given; trace needs a module of it: {model.__name__}(…).eval()"
        )
    if not isinstance(model, nn.Module):
        raise TraceError(f"a {type(model).__name__} was given; trace needs an nn.Module")
    if isinstance(model, torch.jit.ScriptModule):
        raise TraceError("a TorchScript module cannot be exported; give the nn.Module that it was made from")
    training = [path or "the model" for path, module in model.named_modules() if module.training]
    if training:
        some = ", ".join(training[:3]) + (f" and {len(training) - 3} more" if len(training) > 3 else "")
        raise TraceError(f"in train mode: {some}. Call model.eval() first: splitplan plans inference, not training")


def _call(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    if isinstance(example, torch.Tensor):
        args = (example,)
    elif isinstance(example, tuple):
        args = example
    elif isinstance(example, Mapping) and all(isinstance(k, str) for k in example):
        kwargs = dict(example)
    else:
        raise DataError(
            f"the example is a {type(example).__name__}; give a tensor, a tuple of positional arguments or a dict of "
            "keyword arguments (a list as the only argument goes in a tuple: ([…],))"
        )
    if not any(isinstance(leaf, torch.Tensor) for leaf in pytree.tree_leaves((args, kwargs))):
        raise DataError("the example holds no tensor; give the model's inputs")
    return args, kwargs


def _batch_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    sizes = [t.shape[0] for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor) and t.dim()]
    if sizes and sizes[0] < 1:
        raise DataError("the example's batch is 0; give at least one row")
    return int(sizes[0]) if sizes else 1


def _rows(
    args: tuple[Any, ...], kwargs: dict[str, Any], batch: int, wanted: int
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same call with another batch: rows left out, or repeated."""

    def one(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor) and leaf.dim() and leaf.shape[0] == batch:
            kept = leaf[torch.arange(wanted, device=leaf.device) % batch]
            # Indexing loses channels_last, which the exporter would then not see.
            return kept.contiguous(memory_format=torch.channels_last) if _is_channels_last(leaf) else kept
        return leaf

    rows: tuple[tuple[Any, ...], dict[str, Any]] = pytree.tree_map(one, (args, kwargs))
    return rows


def _is_channels_last(tensor: torch.Tensor) -> bool:
    return tensor.dim() == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)


def _export(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], dynamic: int | None) -> ExportedProgram:
    given = args, kwargs
    shapes: Any = None
    if dynamic is not None:
        size = dynamic
        if dynamic == 1:  # the exporter takes a size of 1 for a constant
            args, kwargs = _rows(args, kwargs, 1, 2)
            size = 2
        dim = Dim("batch", min=1, max=_MAX_BATCH)

        def spec(leaf: Any) -> Any:
            return {0: dim} if isinstance(leaf, torch.Tensor) and leaf.dim() and leaf.shape[0] == size else None

        shapes = pytree.tree_map(spec, args or kwargs)
        if not any(isinstance(s, Dim) for s in pytree.tree_leaves(shapes)):
            raise TraceError("no tensor of the example has a batch dimension. Trace with dynamic_batch=False.")
    said = io.StringIO()
    try:
        # When it fails, the exporter prints the graph it had; what the model prints itself is passed on.
        with redirect_stderr(said):
            program = torch.export.export(exportable(model), args, kwargs, dynamic_shapes=shapes, strict=False)
    except Exception as e:  # whatever a model's own code raises while it is traced comes out here
        _eager(model, *given)
        raise TraceError(_why(e, dynamic is not None)) from e
    sys.stderr.write(said.getvalue())
    return program


def _why(error: Exception, dynamic: bool) -> str:
    """The exporter's reason in short, and what to do."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    kind = type(error).__name__
    if "data-dependent" in str(error) or kind.startswith("GuardOnDataDependent"):
        code = next(
            (lines[i + 1] for i, s in enumerate(lines[:-1]) if s.startswith('File "') and "site-packages" not in s), ""
        )
        return (
            "the model decides by the data which operators to run (an `if`, a loop or an index on a tensor's value), so it "
            f"is not one graph: {lines[0]}"
            + (f" At: {code}" if code else "")
            + ". Replace the branch by torch.where or "
            "torch.cond, or trace only the part of the model without it."
        )
    if dynamic and (kind == "UserError" or "onstraint" in str(error)):
        reasons = [line.removeprefix("- ").partition(". ")[0] for line in lines if line.startswith("- ")][:2] or lines[
            :1
        ]
        return f"the model does not run at every batch: {'; '.join(reasons)}. Trace with dynamic_batch=False to fix the batch."
    hint = " Or, if only the batch is in the way, trace with dynamic_batch=False." if dynamic else ""
    return (
        f"torch.export failed ({kind}): {first_line(error)}. Change that step of the model, or trace without it.{hint}"
    )


def _eager(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], only_rows: int | None = None) -> Any:
    """What the model itself returns, its inputs and buffers left as they are; its own failure is told as that."""
    copies = pytree.tree_map(lambda t: t.clone() if isinstance(t, torch.Tensor) else t, (args, kwargs))
    try:
        return functional_call(model, {name: b.clone() for name, b in model.named_buffers()}, *copies)
    except Exception as e:  # a model's own code may raise anything
        what, cure = "this example", "Give what its forward takes; calling the model on the example must work"
        if only_rows is not None:
            what, cure = f"the example at batch {only_rows}", "Trace with dynamic_batch=False to fix the batch"
        raise TraceError(
            f"the model itself, before any tracing, fails on {what} ({_shapes(args, kwargs)}): "
            f"{type(e).__name__}: {first_line(e).rstrip('.')}. {cure}."
        ) from e


def _shapes(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    def one(value: Any) -> str:
        leaves = [t for t in pytree.tree_leaves(value) if isinstance(t, torch.Tensor)]
        told = [f"{str(t.dtype).removeprefix('torch.')} of shape {tuple(t.shape)}" for t in leaves]
        return " and ".join(told) or f"a {type(value).__name__}"

    return ", ".join([*map(one, args), *(f"{name}: {one(value)}" for name, value in kwargs.items())])


def _compare(model: nn.Module, traced: Traced, args: tuple[Any, ...], kwargs: dict[str, Any], batch: int) -> None:
    """Run the model and the program side by side; they must agree but for rounding."""
    expected = pytree.tree_leaves(_eager(model, args, kwargs, only_rows=batch if batch != traced.graph.batch else None))
    try:
        found = pytree.tree_leaves(traced.module()(*args, **kwargs))
    except RuntimeError as e:
        raise TraceError(
            f"the exported program does not run at batch {batch}: {first_line(e)}. Trace with dynamic_batch=False."
        ) from e
    gaps = [(_difference(a, b), _tolerance(a)) for a, b in zip(expected, found, strict=True)]
    if any(gap > allowed for gap, allowed in gaps):
        worst = max(gap for gap, _ in gaps)
        cure = " Trace with dynamic_batch=False." if batch == 1 and "batch" in traced.exported.symbols else ""
        raise TraceError(
            f"at batch {batch} the exported program and the model differ (relative difference {worst:.2g}). The model does "
            "something that an export cannot follow: it branches on the batch size in Python, keeps a counter or another "
            f"state of its own, or draws random numbers. Take that out of forward.{cure}"
        )


def _tolerance(output: Any) -> float:
    """Half the digits of its dtype: rounding grows through a deep network, another computation is far off."""
    floating = isinstance(output, torch.Tensor) and (output.is_floating_point() or output.is_complex())
    return math.sqrt(torch.finfo(output.dtype).eps) if floating else 0.0


def _difference(a: Any, b: Any) -> float:
    """Greatest difference of two outputs relative to the first one's greatest magnitude; inf where they do not compare."""
    if not isinstance(a, torch.Tensor) or not isinstance(b, torch.Tensor):
        return 0.0 if type(a) is type(b) and a == b else math.inf
    if a.shape != b.shape or a.dtype != b.dtype:
        return math.inf
    if a.numel() == 0 or torch.equal(a, b):
        return 0.0
    if not (a.is_floating_point() or a.is_complex()):
        return math.inf
    both_nan = a.isnan() & b.isnan()
    gap = (a - b).abs().masked_fill(both_nan | (a == b), 0).max().item()
    scale = a.nan_to_num(0, 0, 0).abs().max().item()
    return math.inf if math.isnan(gap) else float(gap / max(scale, 1e-30))


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Without the attention fast path and the exporter's log; attributes that tracing leaves on modules are taken back."""
    fast = torch.backends.mha.get_fastpath_enabled()
    logger = logging.getLogger("torch")
    level = logger.level
    before = [(module, dict(vars(module))) for module in model.modules()]
    torch.backends.mha.set_fastpath_enabled(False)
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
        torch.backends.mha.set_fastpath_enabled(fast)
        for module, attributes in before:
            vars(module).clear()
            vars(module).update(attributes)
