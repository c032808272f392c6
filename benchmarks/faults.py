"""Count how many seeded single-line faults the tests notice.

Each fault changes one token of one line of `svdinv/core`, `svdinv/backends` or
`svdinv/operators`: a sign, a conjugate, an axis, a comparison, a tolerance, a number, a
branch of `where`. A copy of the package gets it, and the tests run until the first
failure, the files named like the faulty one first.

    python benchmarks/faults.py --count 100 --seed 0 tests/test_numpy.py \
        "tests/test_derivatives.py -k 'not jax'" tests/test_*.py

One process imports the frameworks, and forks for every fault and file of tests.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import io
import os
import random
import re
import shlex
import shutil
import signal
import sys
import tempfile
import time
import tokenize
import traceback
from pathlib import Path

import pytest

FRAMEWORKS = ("numpy", "torch", "jax", "tensorflow", "array_api_strict", "mlx.core")
FAULTS = {
    "sign": [
        (r"(?<=[\w\])]) \+ (?=[\w(])", " - "),
        (r"(?<=[\w\])]) - (?=[\w(])", " + "),
    ],
    "conjugate": [
        (r"\badjoint\((\w+), xp\)", r"xp.matrix_transpose(\1)"),
        (r"\bconj\(([^(),]+), xp\)", r"\1"),
    ],
    "axis": [(r"axis=-1\b", "axis=-2"), (r"axis=-2\b", "axis=-1")],
    "comparison": [
        (r" > ", " < "),
        (r" < ", " >= "),
        (r" <= ", " > "),
        (r" >= ", " < "),
    ],
    "tolerance": [(r"\b(rounding_rtol|neighbour_rtol|eps)\(", r"1e6 * \1(")],
    "where": [(r"xp\.where\(", "(lambda condition, one, other: one)(")],
    "factor": [(r"\b0\.5 \*", "1.0 *"), (r"\b2 \* ", "3 * ")],
    "transpose": [(r"\b(?:xp\.)?matrix_transpose\((\w+)\)", r"(\1)")],
    "logic": [(r" & ", " | "), (r" and ", " or "), (r"\bnot ", "")],
}


def code_lines(text: str) -> list[int]:
    """Lines, from 0, that are code of a function and no docstring."""
    tree, chosen = ast.parse(text), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            for statement in node.body:
                doc = isinstance(statement, ast.Expr) and isinstance(
                    statement.value, ast.Constant
                )
                if not doc:
                    chosen |= set(range(statement.lineno - 1, statement.end_lineno))
    lines = text.split("\n")
    return [
        i for i in sorted(chosen) if not lines[i].strip().startswith(("#", "raise"))
    ]


def words(text: str) -> set[tuple[int, int]]:
    """Lines and columns, from 0, of what is in a string or a comment."""
    found = set()
    lines = text.split("\n")
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.STRING, tokenize.COMMENT):
            (row, start), (last, end) = token.start, token.end
            for i in range(row - 1, last):
                first = start if i == row - 1 else 0
                stop = end if i == last - 1 else len(lines[i])
                found |= {(i, column) for column in range(first, stop)}
    return found


def candidates(root: Path) -> list[tuple[Path, int, str, str]]:
    """Every fault: file, line, kind, and the line as it would be."""
    found = []
    for folder in ("core", "backends", "operators"):
        for path in sorted((root / "svdinv" / folder).glob("*.py")):
            text = path.read_text()
            lines, apart = text.split("\n"), words(text)
            for i in code_lines(text):
                for kind, changes in FAULTS.items():
                    for pattern, by in changes:
                        for match in re.finditer(pattern, lines[i]):
                            if (i, match.start()) in apart:
                                continue
                            new = match.expand(by) if "\\" in by else by
                            line = lines[i]
                            line = line[: match.start()] + new + line[match.end() :]
                            found.append((path.relative_to(root), i, kind, line))
    return found


class First:
    """Writes down the first test that fails."""

    def __init__(self, pipe: int) -> None:
        self.pipe, self.written = pipe, False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Look at a test."""
        self._look(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Look at a file of tests."""
        self._look(report)

    def _look(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.failed and not self.written:
            self.written = True
            os.write(self.pipe, (report.nodeid or "collection").encode())


def work(copy: Path, arguments: list[str], pipe: int) -> int:
    """Run pytest in this process, on a copy."""
    os.setpgid(0, 0)
    for number in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), number)
    os.chdir(copy)
    sys.path[0] = str(copy)
    os.environ["PYTHONPATH"] = str(copy)
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    try:
        import svdinv

        assert Path(svdinv.__file__).is_relative_to(copy)
        return pytest.main([*options, *arguments], [First(pipe)])
    except BaseException:
        os.write(pipe, traceback.format_exc().splitlines()[-1].encode())
        return 70


def fork(copy: Path, arguments: list[str], seconds: float) -> str | None:
    """Run some tests in a process: what failed, or None."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 71
        try:
            code = int(work(copy, arguments, writing))
        finally:
            os._exit(code)
    os.close(writing)
    end, status = time.monotonic() + seconds, None
    while status is None and time.monotonic() < end:
        done, found = os.waitpid(pid, os.WNOHANG)
        status = found if done else None
        time.sleep(0.02)
    if status is None:
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    with contextlib.suppress(ProcessLookupError):  # what it left behind
        os.killpg(pid, signal.SIGKILL)
    with open(reading, "rb") as pipe:
        failed = pipe.read().decode()
    if status is None:
        return failed or "time"
    code = os.waitstatus_to_exitcode(status)
    if code == pytest.ExitCode.USAGE_ERROR:
        raise SystemExit(f"pytest cannot run {shlex.join(arguments)}")
    return None if code in (0, 5) else failed or f"exit code {code}"


def ordered(tests: list[str], path: Path) -> list[str]:
    """Files of tests, those named like the file with the fault first."""
    stem = path.stem.removesuffix("_namespace").removesuffix("_threads")
    return sorted(tests, key=lambda test: stem not in Path(test).stem)


def notice(
    root: Path, fault: tuple[Path, int, str, str], tests: list[str], seconds: int
) -> str:
    """Run the tests on a copy with one fault: by what it was noticed, or "survived"."""
    path, i, _, line = fault
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("svdinv", "tests", "requirements"):
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(root / name, copy / name, ignore=ignore)
        shutil.copy(root / "pyproject.toml", copy)
        lines = (copy / path).read_text().split("\n")
        lines[i] = line
        (copy / path).write_text("\n".join(lines))
        for test in ordered(tests, path):
            failed = fork(copy, shlex.split(test), seconds)
            if failed is not None:
                return f"noticed by {failed}"
    return "survived"


def main() -> None:
    """Print each fault and what became of it, and the score."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "tests", nargs="+", help="files of tests, with options, the most telling first"
    )
    parser.add_argument("--root", type=Path, default=Path.cwd())
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--seconds", type=int, default=900, help="for one file of tests"
    )
    parser.add_argument("--only", type=int, nargs="+", help="numbers of faults")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    for name in FRAMEWORKS:  # imports alone: what computes may not fork
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    root = options.root.resolve()
    faults = candidates(root)
    random.Random(options.seed).shuffle(faults)
    chosen = dict(enumerate(faults[: options.count]))
    if options.only:
        chosen = {number: chosen[number] for number in options.only}
    print(f"{len(chosen)} of {len(faults)} faults")
    survivors = []
    for number, fault in chosen.items():
        start = time.monotonic()
        verdict = notice(root, fault, options.tests, options.seconds)
        path, i, kind, line = fault
        print(f"{number} {path}:{i + 1} {kind}: {line.strip()}")
        print(f"    {verdict} ({time.monotonic() - start:.0f} s)", flush=True)
        survivors += [number] * (verdict == "survived")
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} noticed", *survivors)


if __name__ == "__main__":
    main()
