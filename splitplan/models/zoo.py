"""Reference models with made-up but sound weights: no file and no network is ever read for them.

Weights come from a seeded generator by a rule of our own, so that two processes, also on unlike machines,
hold the same model to the last bit; normalisation layers are calibrated and no head is zero, so that
outputs differ from input to input and comparing them means something.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from splitplan.errors import DataError, MissingPackageError, UnknownNameError
from splitplan.models.tiny import TINY


@dataclass(frozen=True)
class _Entry:
    """How to build a model, and what it is given."""

    build: Callable[..., nn.Module]
    shape: tuple[int, ...]
    tokens: int = 0
    """Vocabulary size of a model that takes token ids; 0 for images and features."""
    options: Mapping[str, Any] = field(default_factory=dict)


def zoo(name: str, *, seed: int = 0, **options: Any) -> nn.Module:
    """A model of the zoo, in eval mode.

    Parameters
    ----------
    name : str
        One of `zoo_names`. The ``tiny-…`` models need torch only; image models need ``splitplan[zoo]``,
        language models ``splitplan[transformers]``.
    seed : int
        Of the weights. Another seed is another model, with another fingerprint.
    **options
        For the builder: arguments of torchvision's function (``image_size=32`` for vit_b_16), or fields of
        the transformers config.

    Raises
    ------
    UnknownNameError
        For a name that is not in the zoo; lists those that are.
    MissingPackageError
        Naming the extra that brings what the model needs.
    """
    entry = _entry(name)
    with torch.random.fork_rng(devices=[]), _NoDraws():
        model = entry.build(**{**entry.options, **options})
    model.eval().requires_grad_(False)
    _fill(model, seed)
    _calibrate(model, name, seed)
    return model


def zoo_example(name: str, *, batch: int = 1, seed: int = 0, size: int | None = None) -> torch.Tensor:
    """An input for a model of the zoo.

    Parameters
    ----------
    batch : int
    seed : int
    size : int, optional
        Height and width of an image, or the number of tokens, where it is not the model's usual one.

    Returns
    -------
    Tensor
        Images or features, float32 of shape (batch, …), or token ids, int64 of shape (batch, length).
    """
    entry = _entry(name)
    if batch < 1:
        raise DataError(f"batch is {batch}; give at least 1", f"example of {name!r}")
    shape = entry.shape
    if size is not None:
        if len(shape) == 3:
            shape = (shape[0], size, size)
        elif entry.tokens:
            shape = (size,)
        else:
            raise DataError("takes features of a fixed length; leave out size", f"example of {name!r}")
    generator = torch.Generator().manual_seed(seed)
    if entry.tokens:
        return torch.randint(entry.tokens, (batch, *shape), generator=generator)
    return _uniform((batch, *shape), math.sqrt(3), generator)


def zoo_training(name: str, *, batch: int = 32, seed: int = 0, size: int | None = None) -> tuple[Any, Any, Any]:
    """What it takes to train a model of the zoo on classes of random data: times are those of real data.

    Parameters
    ----------
    name : str
    batch : int
    seed : int
    size : int, optional
        As `zoo_example`'s.

    Returns
    -------
    tuple
        The model in train mode, a mean loss of output and target, and a batch (inputs, classes).

    Raises
    ------
    DataError
        The model makes no classes.
    """
    model = zoo(name).train().requires_grad_(True)
    x = zoo_example(name, batch=batch, seed=seed, size=size)
    with torch.no_grad():
        made = model.eval()(x[:1])
    model.train()
    if not isinstance(made, torch.Tensor) or made.dim() != 2:
        raise DataError("makes no classes of its inputs; give a factory with a loss of its own", f"model 'zoo:{name}'")
    classes = torch.randint(made.shape[1], (batch,), generator=torch.Generator().manual_seed(seed))
    return model, torch.nn.functional.cross_entropy, (x, classes)


def zoo_names(*, tiny: bool | None = None) -> tuple[str, ...]:
    """The models of the zoo; with ``tiny``, only those that are (or are not) made for quick tests."""
    return tuple(n for n in _ZOO if tiny is None or tiny == ("tiny" in n))


def _entry(name: str) -> _Entry:
    if name not in _ZOO:
        raise UnknownNameError("zoo model", name, _ZOO)
    return _ZOO[name]


class _NoDraws(TorchFunctionMode):
    """Skips the random weights that libraries draw while they build: all are drawn anew, and it takes seconds."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in (torch.Tensor.normal_, torch.Tensor.uniform_):
            return args[0]
        if getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


