"""Others' published inputs: ``python -m benchmarks.peers DIR OUT`` solves every file of their formats under DIR.

For each input OUT gets a JSON file of the same name with objective, bound, seconds and plan (node → device) of each question that
is asked of it; ``summary.json`` and ``summary.md`` say all in a line each. Each question is a process of its own with a time limit
and a limit on memory, so that a file that is damaged or too hard does not stop the others.

==================== ==========================================================================================================
dnn-partitioning     `OperatorPlacement`, contiguous and not, on the accelerators and CPUs that the file names
PipeDream            stages on some machines, with and without replicas, as its optimizer prices them (`peer_pipedream`)
PipeEdge             each model of a folder's files of models on each of its files of hosts, by each of its files of types, whatever
                     their names (`peer_pipeedge`)
==================== ==========================================================================================================
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import peer_pipedream, peer_pipeedge
from splitplan.data.import_dnn_partitioning import is_dnn_partitioning, read_dnn_partitioning
from splitplan.data.import_pipedream import is_pipedream, read_pipedream
from splitplan.data.import_pipeedge import load_yaml, model_names, read_pipeedge, timed
from splitplan.errors import SplitplanError
from splitplan.formulations.placement import OperatorPlacement

LIMIT_S = 50.0
"""Seconds for one question unless told otherwise."""

GRACE_S = 60.0
"""Seconds beyond its limit after which a question's process is ended."""

MEMORY_GB = 8.0
"""Memory of one question's process unless told otherwise."""

YAML = (".yml", ".yaml")
MACHINES = (4, 8)
BYTES_PER_S = 1e9
"""Of PipeDream's machines."""


@dataclass(frozen=True)
class Question:
    """One thing to ask of one input.

    Parameters
    ----------
    file : str
        The input, below DIR.
    format : str
    name : str
        As ``contiguous``.
    facts : dict
        What tells it apart for `answer`.
    """

    file: str
    format: str
    name: str
    facts: dict[str, Any]


def questions(folder: Path, machines: tuple[int, ...]) -> Iterator[Question]:
    """All questions about the files below a folder, in the order of their names; files of no known format are passed over.

    A file that cannot even be looked at is one question too, whose answer says why.
    """
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        file = str(path.relative_to(folder))
        try:
            yield from list(_asked(path, file, machines))
        except Exception as e:  # noqa: BLE001  # whatever is wrong with one file, the others are answered
            yield Question(file, "unknown", "what it is", {"error": f"{type(e).__name__}: {e}"})


def _asked(path: Path, file: str, machines: tuple[int, ...]) -> Iterator[Question]:
    suffix = path.suffix.lower()
    if suffix == ".json" and _is_placement(path):
        for contiguous in (True, False):
            yield Question(file, "dnn-partitioning", "contiguous" if contiguous else "free", {"contiguous": contiguous})
    elif suffix == ".txt" and _is_profile(path):
        for count in machines:
            for replicas in (True, False):
                how = "replicas" if replicas else "straight"
                yield Question(file, "pipedream", f"{count} machines, {how}", {"machines": count, "replicas": replicas})
    elif suffix in YAML and _yaml_kind(path) == "hosts":
        beside = {
            kind: [p for p in sorted(path.parent.iterdir()) if p.suffix.lower() in YAML and _yaml_kind(p) == kind]
            for kind in ("models", "types")
        }
        for models, types in itertools.product(beside["models"], beside["types"]):
            which = [p.name for p, kind in ((models, "models"), (types, "types")) if len(beside[kind]) > 1]
            try:
                names: tuple[str, ...] = model_names(models)
            except SplitplanError:
                names = ("",)  # asked all the same, so that the answer says what is wrong
            for model in names:
                # Where there are no times that all hosts have, the answer says so.
                ways = timed(load_yaml(types)[0], load_yaml(path)[0], model) or ((None, "torch.float32"),)
                for batch, dtype in ways:
                    how = [] if len(ways) == 1 else [f"batch {batch}", dtype]
                    facts = {"models": str(models), "types": str(types), "model": model, "batch": batch, "dtype": dtype}
                    yield Question(file, "pipeedge", ", ".join([model, *which, *how]), facts)


def passed_over(folder: Path, asked: Iterable[Question]) -> list[str]:
    """The files below a folder that no question is about."""
    files = {folder / q.file for q in asked}
    files |= {Path(q.facts[key]) for q in asked for key in ("models", "types") if key in q.facts}
    return [str(p.relative_to(folder)) for p in sorted(folder.rglob("*")) if p.is_file() and p not in files]


def _is_placement(path: Path) -> bool:
    """A damaged file of the right kind counts: its answer says what is wrong with it."""
    raw = path.read_bytes()
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError):
        text = raw.decode(json.detect_encoding(raw), errors="replace")
        return '"nodes"' in text and '"edges"' in text
    return isinstance(data, dict) and is_dnn_partitioning(data)


