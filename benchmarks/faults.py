"""Count how many seeded single-line faults the tests notice.

Each fault changes one token of one line of `svdinv/core`, `svdinv/backends` or
`svdinv/operators`: a sign, a conjugate, an axis, a comparison, a tolerance, a number, a
branch of `where`. A copy of the package gets it, and the tests run until the first
failure.

    python benchmarks/faults.py --count 100 --seed 0 tests/test_*.py
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

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
    "transpose": [(r"\bmatrix_transpose\((\w+)\)", r"(\1)")],
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


def candidates(root: Path) -> list[tuple[Path, int, str, str]]:
    """Every fault: file, line, kind, and the line as it would be."""
    found = []
    for folder in ("core", "backends", "operators"):
        for path in sorted((root / "svdinv" / folder).glob("*.py")):
            lines = path.read_text().split("\n")
            for i in code_lines("\n".join(lines)):
                for kind, changes in FAULTS.items():
                    for pattern, by in changes:
                        for match in re.finditer(pattern, lines[i]):
                            new = match.expand(by) if "\\" in by else by
                            line = lines[i]
                            line = line[: match.start()] + new + line[match.end() :]
                            found.append((path.relative_to(root), i, kind, line))
    return found


def notice(
    root: Path, fault: tuple[Path, int, str, str], tests: list[str], seconds: int
) -> str:
    """Run the tests on a copy with one fault: "noticed", "survived" or "slow"."""
    path, i, _, line = fault
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("svdinv", "tests"):
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(root / name, copy / name, ignore=ignore)
        shutil.copy(root / "pyproject.toml", copy)
        lines = (copy / path).read_text().split("\n")
        lines[i] = line
        (copy / path).write_text("\n".join(lines))
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
        environment = {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
        for test in tests:
            try:
                run = subprocess.run(
                    [*command, test], cwd=copy, env=environment,
                    capture_output=True, timeout=seconds,
                )  # fmt: skip
            except subprocess.TimeoutExpired:
                return "noticed (time)"
            if run.returncode not in (0, 5):
                return f"noticed by {Path(test).name}"
    return "survived"


def main() -> None:
    """Print each fault and what became of it, and the score."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("tests", nargs="+", help="test files, the most telling first")
    parser.add_argument("--root", type=Path, default=Path.cwd())
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seconds", type=int, default=900, help="for one test file")
    options = parser.parse_args()
    faults = candidates(options.root)
    random.Random(options.seed).shuffle(faults)
    chosen = faults[: options.count]
    print(f"{len(chosen)} of {len(faults)} faults")

    def run(fault: tuple[Path, int, str, str]) -> str:
        verdict = notice(options.root, fault, options.tests, options.seconds)
        path, i, kind, line = fault
        print(f"{verdict:32s} {path}:{i + 1} {kind}: {line.strip()}", flush=True)
        return verdict

    with ThreadPoolExecutor(options.jobs) as pool:
        verdicts = list(pool.map(run, chosen))
    noticed = sum(verdict != "survived" for verdict in verdicts)
    print(f"{noticed} of {len(verdicts)} noticed")


if __name__ == "__main__":
    main()
