"""A model by its name on the command line: ``FILE.pt2``, ``zoo:NAME`` or ``package.module:factory``."""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from splitplan.errors import DataError, SplitplanError, UnknownNameError

if TYPE_CHECKING:
    from splitplan.models.layers import Granularity
    from splitplan.models.trace import Traced

_FORMS = "FILE.pt2, zoo:NAME or package.module:factory"
_CONTRACT = "a factory is called without arguments and returns (module, example)"


def load_model(
    spec: str,
    *,
    example: Any = None,
    granularity: Granularity | None = None,
    dynamic_batch: bool = True,
    batch: int = 1,
    progress: Callable[[str], None] | None = None,
) -> Traced:
    """Load or trace the model that ``spec`` names.

    Parameters
    ----------
    spec : str
        A file of `Traced.save` or `torch.export.save`; a model of the zoo; or a function that is called without arguments
        and returns a module in eval mode and an example input (the module alone, when ``example`` is given). Its module
        is looked for in the current directory too, as ``python -m`` does. Code and files are trusted.
    example : Tensor, tuple or dict, optional
        For a factory that returns no example, or instead of the zoo's.
    granularity : str, optional
        As saved in the file, else ``"layer"``.
    dynamic_batch : bool
        As in `trace`; a file keeps its own.
    batch : int
        Of the zoo's example, when none is given.
    progress : callable, optional
        Told what it is at.

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
        return trace(
            zoo(rest),
            given,
            granularity=granularity or "layer",
            dynamic_batch=dynamic_batch,
            name=rest,
            progress=progress,
        )
    made = call_factory(spec)
    if isinstance(made, tuple):
        if len(made) != 2:
            raise DataError(f"returned {len(made)} values; {_CONTRACT}", f"model {spec!r}")
        model, own = made
        example = own if example is None else example
    else:
        model = made
    if example is None:
        raise DataError(f"returned no example input; {_CONTRACT}", f"model {spec!r}")
    return trace(model, example, granularity=granularity or "layer", dynamic_batch=dynamic_batch, progress=progress)


def call_factory(spec: str) -> Any:
    """What a function named as ``package.module:factory`` returns.

    Raises
    ------
    DataError, UnknownNameError
        Saying what is wrong with the spec or the factory.
    """
    module, colon, name = spec.partition(":")
    if not colon or not module or not name:
        raise DataError(f"is no model; give {_FORMS}", f"model {spec!r}")
    return _call(_factory(spec, module, name), spec)


def _factory(spec: str, module: str, name: str) -> Any:
    where = f"model {spec!r}"
    if module.endswith(".py"):
        dotted = module.removesuffix(".py").removeprefix("./").replace("/", ".")
        raise DataError(
            f"names a file; give its module, as {dotted}:{name}, from the directory that it is found in", where
        )
    # A console script's path starts with its own directory; the user's modules lie where the user is.
    if not sys.flags.safe_path and not {"", str(Path.cwd())} & set(sys.path):
        sys.path.insert(0, str(Path.cwd()))
    try:
        home = importlib.import_module(module)
    except ModuleNotFoundError as e:
        if e.name is None or not (module == e.name or module.startswith(f"{e.name}.")):
            raise _theirs(e, f"importing {module!r} failed", where) from e
        raise DataError(
            f"no module {module!r} is found in {Path.cwd()} or among what is installed; go to its directory, install it, or put "
            f"its folder on PYTHONPATH. A model is {_FORMS}",
            where,
        ) from e
    except Exception as e:  # the module's own code may raise anything
        raise _theirs(e, f"importing {module!r} failed", where) from e
    found = getattr(home, name, None)
    if found is None:
        raise UnknownNameError(
            f"factory in {module}", name, [n for n, v in vars(home).items() if callable(v) and not n.startswith("_")]
        )
    if not callable(found) or _is_module(found):
        raise DataError(f"{name!r} is a {type(found).__name__}; {_CONTRACT}: def make(): return {name}, example", where)
    return found


def _call(factory: Any, spec: str) -> Any:
    where = f"model {spec!r}"
    try:
        inspect.signature(factory).bind()
    except TypeError as e:
        raise DataError(f"cannot be called without arguments ({e}); {_CONTRACT}", where) from e
    except ValueError:  # a callable written in C, which does not tell its arguments
        pass
    try:
        return factory()
    except SplitplanError:
        raise
    except Exception as e:  # the factory's own code may raise anything
        raise _theirs(e, "the factory failed", where) from e


def _theirs(error: Exception, what: str, where: str) -> DataError:
    """An error of the user's code, with its traceback from where that code begins."""
    steps = traceback.TracebackException.from_exception(error)
    inside = [f for f in steps.stack if f.filename != __file__ and "importlib" not in f.filename]
    steps.stack = traceback.StackSummary.from_list(inside)
    return DataError(f"{what}:\n{''.join(steps.format()).rstrip()}", where)


def _is_module(found: object) -> bool:
    from torch import nn

    return isinstance(found, nn.Module)
