"""Tensors as bytes and back: the data types that may cross, and the precision in which floating-point ones do.

A tensor is described by a small mapping (`describe` fills it, `check_description` judges a peer's) and one run of bytes.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import torch

from splitplan.data.plan import Wire
from splitplan.errors import WireError

DTYPES: dict[str, torch.dtype] = {
    name: getattr(torch, name)
    for name in (
        "float64", "float32", "float16", "bfloat16", "complex64", "complex128",
        "int64", "int32", "int16", "int8", "uint8", "bool",
    )
}  # fmt: skip
"""What may cross, by the name in which it is announced."""

MAX_DIMS = 16
MAX_NAME = 1024
MAX_TENSOR_BYTES = 1 << 31
"""More than this in one tensor is refused, by the socket before it is read."""

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_SIZES = {name: torch.empty((), dtype=dtype).element_size() for name, dtype in DTYPES.items()}
_NARROWER = {"fp32": "float32", "fp16": "float16", "int8": "int8"}
_FLOATS = ("float64", "float32", "bfloat16", "float16")
_INT8_STEPS = 255

if sys.byteorder != "little":
    raise ImportError(
        "splitplan's wire carries little-endian tensors as they lie in memory; this machine is big-endian"
    )


def coded_dtype(dtype: str, wire: Wire | None) -> str:
    """The data type in which a tensor of ``dtype`` crosses; agrees with `splitplan.data.plan.wire_bytes`. None: its own."""
    if wire is None:
        return dtype
    target = _NARROWER[wire]
    return target if dtype in _FLOATS and _SIZES[dtype] > _SIZES[target] else dtype


def pack(name: str, tensor: torch.Tensor, wire: Wire | None = None) -> tuple[dict[str, Any], memoryview]:
    """A tensor's description and its bytes. The bytes share the tensor's memory where nothing had to be converted.

    Without ``wire`` it crosses as it is, bit for bit.
    int8 is affine over the tensor's own range: x ≈ (q + 128)·scale + offset, q in −128…127.

    Raises
    ------
    WireError
        For a layout or data type that cannot cross, or values that do not fit the wire's precision.
    """
    dtype = _NAMES.get(tensor.dtype)
    if dtype is None or tensor.layout != torch.strided or tensor.is_quantized:
        raise WireError(
            f"tensor {name!r}: {tensor.dtype} in layout {tensor.layout} cannot cross; "
            f"strided tensors of {', '.join(DTYPES)} can: choose another cut"
        )
    data = tensor.detach().resolve_conj().resolve_neg().cpu()
    coded = coded_dtype(dtype, wire)
    head: dict[str, Any] = {"name": name, "dtype": dtype, "shape": list(data.shape), "coded": coded}
    if coded == "int8" != dtype:
        data, head["scale"], head["offset"] = _quantise(name, data)
    elif coded != dtype:
        narrow = data.to(DTYPES[coded])
        if bool((narrow.isinf() & data.isfinite()).any()):
            raise WireError(
                f"tensor {name!r}: values up to {data.abs().max().item():.3g} do not fit {coded}; use a wider wire"
            )
        data = narrow
    return head, _bytes_of(data)


def _bytes_of(data: torch.Tensor) -> memoryview:
    flat: Any = data.contiguous().reshape(-1).view(torch.uint8).numpy()
    return memoryview(flat)


def _quantise(name: str, data: torch.Tensor) -> tuple[torch.Tensor, float, float]:
    wide = data if data.dtype == torch.float64 else data.to(torch.float32)
    if wide.numel() == 0:
        return wide.to(torch.int8), 1.0, 0.0
    low, high = (v.item() for v in wide.aminmax())
    scale = (high - low) / _INT8_STEPS
    if not math.isfinite(scale):
        raise WireError(f"tensor {name!r}: values from {low} to {high} have no int8 form; use a wider wire")
    scale = scale or 1.0
    steps = ((wide - low) / scale).round_().clamp_(0, _INT8_STEPS)
    return steps.sub_(128).to(torch.int8), scale, low


def check_description(head: object, size_bytes: int) -> None:
    """Raise `WireError` unless a peer's description is one, and of exactly so many bytes."""
    if not isinstance(head, dict):
        raise WireError("a tensor's description is no object")
    name, dtype, coded, shape = (head.get(k) for k in ("name", "dtype", "coded", "shape"))
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
        raise WireError(f"a tensor's name must be text of 1 to {MAX_NAME} characters")
    where = f"tensor {name[:80]!r}"
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise WireError(f"{where}: data type {str(dtype)[:40]!r} is not one of {', '.join(DTYPES)}")
    if coded not in (dtype, *(coded_dtype(dtype, w) for w in ("fp16", "int8")), coded_dtype(dtype, "fp32")):
        raise WireError(f"{where}: {dtype} does not cross as {str(coded)[:40]!r}")
    whole = isinstance(shape, list) and all(type(n) is int and 0 <= n <= MAX_TENSOR_BYTES for n in shape)
    if not isinstance(shape, list) or not whole or len(shape) > MAX_DIMS:
        raise WireError(f"{where}: the shape must be at most {MAX_DIMS} whole numbers from 0 to {MAX_TENSOR_BYTES}")
    # What it will take in memory counts, not only what came: narrow bytes may stand for wide numbers.
    if math.prod(shape) * _SIZES[dtype] > MAX_TENSOR_BYTES:
        raise WireError(f"{where}: is larger than {MAX_TENSOR_BYTES} bytes")
    expected = math.prod(shape) * _SIZES[str(coded)]
    if expected != size_bytes:
        raise WireError(f"{where}: {coded} of shape {shape} is {expected} bytes, {size_bytes} came")
    quantised = coded == "int8" != dtype
    if set(head) != {"name", "dtype", "shape", "coded"} | ({"scale", "offset"} if quantised else set()):
        raise WireError(f"{where}: its description has missing or unknown fields")
    if quantised and not all(type(v) in (int, float) and abs(v) < 1e300 for v in (head["scale"], head["offset"])):
        raise WireError(f"{where}: scale and offset must be finite numbers")


def unpack(head: dict[str, Any], data: memoryview) -> torch.Tensor:
    """The tensor that `check_description` has passed; its memory is its own, and aligned as torch aligns."""
    dtype, coded = DTYPES[head["dtype"]], DTYPES[head["coded"]]
    count = math.prod(head["shape"])
    raw = torch.empty(count, dtype=torch.uint8 if coded == torch.bool else coded)
    if count:
        _bytes_of(raw)[:] = data
    if coded == torch.bool:
        raw = raw != 0  # a byte other than 0 and 1 in a bool tensor is undefined behaviour
    if "scale" in head:
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        raw = raw.to(wide).add_(128).mul_(head["scale"]).add_(head["offset"])
    return raw.to(dtype).reshape(head["shape"])


def copy(tensor: torch.Tensor) -> torch.Tensor:
    """A row-major copy on the CPU. By plain bytes: torch would wake its thread pool, which costs more than it helps."""
    data = tensor.detach().resolve_conj().resolve_neg().cpu()
    made = torch.empty(data.shape, dtype=data.dtype)
    if data.numel():
        _bytes_of(made)[:] = _bytes_of(data)
    return made


def round_trip(tensor: torch.Tensor, wire: Wire) -> torch.Tensor:
    """What arrives when this tensor crosses at this precision."""
    head, data = pack("value", tensor, wire)
    return unpack(head, data)