# -- weights -------------------------------------------------------------------------------------------


def _fill(model: nn.Module, seed: int) -> None:
    """Draw every parameter anew.

    Uniform numbers scaled in float32 come out alike on every machine; normal ones go through functions
    (logarithm, cosine) whose last bit does not. The variance is 2/fan-in for matrices and kernels in a
    network of rectifiers, 1/fan-in elsewhere (He et al. 2015), 1 for what embeds tokens or positions.
    """
    generator = torch.Generator().manual_seed(seed)
    gain = 2.0 if any(isinstance(m, (nn.ReLU, nn.ReLU6)) for m in model.modules()) else 1.0
    seen: set[int] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
            parameter.data = _drawn(module, name, parameter, gain, generator)


def _drawn(
    module: nn.Module, name: str, parameter: torch.Tensor, gain: float, generator: torch.Generator
) -> torch.Tensor:
    shape = tuple(parameter.shape)
    if isinstance(module, nn.Embedding) or name in ("class_token", "pos_embedding"):
        return _uniform(shape, 0.5 * math.sqrt(3), generator)
    if parameter.dim() >= 2:
        # transformers' Conv1D keeps (in, out); everything else (out, in, …).
        fan_in = shape[0] if type(module).__name__ == "Conv1D" else math.prod(shape[1:])
        return _uniform(shape, math.sqrt(3 * gain / fan_in), generator)
    drawn = _uniform(shape, 0.1, generator)
    return drawn.add_(1) if name == "weight" else drawn


def _uniform(shape: tuple[int, ...], bound: float, generator: torch.Generator) -> torch.Tensor:
    return torch.rand(shape, generator=generator).mul_(2).sub_(1).mul_(bound)


