"""Round trips of every data type and precision, and a decoder that any bytes leave standing."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from splitplan.data.plan import wire_bytes
from splitplan.errors import WireError
from splitplan.executor import wire
from splitplan.executor.codec import DTYPES, MAX_TENSOR_BYTES, round_trip

FRAME = {"plan_id": "p", "frame_id": 7, "symbols": {"batch": 3}, "check": False}


def frame(tensors: dict[str, torch.Tensor], precision: Any = "fp32") -> list[Any]:
    return wire.encode("frame", FRAME, wire.pack_all(tensors, precision))


def tensor_of(dtype: torch.dtype, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    if dtype == torch.bool:
        return torch.rand(shape, generator=generator) < 0.5
    if dtype.is_floating_point or dtype.is_complex:
        return (torch.randn(shape, generator=generator) * 3).to(dtype)
    return torch.randint(0, 100, shape, generator=generator).to(dtype)


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from(sorted(DTYPES)),
    st.lists(st.integers(0, 5), max_size=4),
    st.sampled_from(["fp32", "fp16", "int8"]),
    st.integers(0, 2**31),
    st.booleans(),
)
def test_round_trip(dtype: str, shape: list[int], precision: Any, seed: int, transposed: bool) -> None:
    value = tensor_of(DTYPES[dtype], tuple(shape), seed)
    if transposed:
        value = value.permute(tuple(reversed(range(value.dim()))))
    parts = frame({"x": value}, precision)
    assert memoryview(parts[1]).nbytes == wire_bytes(value.numel() * value.element_size(), dtype, precision)
    message = wire.decode([bytes(p) for p in parts])
    got = message.tensors["x"]
    assert message.kind == "frame" and message.body == FRAME
    assert got.dtype == value.dtype and got.shape == value.shape and got.is_contiguous()
    width = {"fp32": 4, "fp16": 2, "int8": 1}[precision]
    if not value.dtype.is_floating_point or value.element_size() <= width:
        assert torch.equal(got, value)
    elif value.numel():
        span = float(value.double().max() - value.double().min()) or 1.0
        # half a step of 255, or half a unit in the last place; the result is rounded to its own type once more
        step = {"fp32": 1e-6, "fp16": 1e-3, "int8": 0.5 / 255}[precision] * span
        ulp = torch.finfo(value.dtype).eps * float(value.double().abs().max())
        assert float((got.double() - value.double()).abs().max()) <= step * 1.01 + 2 * ulp + 1e-3 * span * (
            precision == "fp16"
        )


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_without_a_precision_all_crosses_bit_for_bit(dtype: str) -> None:
    value = tensor_of(DTYPES[dtype], (4, 3), 1) / 3 if dtype == "float64" else tensor_of(DTYPES[dtype], (4, 3), 1)
    got = wire.decode(wire.encode("frame", FRAME, wire.pack_all({"x": value}))).tensors["x"]
    assert got.dtype == value.dtype and torch.equal(got, value)


def test_int8_keeps_the_ends_and_constants() -> None:
    value = torch.tensor([-1.0, 0.25, 3.0])
    got = round_trip(value, "int8")
    assert got[0] == -1.0 and abs(float(got[2]) - 3.0) < 1e-6
    assert torch.equal(round_trip(torch.full((4,), 2.5), "int8"), torch.full((4,), 2.5))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_int8_refuses_what_has_no_scale(bad: float) -> None:
    with pytest.raises(WireError, match=r"'x'.*wider wire"):
        frame({"x": torch.tensor([1.0, bad])}, "int8")


def test_fp16_refuses_to_overflow_but_carries_infinities() -> None:
    with pytest.raises(WireError, match=r"1e\+05.*do not fit float16"):
        frame({"x": torch.tensor([1e5])}, "fp16")
    assert torch.equal(round_trip(torch.tensor([float("inf"), 1.0]), "fp16"), torch.tensor([float("inf"), 1.0]))


def test_conjugates_and_foreign_layouts() -> None:
    value = torch.randn(3, dtype=torch.complex64).conj()
    assert torch.equal(wire.decode(frame({"x": value})).tensors["x"], value)
    with pytest.raises(WireError, match=r"'x'.*cannot cross"):
        frame({"x": torch.eye(3).to_sparse()})


def test_bytes_of_a_bool_are_made_true_or_false() -> None:
    parts = frame({"x": torch.tensor([True, False])})
    parts[1] = bytes([7, 0])
    assert wire.decode(parts).tensors["x"].tolist() == [True, False]


def header(**changes: Any) -> bytes:
    text = {"v": wire.VERSION, "kind": "frame", "body": FRAME, "tensors": [head()]}
    return json.dumps({**text, **changes}).encode()


def head(**changes: Any) -> dict[str, Any]:
    return {"name": "x", "dtype": "float32", "shape": [2], "coded": "float32", **changes}


DATA = bytes(8)


def follow(**changes: Any) -> bytes:
    body = {"times_s": [0, 1.0], "rates_bps": [1e6], "elapsed_s": 0.0, **changes}
    return json.dumps({"v": wire.VERSION, "kind": "follow", "body": body, "tensors": []}).encode()


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ([], "empty"),
        ([b""], "no JSON"),
        ([b"[]"], "no JSON object"),
        ([b"\xff\xfe"], "no JSON"),
        ([b"[" * 100_000], "nested|no JSON"),
        ([b'{"v": 1, "v": 1}'], "twice"),
        ([b"9" * 5000], "no JSON"),
        ([b"x" * (wire.MAX_HEADER_BYTES + 1)], "larger"),
        ([header(v=wire.VERSION + 1), DATA], f"version {wire.VERSION + 1}.*{wire.VERSION}; install"),
        ([header(v=True), DATA], "version"),
        ([header(kind="exec"), DATA], "unknown kind"),
        ([header(kind=["frame"]), DATA], "unknown kind"),
        ([header(extra=1), DATA], "exactly"),
        ([header(body={}), DATA], "exactly the fields"),
        ([header(body={**FRAME, "frame_id": -1}), DATA], "'frame_id'"),
        ([header(body={**FRAME, "frame_id": True}), DATA], "'frame_id'"),
        ([header(body={**FRAME, "frame_id": 1.0}), DATA], "'frame_id'"),
        ([header(body={**FRAME, "symbols": {"batch": "3"}}), DATA], "'symbols'"),
        ([header(body={**FRAME, "plan_id": "p" * 65}), DATA], "'plan_id'"),
        ([header()], "announces 1 tensors, 0 came"),
        ([header(), DATA, DATA], "announces 1 tensors, 2 came"),
        ([header(tensors=None), DATA], "announces no list"),
        ([header(), DATA[:-1]], "is 8 bytes, 7 came"),
        ([header(tensors=[1]), DATA], "no object"),
        ([header(tensors=[head(dtype="object")]), DATA], "'object'"),
        ([header(tensors=[head(coded="int64")]), DATA], "does not cross as"),
        ([header(tensors=[head(shape=[-2])]), DATA], "whole numbers"),
        ([header(tensors=[head(shape=[2.0])]), DATA], "whole numbers"),
        ([header(tensors=[head(shape=[1] * 17)]), DATA], "at most 16"),
        ([header(tensors=[head(shape=[MAX_TENSOR_BYTES])]), DATA], "larger than"),
        ([header(tensors=[head(shape=[0, 1 << 40])]), b""], "whole numbers"),
        ([header(tensors=[head(name="")]), DATA], "name"),
        ([header(tensors=[head(scale=1.0)]), DATA], "unknown fields"),
        ([header(tensors=[head(coded="int8", shape=[8])]), DATA], "missing or unknown"),
        ([header(tensors=[head(coded="int8", shape=[8], scale="1", offset=0)]), DATA], "finite"),
        ([header().replace(b'"frame_id": 7', b'"frame_id": NaN'), DATA], "NaN"),
        ([header().replace(b'"frame_id": 7', b'"frame_id": 1e999'), DATA], "finite"),
        ([header(tensors=[head(), head()]), DATA, DATA], "twice"),
        ([follow(times_s=[0])], "'times_s'"),
        ([follow(rates_bps=["1"])], "'rates_bps'"),
        ([follow(rates_bps=[1.0] * (wire.MAX_PIECES + 1))], "'rates_bps'|larger"),
        ([follow(elapsed_s=None)], "'elapsed_s'"),
    ],
)  # fmt: skip
def test_each_violation_is_named(parts: list[bytes], says: str) -> None:
    with pytest.raises(WireError, match=says):
        wire.decode(parts)


def test_what_is_sent_is_held_to_the_same_rules() -> None:
    with pytest.raises(WireError, match="'frame_id'"):
        wire.encode("frame", {**FRAME, "frame_id": "1"})


def decodes_or_refuses(parts: list[bytes]) -> None:
    try:
        message = wire.decode(parts)
    except WireError:
        return
    assert message.kind in wire.BODIES
    assert sum(t.numel() * t.element_size() for t in message.tensors.values()) <= 8 * sum(map(len, parts))


@settings(deadline=None, max_examples=400)
@given(st.lists(st.binary(max_size=200), max_size=4))
def test_fuzz_bytes(parts: list[bytes]) -> None:
    decodes_or_refuses(parts)


json_values: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(sorted(DTYPES)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None, max_examples=600)
@given(st.data())
def test_fuzz_headers_that_are_nearly_right(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from([*wire.BODIES, "other"]))
    fields = {k: data.draw(json_values | st.sampled_from([1, "p", True, None, {}])) for k in wire.BODIES.get(kind, {})}
    heads = data.draw(
        st.lists(
            st.fixed_dictionaries(
                {
                    "name": json_values | st.just("x"),
                    "dtype": json_values | st.sampled_from(sorted(DTYPES)),
                    "shape": json_values | st.lists(st.integers(0, 4), max_size=3),
                    "coded": json_values | st.sampled_from(sorted(DTYPES)),
                },
                optional={"scale": json_values | st.just(1.0), "offset": json_values | st.just(0)},
            ),
            max_size=3,
        )
    )
    text = json.dumps(
        {"v": data.draw(st.just(wire.VERSION) | json_values), "kind": kind, "body": fields, "tensors": heads}
    )
    decodes_or_refuses(
        [text.encode("utf-8", "surrogatepass"), *data.draw(st.lists(st.binary(max_size=64), max_size=3))]
    )


@settings(deadline=None, max_examples=400)
@given(st.data())
def test_fuzz_a_valid_message_with_some_bytes_changed(data: st.DataObject) -> None:
    parts = [
        bytearray(bytes(p)) for p in frame({"x": torch.arange(6.0).reshape(2, 3), "y": torch.tensor([1, 2])}, "int8")
    ]
    for _ in range(data.draw(st.integers(1, 4))):
        part = data.draw(st.sampled_from(parts))
        cut = data.draw(st.integers(0, len(part)))
        how = data.draw(st.sampled_from(["change", "drop", "insert"]))
        if how == "change" and cut < len(part):
            part[cut] = data.draw(st.integers(0, 255))
        elif how == "drop":
            del part[cut:]
        else:
            part[cut:cut] = data.draw(st.binary(max_size=8))
    decodes_or_refuses([bytes(p) for p in parts])
