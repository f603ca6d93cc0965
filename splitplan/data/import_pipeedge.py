"""Reads the scheduler's YAML files of PipeEdge: models, types of devices with their layer times, and hosts."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from splitplan.data.device import Device
from splitplan.data.link import Link
from splitplan.data.profile import Profile
from splitplan.data.system import System
from splitplan.errors import MissingPackageError, UnknownNameError, did_you_mean, raise_all
from splitplan.models.graph import INPUT, Layer, LayerGraph, Tensor, number_problem

MEGA = 1024.0**2
"""A "Mbps" and a "MB" of these files are 1024² bits a second and 1024² bytes: so the published scheduler counts."""

WIDTHS = {"torch.float64": 8, "torch.float32": 4, "torch.bfloat16": 2, "torch.float16": 2, "torch.int8": 1, "torch.uint8": 1}  # fmt: skip
"""Bytes of a parameter or activation."""

NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$")
"""A number with an exponent."""


@dataclass(frozen=True)
class HostType:
    """A type of devices.

    Parameters
    ----------
    rate_bps : float
        Of its network interface.
    memory_bytes : float
    layer_s : tuple of float
        Seconds of each layer.
    """

    rate_bps: float
    memory_bytes: float
    layer_s: tuple[float, ...]


@dataclass(frozen=True)
class PipeEdgeProblem:
    """A chain of layers and hosts of several types: which contiguous layers run on which host, for the shortest period.

    A stage takes max(its layers' seconds, the seconds to send its output on); a link is as quick as its slower end; a host holds
    the weights of its layers, what comes in and goes out, and two buffers for each of the two. All links are from host to host.

    Parameters
    ----------
    model : str
    batch : int
    dtype : str
    weight_bytes : tuple of float
        Of each layer.
    input_bytes : float
        Of the model's input at this batch.
    output_bytes : tuple of float
        Of each layer's output at this batch.
    types : dict of str to HostType
        Those that have hosts.
    hosts : dict of str to str
        Host → type.
    """

    model: str
    batch: int
    dtype: str
    weight_bytes: tuple[float, ...]
    input_bytes: float
    output_bytes: tuple[float, ...]
    types: dict[str, HostType]
    hosts: dict[str, str]

    def rate_bps(self, a: str, b: str) -> float:
        """Of the link between two types: the slower end's."""
        return min(self.types[a].rate_bps, self.types[b].rate_bps)

    def sending_s(self, layer: int, a: str, b: str) -> float:
        """Seconds to send a layer's output from a host of one type to one of another."""
        return 8 * self.output_bytes[layer] / self.rate_bps(a, b)

    def memory_of(self, first: int, last: int) -> float:
        """Bytes that a host needs for layers ``first`` to ``last``, both included."""
        coming = self.output_bytes[first - 1] if first else self.input_bytes
        return sum(self.weight_bytes[first : last + 1]) + 3 * (coming + self.output_bytes[last])

    @cached_property
    def layer_graph(self) -> LayerGraph:
        """The chain as a layer graph.

        Where memory binds it is on the safe side: each layer's ``memory_bytes`` is the buffers of the largest boundary, so that a
        stage that fits by the sums of `PipelinePlacement` fits by `memory_of`.
        """
        count = len(self.weight_bytes)
        names = [f"layer {i + 1}" for i in range(count)]
        buffers = 2 * (max(self.input_bytes, *self.output_bytes) + max(self.output_bytes))
        layers = tuple(Layer(name, parameters=(name,), memory_bytes=buffers) for name in names)
        makers, readers = [INPUT, *names], [*((n,) for n in names), ()]
        sizes = [self.input_bytes, *self.output_bytes]
        tensors = tuple(
            Tensor(f"t{i}", maker, reader, size, is_output=i == count)
            for i, (maker, reader, size) in enumerate(zip(makers, readers, sizes, strict=True))
        )
        return LayerGraph(
            self.model, layers, tensors, dict(zip(names, self.weight_bytes, strict=True)), batch=self.batch
        )

    @cached_property
    def profile(self) -> Profile:
        """Seconds of each layer at each host."""
        names = [layer.name for layer in self.layer_graph.layers]
        times = {t: dict(zip(names, what.layer_s, strict=True)) for t, what in self.types.items()}
        return Profile.given(self.layer_graph, {host: times[t] for host, t in self.hosts.items()})

    @cached_property
    def system(self) -> System:
        """The hosts, and a link without delay between each two."""
        places = {host: Device(t, memory_bytes=self.types[t].memory_bytes) for host, t in self.hosts.items()}
        links = {
            (a, b): Link(f"{a} {b}", rate, rate, rtt_s=0.0)
            for a, b in itertools.combinations(self.hosts, 2)
            for rate in [self.rate_bps(self.hosts[a], self.hosts[b])]
        }
        return System(link=None, links=links, star=None, shared=None, **places)


def read_pipeedge(
    models: str | os.PathLike[str],
    device_types: str | os.PathLike[str],
    devices: str | os.PathLike[str],
    *,
    model: str | None = None,
    batch: int | None = None,
    dtype: str = "torch.float32",
) -> PipeEdgeProblem:
    """Read PipeEdge's three files for one model; every defect of all three is reported at once.

    ========================== =====================================================================================
    in the files               here
    ========================== =====================================================================================
    ``bw_Mbps``                ``rate_bps`` = value · 1024² (the published scheduler's megabit)
    ``mem_MB``                 bytes = value · 1024², of a type's memory and of a layer's weights
    ``parameters_in``, ``_out`` numbers in a sample's input, in each layer's output; bytes = value · width · batch
    ``time_s``                 seconds of each layer for the whole batch
    ========================== =====================================================================================

    Parameters
    ----------
    models, device_types, devices : path-like
        ``models.yml``, ``device_types.yml``, ``devices.yml``.
    model : str, optional
        Its name; needed when the file holds several.
    batch : int, optional
        The batch of the times; needed when there are several.
    dtype : str
        As ``"torch.float32"``.

    Raises
    ------
    DataError
        With every defect, a type of hosts that the file of types does not define among them.
    UnknownNameError
        There is no such model.
    MissingPackageError
        PyYAML is not installed.
    """
    found = [load_yaml(p) for p in (models, device_types, devices)]
    problems = [f"{p}: {q}" for p, (_, qs) in zip((models, device_types, devices), found, strict=True) for q in qs]
    raise_all(problems, "PipeEdge files")
    known = [name for name, m in found[0][0].items() if isinstance(m, Mapping) and m.get("layers") != 0]
    if model is None and len(known) == 1:
        model = known[0]
    if model not in found[0][0]:
        raise UnknownNameError("model", model, known, f"Give model=…, one of {models}")
    return from_pipeedge(*(x for x, _ in found), model=model, batch=batch, dtype=dtype, where=(str(models), str(device_types), str(devices)))  # fmt: skip


def model_names(models: str | os.PathLike[str]) -> tuple[str, ...]:
    """The models with layers that a file holds."""
    data, problems = load_yaml(models)
    raise_all(problems, str(models))
    return tuple(str(name) for name, m in data.items() if not isinstance(m, Mapping) or m.get("layers") != 0)


def timed(device_types: Mapping[str, Any], devices: Mapping[str, Any], model: str) -> tuple[tuple[int, str], ...]:
    """The batches and dtypes at which all types that have hosts have times for a model, from files that were read already."""
    having = [
        {
            (p["batch_size"], str(p["dtype"]))
            for p in _profiles(device_types.get(name), model)
            if _fits(p, p.get("dtype"))
        }
        for name, hosts in devices.items()
        if hosts
    ]
    return tuple(sorted(set.intersection(*having))) if having else ()


def load_yaml(path: str | os.PathLike[str]) -> tuple[dict[str, Any], list[str]]:
    """A file's mapping, and what is wrong with it as YAML; a key that is given twice is, which YAML readers pass over."""
    try:
        import yaml
    except ImportError as e:
        raise MissingPackageError("reading PipeEdge's YAML files needs PyYAML: pip install 'splitplan[yaml]'") from e
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as e:
        return {}, [f"cannot be read: {e.strerror}"]
    except UnicodeDecodeError as e:
        return {}, [f"is no text ({e})"]
    twice: list[str] = []

    class Loader(yaml.SafeLoader):  # type: ignore[misc]  # no types are shipped: its base is Any
        """Builds plain values only."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
            """As the base, noting repeated keys."""
            seen: set[str] = set()
            for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
                if str(key.value) in seen:
                    twice.append(f"line {key.start_mark.line + 1}: {key.value!r} is given twice")
                seen.add(str(key.value))
            made: dict[Hashable, Any] = super().construct_mapping(node, deep)
            return made

    # YAML 1.2's numbers; PyYAML reads 1.1's, in which 1e-1 is a word.
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", NUMBER, list("-+.0123456789"))
    try:
        data = yaml.load(text, Loader)  # a SafeLoader: plain values only
    except (
        yaml.YAMLError,
        ValueError,
        RecursionError,
    ) as e:  # dates that are none, numbers of 5000 digits, very deep ones
        return {}, [f"is not valid YAML ({' '.join(str(e).split())})"]
    if not isinstance(data, dict):
        return {}, [f"holds a {type(data).__name__} where a mapping is expected"]
    return {str(k): v for k, v in data.items()}, twice


def from_pipeedge(
    models: Mapping[str, Any],
    device_types: Mapping[str, Any],
    devices: Mapping[str, Any],
    *,
    model: str,
    batch: int | None = None,
    dtype: str = "torch.float32",
    where: tuple[str, str, str] = ("models", "device types", "devices"),
) -> PipeEdgeProblem:
    """The same of files that were read already."""
    problems: list[str] = []
    width = WIDTHS.get(dtype)
    if width is None:
        problems.append(f"dtype is {dtype!r}; give one of {', '.join(WIDTHS)}")
    count, weights, given, made = _model(models[model], f"{where[0]}: {model}", problems)
    hosts = _hosts(devices, device_types, where, problems)
    batches = sorted(
        {p["batch_size"] for what in device_types.values() for p in _profiles(what, model) if _fits(p, dtype)}
    )
    if batch is None and len(batches) == 1:
        batch = batches[0]
    elif batch is None or batch not in batches:
        have = ", ".join(map(str, batches)) or "none"
        others = dict.fromkeys(str(p.get("dtype")) for what in device_types.values() for p in _profiles(what, model))
        hint = "" if batches or not others else f", or dtype=…: there are times in {', '.join(others)}"
        problems.append(
            f"{where[1]}: times of {model!r} in {dtype} for batches: {have}; give batch=…, one of them{hint}"
        )
    types = {}
    for name in dict.fromkeys(hosts.values()):
        what, at = device_types[name], f"{where[1]}: {name}"
        timed = [p for p in _profiles(what, model) if _fits(p, dtype) and p["batch_size"] == batch]
        if not timed:
            if batch in batches:
                those = ", ".join(h for h, t in hosts.items() if t == name)
                problems.append(
                    f"{at} has no times for {model!r} at batch {batch} in {dtype}, and hosts {those} are of it"
                )
            continue
        types[name] = HostType(
            MEGA * _number(what, "bw_Mbps", at, problems, positive=True),
            MEGA * _number(what, "mem_MB", at, problems),
            tuple(_numbers(timed[0], "time_s", count, f"{at}: {model}", problems)),
        )
    raise_all(problems, "PipeEdge files")
    assert batch is not None
    assert width is not None
    each = float(width * batch)
    return PipeEdgeProblem(
        model,
        batch,
        dtype,
        tuple(MEGA * x for x in weights),
        each * given,
        tuple(each * x for x in made),
        types,
        hosts,
    )


def _model(what: Any, where: str, problems: list[str]) -> tuple[int, list[float], float, list[float]]:
    if not isinstance(what, Mapping):
        problems.append(f"{where} is a {type(what).__name__}; give a mapping")
        return 0, [], 0.0, []
    count = what.get("layers")
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        problems.append(f"{where}: layers is {count!r}; give a whole number from 1")
        count = len(what["mem_MB"]) if isinstance(what.get("mem_MB"), list) else 0
    return (
        count,
        _numbers(what, "mem_MB", count, where, problems),
        _number(what, "parameters_in", where, problems),
        _numbers(what, "parameters_out", count, where, problems),
    )


def _hosts(
    devices: Mapping[str, Any], device_types: Mapping[str, Any], where: tuple[str, str, str], problems: list[str]
) -> dict[str, str]:
    """Host → type; types that nobody defines, and hosts that are named twice, are problems."""
    found: dict[str, str] = {}
    for name, hosts in devices.items():
        listed = hosts or []
        if not isinstance(listed, list) or not all(isinstance(h, str) for h in listed):
            problems.append(f"{where[2]}: {name}: give a list of hosts")
            continue
        if name not in device_types and listed:
            problems.append(
                f"{where[2]}: hosts {', '.join(listed)} are of type {name!r}, which {where[1]} does not define"
                f"{did_you_mean(name, device_types)}"
            )
            continue
        if listed and not isinstance(device_types[name], Mapping):
            problems.append(f"{where[1]}: {name} is a {type(device_types[name]).__name__}; give a mapping")
            continue
        for host in listed:
            if host in found:
                problems.append(f"{where[2]}: host {host!r} is named twice")
            found[host] = name
    if not found and not problems:
        problems.append(f"{where[2]}: there are no hosts")
    return found


def _profiles(what: Any, model: str) -> list[Mapping[str, Any]]:
    """The profiles of a type for a model; none when there are none or they are not as they should be."""
    profiles = what.get("model_profiles") if isinstance(what, Mapping) else None
    given = profiles.get(model) if isinstance(profiles, Mapping) else None
    return [p for p in given if isinstance(p, Mapping)] if isinstance(given, list) else []


def _fits(profile: Mapping[str, Any], dtype: object) -> bool:
    batch = profile.get("batch_size")
    return (
        isinstance(dtype, str)
        and profile.get("dtype") == dtype
        and isinstance(batch, int)
        and not isinstance(batch, bool)
        and batch > 0
    )


def _number(what: Mapping[str, Any], key: str, where: str, problems: list[str], *, positive: bool = False) -> float:
    bad = f"{where} has no {key!r}" if key not in what else number_problem(f"{where}: {key}", what[key], positive=positive)  # fmt: skip
    if bad:
        problems.append(bad)
        return 0.0
    return float(what[key])


def _numbers(what: Mapping[str, Any], key: str, count: int, where: str, problems: list[str]) -> list[float]:
    given = what.get(key)
    if not isinstance(given, list):
        problems.append(f"{where}: {key} is {given!r}; give a list of {count} numbers")
        return []
    if len(given) != count:
        problems.append(f"{where}: {key} has {len(given)} numbers for {count} layers")
    bad = [q for i, x in enumerate(given) if (q := number_problem(f"{where}: {key}[{i}]", x))]
    problems += bad
    return [] if bad else [float(x) for x in given]