def _calibrate(model: nn.Module, name: str, seed: int) -> None:
    """Set the statistics of batch normalisation to what one input shows; without, deep networks collapse to 0.

    In double precision and then rounded to 10 bits, so that neither the number of threads nor the machine's
    kernels leave a trace. Other floating buffers (rotary frequencies) are rounded alike.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if norms:
        inputs = zoo_example(name, seed=seed + 1).double()
        momenta = [m.momentum for m in norms]
        model.double()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        with torch.no_grad():
            model(inputs)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        model.float().eval()
    for buffer in model.buffers():
        if buffer.is_floating_point():
            mantissa, exponent = torch.frexp(buffer)
            buffer.copy_(torch.ldexp(torch.round(mantissa * 1024) / 1024, exponent))


# -- where the models come from --------------------------------------------------------------------------

_KEEP: list[torch.library.Library] = []


def _torchvision(name: str) -> Callable[..., nn.Module]:
    def build(**options: Any) -> nn.Module:
        _need("torchvision", "zoo")
        _declare_torchvision_operators()
        models = importlib.import_module("torchvision.models")
        model = models.get_model(name, weights=None, **options)
        assert isinstance(model, nn.Module)
        return model

    return build


def _declare_torchvision_operators() -> None:
    """Let torchvision be imported beside a torch without CUDA.

    Its compiled library is linked against CUDA; where that cannot be loaded, importing torchvision fails on
    operators that it expects to be registered. Their declarations are enough: classification uses none.
    """
    if _KEEP or hasattr(torch.ops.torchvision, "nms"):
        return
    spec = importlib.util.find_spec("torchvision")
    assert spec is not None and spec.submodule_search_locations is not None
    for library in sorted(Path(spec.submodule_search_locations[0]).glob("_C*.so")):
        try:
            torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]
        except OSError:
            continue
        if hasattr(torch.ops.torchvision, "nms"):
            return
    declared = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for operator in ("nms", "qnms"):
        declared.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
    _KEEP.append(declared)


class Logits(nn.Module):
    """A language model as a function of token ids alone: its logits, no cache, no output object."""

    def __init__(self, model: nn.Module, **call: Any) -> None:
        super().__init__()
        self.model = model
        self.call = call

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:  # noqa: D102
        logits: torch.Tensor = self.model(input_ids=input_ids, return_dict=False, **self.call)[0]
        return logits


def _transformers(config: str, model: str, **call: Any) -> Callable[..., nn.Module]:
    def build(**options: Any) -> nn.Module:
        _need("transformers", "transformers")
        if importlib.util.find_spec("torchvision") is not None:
            _declare_torchvision_operators()  # transformers imports torchvision where it is installed
        library = importlib.import_module("transformers")
        return Logits(getattr(library, model)(getattr(library, config)(**options)), **call)

    return build


def _need(package: str, extra: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise MissingPackageError(f"this model needs {package}; install it with: pip install 'splitplan[{extra}]'")


_IMAGE = (3, 224, 224)
_BERT = _transformers("BertConfig", "BertForSequenceClassification")
_GPT2 = _transformers("GPT2Config", "GPT2LMHeadModel", use_cache=False, logits_to_keep=1)
_LLAMA = _transformers("LlamaConfig", "LlamaForCausalLM", use_cache=False, logits_to_keep=1)
_PLAIN = {"aux_logits": False, "init_weights": False, "transform_input": False}

_ZOO: dict[str, _Entry] = {
    "alexnet": _Entry(_torchvision("alexnet"), _IMAGE),
    "vgg11": _Entry(_torchvision("vgg11"), _IMAGE, options={"init_weights": False}),
    "vgg16": _Entry(_torchvision("vgg16"), _IMAGE, options={"init_weights": False}),
    "resnet18": _Entry(_torchvision("resnet18"), _IMAGE),
    "resnet50": _Entry(_torchvision("resnet50"), _IMAGE),
    "mobilenet_v2": _Entry(_torchvision("mobilenet_v2"), _IMAGE),
    "googlenet": _Entry(_torchvision("googlenet"), _IMAGE, options=_PLAIN),
    "inception_v3": _Entry(_torchvision("inception_v3"), (3, 299, 299), options=_PLAIN),
    "efficientnet_b0": _Entry(_torchvision("efficientnet_b0"), _IMAGE),
    "densenet121": _Entry(_torchvision("densenet121"), _IMAGE),
    "vit_b_16": _Entry(_torchvision("vit_b_16"), _IMAGE),
    "bert": _Entry(_BERT, (128,), tokens=30522),
    "gpt2": _Entry(_GPT2, (128,), tokens=50257),
    "llama": _Entry(
        _LLAMA,
        (128,),
        tokens=32000,
        options={
            "hidden_size": 768,
            "intermediate_size": 2048,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "num_key_value_heads": 4,
        },
    ),
    "bert-tiny": _Entry(
        _BERT,
        (16,),
        tokens=512,
        options={
            "vocab_size": 512,
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 128,
        },
    ),
    "gpt2-tiny": _Entry(
        _GPT2,
        (16,),
        tokens=512,
        options={"vocab_size": 512, "n_embd": 64, "n_layer": 2, "n_head": 4, "bos_token_id": 0, "eos_token_id": 0},
    ),
    "llama-tiny": _Entry(
        _LLAMA,
        (16,),
        tokens=512,
        options={
            "vocab_size": 512,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
        },
    ),
    **{name: _Entry(build, shape) for name, (build, shape) in TINY.items()},
}
