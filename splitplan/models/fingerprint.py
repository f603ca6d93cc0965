"""A model's fingerprint: one hash over what it computes and with which weights."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from splitplan.models.exported import Exported


def fingerprint(exported: Exported) -> str:
    """SHA-256 over the structure and the bytes of the weights, as hex.

    The structure is taken by the positions of nodes, never by names, so that it outlives saving and
    loading and does not depend on the process; dead nodes and assertions do not count. Weights count by
    dtype, shape and content. Which inputs are given by position and
    which by keyword, and the structure of what comes back, count too. The batch of the example, the granularity and the model's
    name do not.
    """
    hashes: dict[str, str] = {}

    def of_weight(name: str) -> str:
        if name not in hashes:
            hashes[name] = hash_tensor(exported.tensors[name])
        return hashes[name]

    number = {node: f"input{i}" for i, node in enumerate(exported.inputs.values())}
    number |= {node: f"node{i}" for i, node in enumerate(exported.live)}

    def text(value: Any) -> str:
        if isinstance(value, fx.Node):
            if value in exported.weights:
                return f"weight {of_weight(exported.weights[value])}"
            if value.op == "get_attr":
                return f"graph {getattr(exported.program.graph_module, str(value.target)).code}"
            return number.get(value) or f"fixed {value.meta.get('val')!r}"
        if isinstance(value, (list, tuple)):
            return f"[{', '.join(map(text, value))}]"
        if isinstance(value, dict):
            return f"{{{', '.join(f'{k}: {text(v)}' for k, v in sorted(value.items()))}}}"
        if isinstance(value, slice):
            return f"slice({text(value.start)}, {text(value.stop)}, {text(value.step)})"
        return f"{type(value).__name__} {value!r}"

    whole = hashlib.sha256(b"splitplan fingerprint 1\n")
    for name, fixed in exported.flat_inputs:
        if fixed is not None:
            whole.update(f"constant {fixed.value!r}\n".encode())
        else:
            node = exported.inputs[name]
            shape = [exported.text(d) for d in exported.shape(node)]
            whole.update(f"input {shape} {node.meta['val'].dtype}\n".encode())
    for node in exported.live:
        arguments = "; ".join([*map(text, node.args), *(f"{k}={text(v)}" for k, v in sorted(node.kwargs.items()))])
        whole.update(f"{_operator(node.target)}({arguments})\n".encode())
    whole.update(f"returns {text(exported.results)}\n".encode())
    for spec in (exported.program.call_spec.in_spec, exported.program.call_spec.out_spec):
        whole.update(f"{pytree.treespec_dumps(spec)}\n".encode())
    return whole.hexdigest()


def _operator(target: Any) -> str:
    """An operator's name; never a repr, which may hold an address."""
    if isinstance(target, torch._ops.OpOverload):
        return f"{target._schema.name}.{target._overloadname}"
    if isinstance(target, torch._ops.HigherOrderOperator):
        return str(target._name)
    return f"{getattr(target, '__module__', '')}.{getattr(target, '__name__', type(target).__name__)}"


def hash_tensor(tensor: torch.Tensor) -> str:
    """SHA-256 over a tensor's dtype, shape and content, whatever its memory layout or device."""
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
    plain = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    digest.update(plain.view(torch.uint8).numpy().data)
    return digest.hexdigest()