def _is_profile(path: Path) -> bool:
    """Likewise of PipeDream's."""
    text = path.read_text(encoding="utf-8", errors="replace")
    return is_pipedream(text) or "forward_compute_time" in text


def _yaml_kind(path: Path) -> str:
    """Which of PipeEdge's files it is, by what it holds: ``models``, ``types``, ``hosts``; a damaged one by its name; else nothing."""
    if not path.is_file():
        return ""
    data, problems = load_yaml(path)
    if not data:
        begins = {"models": "models", "device_types": "types", "devices": "hosts"} if problems else {}
        return next((kind for name, kind in begins.items() if path.stem.lower().startswith(name)), "")
    inner = [v for v in data.values() if isinstance(v, dict)]
    if any({"bw_Mbps", "model_profiles"} & set(v) for v in inner):
        return "types"
    if any({"layers", "parameters_out"} & set(v) for v in inner):
        return "models"
    return "hosts" if all(v is None or isinstance(v, list) for v in data.values()) else ""


def answer(folder: Path, question: Question, limit_s: float) -> dict[str, Any]:
    """Objective, bound, seconds and plan of one question; raises what goes wrong."""
    path, facts = folder / question.file, question.facts
    start = time.perf_counter()
    if question.format == "dnn-partitioning":
        graph = read_dnn_partitioning(path)
        read_s = time.perf_counter() - start
        problem = OperatorPlacement(graph, contiguous=facts["contiguous"])
        found = problem.solve(time_limit_s=max(1.0, limit_s - read_s))
        return {
            **_numbers("ms", 1e3 * found.objective, None if found.bound is None else 1e3 * found.bound, start),
            "status": str(found.status),
            "solver": found.solver,
            "bound_by": found.bound_by,
            "log": found.log,
            "audited": {"objective": 1e3 * found.audit.objective, "violations": list(found.audit.violations)},
            "loads": {d: 1e3 * s for d, s in found.plan.predicted.items()},
            "order": list(found.plan.devices) if facts["contiguous"] else None,
            "plan": found.plan.placement,
        }
    if question.format == "pipedream":
        profile = read_pipedream(path)
        left_s = max(1.0, limit_s - (time.perf_counter() - start))
        best = peer_pipedream.solve(profile, facts["machines"], BYTES_PER_S, replicas=facts["replicas"], seconds=left_s)
        checked = peer_pipedream.priced(profile, best.stages, BYTES_PER_S)
        plan = peer_pipedream.as_dict(profile, best)
        return {
            **_numbers("s", best.objective, best.bound, start),
            "status": "optimal" if best.exact else "feasible",
            "solver": "dynamic program over " + ("all order ideals" if best.exact else "some topological orders"),
            "audited": {"objective": checked},
            "stages": plan["stages"],
            "plan": plan["placement"],
        }
    edge = read_pipeedge(
        facts["models"], facts["types"], path, model=facts["model"], batch=facts["batch"], dtype=facts["dtype"]
    )
    best_edge = peer_pipeedge.solve(edge, limit_s)
    audited = peer_pipeedge.priced(edge, best_edge.stages)
    names = [layer.name for layer in edge.layer_graph.layers]
    return {
        **_numbers("s", best_edge.objective, best_edge.bound, start),
        "status": "optimal" if best_edge.bound >= best_edge.objective * (1 - 1e-9) else "feasible",
        "solver": best_edge.by,
        "audited": {"objective": audited},
        "stages": {host: [first + 1, last + 1] for host, first, last in best_edge.stages},
        "plan": {names[i]: host for host, first, last in best_edge.stages for i in range(first, last + 1)},
    }


def _numbers(unit: str, objective: float, bound: float | None, start: float) -> dict[str, Any]:
    gap = None if bound is None else max(0.0, objective - bound) / objective if objective else 0.0
    return {"unit": unit, "objective": objective, "bound": bound, "gap": gap, "seconds": time.perf_counter() - start}


def alone(folder: Path, question: Question, limit_s: float, memory_gb: float) -> dict[str, Any]:
    """`answer` in a process of its own; what goes wrong is part of the answer."""
    if "error" in question.facts:
        return {"error": question.facts["error"], "kind": "fault", "seconds": 0.0}
    command = [sys.executable, "-m", "benchmarks.peers", "--one", json.dumps(vars(question)), str(folder), "-", "--seconds", str(limit_s), "--memory-gb", str(memory_gb)]  # fmt: skip
    start = time.perf_counter()
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=limit_s + GRACE_S, check=False
        )
    except subprocess.TimeoutExpired:
        return {
            "error": f"was not done {GRACE_S:g} s after its limit of {limit_s:g} s",
            "seconds": time.perf_counter() - start,
        }
    try:
        found: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        return {
            "error": f"its process ended with {done.returncode}: {done.stderr.strip()[-500:]}",
            "seconds": time.perf_counter() - start,
        }
    return {**found, "process_s": time.perf_counter() - start}


