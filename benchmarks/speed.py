"""Time and memory of forward and backward: the study behind docs/speed.md.

Singular value soft thresholding and the plain SVD, by svdinv, by the frameworks' own
SVDs and by the published SVD-inv. Each framework runs in a process of its own, where
no other's threads are in the way, and the processes take turns: one run of each
contender, then the next round. Beside the time stands the error of the gradient,
against svdinv's SVD in float64. Writes tables, figures and the raw numbers into
docs/figures. Run it on a machine that does nothing else::

    python benchmarks/speed.py
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import svdinv.numpy

HERE = Path(__file__).resolve().parent
FIGURES = HERE.parent / "docs" / "figures"

PARTS = ("svt", "svd", "published", "growth")
FRAMEWORKS = ("torch", "tf", "jax", "cupy")
OURS, SVD, THEIRS, PUBLISHED = (
    "svdinv.torch.svt",
    "svdinv.torch.svd",
    "torch.linalg.svd",
    "published",
)
RATIO = 0.12  # of tau to s_1
LONG = 1.0  # seconds; what takes longer is timed in a third of the rounds
LARGE = 1024  # rows; with fewer, peak memory is that of pages
LABELS = {PUBLISHED: "SVD-inv, as published"}

Results = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Input:
    """Matrices of low rank plus noise, and a threshold in multiples of s_1."""

    shape: tuple[int, ...]
    dtype: str = "float32"
    ratio: float = RATIO
    relative: bool = False  # else the same for all, from the mean of s_1

    @property
    def name(self) -> str:
        """As a table names it."""
        threshold = f"{self.ratio:g} s₁" + ("" if self.relative else " (mean)")
        return f"{self.size} {self.dtype}, {threshold}"

    @property
    def size(self) -> str:
        """The shape."""
        return "×".join(map(str, self.shape))


def inputs(quick: bool) -> list[Input]:
    """List what is thresholded."""
    if quick:
        return [
            Input((2304, 18), "complex64"),
            Input((48, 32, 32), relative=True),
            Input((8, 48, 48), ratio=0.01),
        ]
    return [
        Input((36864, 18), "complex64"),
        Input((4, 2048, 64)),
        Input((384, 32, 32), relative=True),
        Input((32, 64, 64)),
        Input((3, 512, 512)),
        Input((32, 64, 64), ratio=0.01),
    ]


def small_batches(quick: bool) -> list[Input]:
    """Further inputs of the plain SVD."""
    sizes = (8, 16) if quick else (8, 16, 32)
    return [Input((b, n, n)) for b in ((100,) if quick else (100, 1000)) for n in sizes]


def growth(quick: bool) -> dict[str, list[Input]]:
    """List what grows: rows, both sides, the batch."""
    m = (1024,) if quick else [2**i for i in range(8, 17)]
    n = (8,) if quick else [2**i for i in range(3, 10)]
    b = (16,) if quick else [4**i for i in range(6)]
    return {
        "rows m, m × 16": [Input((x, 16)) for x in m],
        "side n, n × n": [Input((x, x)) for x in n],
        "batch b, b × 32 × 32": [Input((x, 32, 32)) for x in b],
    }


def write_case(item: Input, path: Path) -> float:
    """Draw matrices, cotangents and the exact gradient; give the share of kept s."""
    *batch, m, n = item.shape
    k = min(m, n)
    rank = max(1, k // 4)
    rng = np.random.default_rng(item.shape)

    def normal(*shape: int) -> np.ndarray:
        x = rng.standard_normal((*batch, *shape))
        if np.dtype(item.dtype).kind == "c":
            x = (x + 1j * rng.standard_normal(x.shape)) / math.sqrt(2)
        return x

    low = normal(m, rank) @ normal(rank, n) / math.sqrt(rank)
    A = (low + 0.1 * normal(m, n)).astype(item.dtype)
    G = normal(m, n).astype(item.dtype)
    double = A.astype(np.result_type(item.dtype, np.float64))
    S = np.linalg.svd(double, compute_uv=False)
    tau = item.ratio if item.relative else item.ratio * S[..., 0].mean()
    _, pullback = svdinv.numpy.svt_vjp(
        double, tau, relative=item.relative, method="svd"
    )
    exact, _ = pullback(G.astype(double.dtype))
    np.savez(path, A=A, G=G, tau=tau, exact=exact)
    level = tau * S[..., :1] if item.relative else tau
    return float((level < S).mean())


class Process:
    """A framework at work: see speed_worker.py."""

    def __init__(self, framework: str, device: str, threads: int) -> None:
        environment = dict(os.environ)
        for name in ("OMP", "MKL", "OPENBLAS"):
            environment[f"{name}_NUM_THREADS"] = str(threads)
        command = [sys.executable, str(HERE / "speed_worker.py")]
        self._process = subprocess.Popen(
            [*command, framework, device, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.hello = self._answer()

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request and wait for the answer."""
        assert self._process.stdin is not None
        try:
            print(json.dumps(request), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            return {"failed": "ended"}
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        return json.loads(line) if line else {"failed": "ended"}

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


class Study:
    """Measures, and keeps what was measured."""

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self.device, self.threads = arguments.device, arguments.threads
        self.repeats, self.quick = arguments.repeats, arguments.quick
        self._folder = folder
        self._processes = {}
        for name in arguments.frameworks:
            process = Process(name, self.device, self.threads)
            if "failed" in process.hello:
                print(f"without {name}: {process.hello['failed']}")
                process.close()
            else:
                self._processes[name] = process
        self.versions = {
            name: process.hello["version"] for name, process in self._processes.items()
        }
        self._home = {
            contender: process
            for process in self._processes.values()
            for contender in process.hello["contenders"]
        }
        self.contenders = list(self._home)
        hellos = (process.hello for process in self._processes.values())
        self.accelerator = next((x["device"] for x in hellos if x["device"]), "")

    def close(self) -> None:
        """End the processes."""
        for process in self._processes.values():
            process.close()

    def measure(self, item: Input, contenders: Sequence[str]) -> dict[str, Any]:
        """Time the contenders in turns; give medians, quartiles and errors."""
        print(f"{item.name}:", end=" ", flush=True)
        start = time.perf_counter()
        path = self._folder / "case.npz"
        kept = write_case(item, path)
        results: Results = {}
        for contender in contenders:
            process = self._home.get(contender)
            if process is not None:
                results[contender] = process.ask(
                    prepare=contender, case=str(path), relative=item.relative
                )
        times: dict[str, list[float]] = {c: [] for c in results}
        for turn in range(self.repeats):
            for contender, result in results.items():
                few = result.get("seconds", 0) > LONG and turn % 3
                if "failed" in result or few:
                    continue
                answer = self._home[contender].ask(time=contender)
                if "failed" in answer:
                    result["failed"] = answer["failed"]
                else:
                    times[contender].append(answer["seconds"])
        for contender, result in results.items():
            if "failed" not in result:
                low, middle, high = np.percentile(times[contender], (25, 50, 75))
                result["seconds"] = float(middle)
                result["quartiles"] = [float(low), float(high)]
                result["runs"] = len(times[contender])
        for process in self._processes.values():
            process.ask(forget=True)
        print(f"{time.perf_counter() - start:.0f} s", flush=True)
        return asdict(item) | {"name": item.name, "kept": kept, "results": results}

    def memory(self, item: Input, contenders: Sequence[str]) -> dict[str, Any]:
        """Peak memory of one run of each contender, in processes of their own."""
        print(f"memory, {item.size}:", end=" ", flush=True)
        start = time.perf_counter()
        path, small = self._folder / "case.npz", self._folder / "small.npz"
        write_case(item, path)
        few = (*item.shape[:-2], *(min(x, 32) for x in item.shape[-2:]))
        write_case(Input(few, item.dtype), small)
        results = {}
        for contender in contenders:
            if contender in self._home:
                process = Process("torch", self.device, self.threads)
                results[contender] = process.ask(
                    memory=contender,
                    case=str(path),
                    small=str(small),
                    relative=item.relative,
                )
                process.close()
        print(f"{time.perf_counter() - start:.0f} s", flush=True)
        return asdict(item) | {"results": results}


def label(contender: str) -> str:
    """Name a contender in a table."""
    return LABELS.get(contender, f"`{contender}`")


def duration(seconds: float) -> str:
    """Three digits, in ms or s."""
    value, unit = (seconds, "s") if seconds >= 1 else (1000 * seconds, "ms")
    digits = max(0, 2 - math.floor(math.log10(value)))
    return f"{value:.{digits}f} {unit}"


def entry(result: dict[str, Any] | None) -> str:
    """Give time and error, in a table."""
    if result is None:
        return ""
    if "failed" in result:
        return result["failed"]
    error = result["error"]
    text = f"{error:.0e}" if math.isfinite(error) else "NaN"
    return f"{duration(result['seconds'])}, {text}"


def ratio(results: Results, slow: str, fast: str) -> str:
    """How many times as long one takes as the other."""
    times = [results.get(x, {}) for x in (slow, fast)]
    if any("seconds" not in x or "failed" in x for x in times):
        return ""
    return f"{times[0]['seconds'] / times[1]['seconds']:.2g}"


def write_table(path: Path, rows: Sequence[Sequence[str]]) -> None:
    """Write and print a table of Markdown, its head first."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|---" * len(rows[0]) + "|")
    text = "\n".join(lines) + "\n"
    path.write_text(text, encoding="utf-8")
    print("\n" + text)


def svt_table(measured: Sequence[dict[str, Any]], path: Path) -> None:
    """Each input in a column, each contender in a row."""
    rows = [["", *(x["name"] for x in measured)]]
    for contender in dict.fromkeys(c for x in measured for c in x["results"]):
        entries = [entry(x["results"].get(contender)) for x in measured]
        rows.append([label(contender), *entries])
    versus = [ratio(x["results"], THEIRS, OURS) for x in measured]
    rows.append([f"{label(THEIRS)} ÷ {label(OURS)}", *versus])
    write_table(path, rows)


def svd_table(measured: Sequence[dict[str, Any]], path: Path) -> None:
    """Each input in a row."""
    rows = [["", label(THEIRS), label(SVD), "ratio"]]
    for x in measured:
        entries = [entry(x["results"].get(contender)) for contender in (THEIRS, SVD)]
        rows.append([x["name"], *entries, ratio(x["results"], THEIRS, SVD)])
    write_table(path, rows)


def published_table(
    timed: dict[str, Any], memory: Sequence[dict[str, Any]], path: Path
) -> None:
    """Time of one input, peak memory of both."""
    sizes = ["×".join(map(str, x["shape"])) + f" {x['dtype']}" for x in memory]
    rows = [["", f"{sizes[0]}: time, error", *(f"{x}: peak memory" for x in sizes)]]
    for contender in (OURS, SVD, THEIRS, PUBLISHED):
        cells = []
        for x in memory:
            found = x["results"].get(contender, {})
            if contender == PUBLISHED and not found:
                square = x["shape"][-2] ** 2 * np.dtype(x["dtype"]).itemsize
                cells.append(f"at least {square / 1e9:.1f} GB, computed")
            else:
                amount = found.get("bytes")
                cells.append("" if amount is None else f"{amount / 1e6:.0f} MB")
        rows.append([label(contender), entry(timed["results"].get(contender)), *cells])
    write_table(path, rows)


def svt_figure(measured: Sequence[dict[str, Any]], path: Path) -> None:
    """One panel for each input."""
    columns = min(3, len(measured))
    rows = -(-len(measured) // columns)
    names = list(dict.fromkeys(c for x in measured for c in x["results"]))
    figure = Figure(
        figsize=(2 + 3.4 * columns, rows * (1 + 0.2 * len(names))), layout="tight"
    )
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).flat
    for panel, x in zip(panels, measured, strict=False):
        for place, name in enumerate(names):
            found = x["results"].get(name, {})
            if "failed" in found or "seconds" not in found:
                continue
            color = "tab:blue" if name.startswith("svdinv") else "tab:gray"
            panel.plot(1000 * found["seconds"], place, "o", color=color)
        panel.set_xscale("log")
        low, high = (math.log10(limit) for limit in panel.get_xlim())
        panel.set_xlim(10 ** math.floor(low), 10 ** math.ceil(high))
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.set_yticks(range(len(names)), [LABELS.get(x, x) for x in names])
        panel.set_title(x["name"], fontsize=9)
        panel.set_xlabel("ms")
        panel.tick_params(labelsize=8)
        panel.grid(alpha=0.3)
    figure.axes[0].invert_yaxis()
    figure.savefig(path, dpi=120, metadata={"Software": None})


def growth_figure(
    measured: dict[str, list[dict[str, Any]]],
    memory: Sequence[dict[str, Any]],
    path: Path,
) -> None:
    """Three panels of time and one of memory."""
    figure = Figure(figsize=(10, 7.5), layout="tight")
    first, second, third, last = figure.subplots(2, 2).flat
    styles = {OURS: ("tab:blue", "o-"), THEIRS: ("tab:gray", "s--")}
    styles[PUBLISHED] = ("tab:red", "^:")

    def draw(panel: Any, cases: Sequence[dict[str, Any]], key: str, axis: int) -> None:
        for contender, (color, style) in styles.items():
            points = [
                (x["shape"][axis], found[key])
                for x in cases
                if key in (found := x["results"].get(contender, {}))
                and "failed" not in found
                and found[key]
            ]
            if points:
                name = LABELS.get(contender, contender)
                panel.loglog(*zip(*points, strict=True), style, color=color, label=name)
        panel.grid(alpha=0.3)

    for panel, (name, cases) in zip(
        (first, second, third), measured.items(), strict=True
    ):
        draw(panel, cases, "seconds", 0)
        panel.set_xlabel(name)
        panel.set_ylabel("forward and backward, s")
    draw(last, memory, "bytes", 0)
    last.set_xlabel(next(iter(measured)))
    last.set_ylabel("peak memory, bytes")
    first.legend(fontsize=8)
    figure.savefig(path, dpi=120, metadata={"Software": None})


def processor() -> str:
    """Model of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(x.split(":")[1].strip() for x in lines if x.startswith("model na"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def machine(study: Study) -> dict[str, Any]:
    """Where it was measured."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "accelerator": study.accelerator,
        "threads": study.threads,
        "system": platform.system(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        **study.versions,
    }


def write_machine(found: dict[str, Any], repeats: int, path: Path) -> None:
    """Write a sentence about the machine."""
    names = {"tf": "tensorflow"}
    keys = ("python", "numpy", *FRAMEWORKS)
    versions = ", ".join(f"{names.get(k, k)} {found[k]}" for k in keys if k in found)
    where = f"{found['processor']}, {found['threads']} of {found['cores']} cores"
    if found["accelerator"]:
        where = f"{found['accelerator']}; {where}"
    text = f"Medians of {repeats} rounds on: {where}; {versions}.\n"
    path.write_text(text, encoding="utf-8")
    print("\n" + text)


def run(study: Study, parts: Sequence[str], out: Path) -> None:
    """Run the parts of the study, and write what they give."""
    stem = "speed" if study.device == "cpu" else f"speed-{study.device}"
    where = machine(study)
    found: dict[str, Any] = {"machine": where, "repeats": study.repeats}
    write_machine(where, study.repeats, out / f"{stem}-machine.txt")
    items = inputs(study.quick)
    tall = items[0]
    plain = []
    if "svt" in parts:
        everyone = [c for c in study.contenders if c != PUBLISHED]
        found["svt"] = [
            study.measure(item, [PUBLISHED, *everyone] if item != tall else everyone)
            for item in items
        ]
        svt_table(found["svt"], out / f"{stem}-table.txt")
        svt_figure(found["svt"], out / f"{stem}.png")
        plain = found["svt"]
    if "svd" in parts:
        further = [] if plain else items
        found["svd"] = [
            study.measure(item, (THEIRS, SVD))
            for item in (*further, *small_batches(study.quick))
        ]
        svd_table([*plain, *found["svd"]], out / f"{stem}-svd-table.txt")
    few = (OURS, THEIRS, PUBLISHED)
    if "published" in parts:
        less = Input((512 if study.quick else 4096, 16), "complex64")
        timed = study.measure(less, (OURS, SVD, THEIRS, PUBLISHED))
        memory = [
            study.memory(less, (OURS, SVD, THEIRS, PUBLISHED)),
            study.memory(tall, (OURS, SVD, THEIRS)),
        ]
        found["published"] = {"time": timed, "memory": memory}
        published_table(timed, memory, out / f"{stem}-published-table.txt")
    if "growth" in parts:

        def admitted(item: Input) -> tuple[str, ...]:
            return few if item.shape[-2] <= 4096 else few[:2]

        grown = {
            name: [study.measure(item, admitted(item)) for item in cases]
            for name, cases in growth(study.quick).items()
        }
        rows = next(iter(growth(study.quick).values()))
        tall = [x for x in rows if x.shape[-2] >= LARGE]
        memory = [study.memory(item, admitted(item)) for item in tall]
        found["growth"] = {"time": grown, "memory": memory}
        growth_figure(grown, memory, out / f"{stem}-growth.png")
    text = json.dumps(found, indent=1, ensure_ascii=False)
    (out / f"{stem}.json").write_text(text + "\n", encoding="utf-8")


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, default=FIGURES)
    parser.add_argument("--threads", type=int, default=2, help="default: 2")
    parser.add_argument("--repeats", type=int, help="rounds; default: 15, 3 if quick")
    parser.add_argument("--quick", action="store_true", help="smaller, in a minute")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument(
        "--frameworks", nargs="+", choices=FRAMEWORKS, help="default: all on the device"
    )
    arguments = parser.parse_args()
    arguments.repeats = arguments.repeats or (3 if arguments.quick else 15)
    if arguments.frameworks is None:
        left_out = "cupy" if arguments.device == "cpu" else "tf"
        arguments.frameworks = [x for x in FRAMEWORKS if x != left_out]
    arguments.output.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        study = Study(arguments, Path(folder))
        try:
            run(study, arguments.parts, arguments.output)
        finally:
            study.close()
    print(f"{(time.perf_counter() - start) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
