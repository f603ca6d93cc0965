"""A model by its name on the command line: ``FILE.pt2``, ``zoo:NAME`` or ``package.module:factory``."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from splitplan.errors import DataError, UnknownNameError

if TYPE_CHECKING:
    from splitplan.models.layers import Granularity
    from splitplan.models.trace import Traced

_FORMS = "FILE.pt2, zoo:NAME or package.module:factory"


def load_model(
    spec: str,
    *,
    example: Any = None,
    granularity: Granularity | None = None,
    dynamic_batch: bool = True,
    batch: int = 1,
) -> Traced:
    """Load or trace the model that ``spec`` names.

    Parameters
    ----------
    spec : str
        A file of `Traced.save` or `torch.export.save`; a model of the zoo; or a function that returns a
        module in eval mode, or a module and an example input. Code and files are trusted.
    example : Tensor, tuple or dict, optional
        For a factory that returns no example, or instead of the zoo's.
    granularity : str, optional
        As saved in the file, else ``"layer"``.
    dynamic_batch : bool
        As in `trace`; a file keeps its own.
    batch : int
        Of the zoo's example, when none is given.

    Raises
    ------
    DataError, UnknownNameError, TraceError, MissingPackageError
        Saying what is wrong with the spec, the file, the factory or the model.
    """
    from splitplan.models.trace import load_traced, trace

    if spec.endswith(".pt2"):
        return load_traced(spec, granularity=granularity)
    kind, colon, rest = spec.partition(":")
    if not colon or not kind or not rest:
        raise DataError(f"is no model; give {_FORMS}", f"model {spec!r}")
    if kind == "zoo":
        from splitplan.models.zoo import zoo, zoo_example

        given = zoo_example(rest, batch=batch) if example is None else example
        return trace(zoo(rest), given, granularity=granularity or "layer", dynamic_batch=dynamic_batch, name=rest)
    made = _factory(spec, kind, rest)()
    if isinstance(made, tuple):
        if len(made) != 2:
            raise DataError(
                f"returned {len(made)} values; return a module, or a module and an example", f"model {spec!r}"
            )
        model, own = made
        example = own if example is None else example
    else:
        model = made
    if example is None:
        raise DataError("returned no example input; return (module, example)", f"model {spec!r}")
    return trace(model, example, granularity=granularity or "layer", dynamic_batch=dynamic_batch, name=rest)


def _factory(spec: str, module: str, name: str) -> Any:
    where = f"model {spec!r}"
    try:
        home = importlib.import_module(module)
    except ModuleNotFoundError as e:
        if e.name is None or not (module == e.name or module.startswith(f"{e.name}.")):
            raise
        raise DataError(
            f"no module {module!r} is found; install it, or put its folder on PYTHONPATH. A model is {_FORMS}", where
        ) from e
    found = getattr(home, name, None)
    if found is None:
        raise UnknownNameError(f"factory in {module}", name, [n for n in vars(home) if not n.startswith("_")])
    if not callable(found):
        raise DataError(f"{name!r} is a {type(found).__name__}; give a function that returns a module", where)
    return found