def one(folder: Path, question: Question, limit_s: float, memory_gb: float) -> dict[str, Any]:
    """`answer` within a limit on memory, an error as part of the answer."""
    if sys.platform == "linux":
        import resource

        most = int(memory_gb * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    start = time.perf_counter()
    try:
        return answer(folder, question, limit_s)
    except SplitplanError as e:
        return {"error": str(e), "kind": type(e).__name__, "seconds": time.perf_counter() - start}
    except (MemoryError, ArithmeticError, AssertionError, LookupError, TypeError, ValueError) as e:
        return {"error": f"{type(e).__name__}: {e}", "kind": "fault", "seconds": time.perf_counter() - start}


def run(folder: Path, out: Path, limit_s: float, memory_gb: float, machines: tuple[int, ...]) -> list[dict[str, Any]]:
    """Answer all; write a file an input and the summary. Returns the summary's rows."""
    out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    by_file: dict[str, list[tuple[Question, dict[str, Any]]]] = {}
    asked = list(questions(folder, machines))
    for question in asked:
        found = alone(folder, question, limit_s, memory_gb)
        by_file.setdefault(question.file, []).append((question, found))
        row = {"file": question.file, "question": question.name} | {
            k: found.get(k) for k in ("objective", "bound", "gap", "unit", "seconds", "status", "error")
        }
        rows.append(row)
        print(_line(row), flush=True)
        target = out / f"{question.file}.answer.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        runs = [{"question": q.name, **f} for q, f in by_file[question.file]]
        target.write_text(
            json.dumps({"file": question.file, "format": question.format, "runs": runs}, indent=1), encoding="utf-8"
        )
        (out / "summary.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    rest = passed_over(folder, asked)
    text = table(rows) + (f"\nPassed over, as of no known format: {', '.join(rest)}.\n" if rest else "")
    (out / "summary.md").write_text(text, encoding="utf-8", errors="backslashreplace")
    print(f"{len(rest)} files passed over, as of no known format{': ' * bool(rest)}{', '.join(rest)}")
    return rows


def _line(row: Mapping[str, Any]) -> str:
    name = f"{row['file']} ({row['question']})"
    if row["error"]:
        return f"{name}: {row['error'].splitlines()[0]}"
    gap = "no bound" if row["gap"] is None else f"gap {row['gap']:.3%}"
    bound = math.nan if row["bound"] is None else row["bound"]
    return f"{name}: {row['objective']:.9g} {row['unit']}, bound {bound:.9g}, {gap}, {row['seconds']:.1f} s, {row['status']}"


def table(rows: list[dict[str, Any]]) -> str:
    """The summary in Markdown."""
    lines = [
        "| input | question | objective | bound | gap | seconds | status |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        if row["error"]:
            text = row["error"].replace("\n", " ").replace("|", "\\|")
            lines.append(f"| {row['file']} | {row['question']} | | | | {row['seconds']:.1f} | {text} |")
        else:
            bound = "" if row["bound"] is None else f"{row['bound']:.9g}"
            gap = "" if row["gap"] is None else f"{row['gap']:.3%}"
            lines.append(
                f"| {row['file']} | {row['question']} | {row['objective']:.9g} {row['unit']} | {bound} | {gap} | {row['seconds']:.1f} | {row['status']} |"
            )
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    """From the command line; 1 when there was nothing to ask."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="inputs; every file of a known format below it")
    parser.add_argument("out", type=Path, help="where answers go")
    parser.add_argument("--seconds", type=float, default=LIMIT_S, help="for one question (%(default)s)")
    parser.add_argument("--memory-gb", type=float, default=MEMORY_GB, help="of one question's process (%(default)s)")
    parser.add_argument(
        "--machines", default=",".join(map(str, MACHINES)), help="of PipeDream's questions (%(default)s)"
    )
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.one:
        print(json.dumps(one(options.folder, Question(**json.loads(options.one)), options.seconds, options.memory_gb)))
        return 0
    if not options.folder.is_dir():
        parser.error(f"{options.folder} is no folder")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files need not be text
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    machines = tuple(int(m) for m in options.machines.split(","))
    rows = run(options.folder.resolve(), options.out, options.seconds, options.memory_gb, machines)
    print(f"{len(rows)} answers in {options.out}")
    return 0 if rows else 1


if __name__ == "__main__":
    sys.exit(main())
