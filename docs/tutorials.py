"""Sphinx extension: runs the tutorials, and shows what they print and plot.

The ```python blocks of a page ``tutorial-*.md`` run in their order, in one new process
for each page, since Keras has one backend in a process. Behind each block stand what
it printed and the pictures ``figure-*.png`` and ``figure-*.gif`` that it saved. Nothing
is kept from one build to the next, and a block that fails, or warns, fails the build.

Run by itself, as ``python tutorials.py PAGE RESULTS``, it is that process.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["Block", "Failed", "Result", "blocks", "execute", "illustrated", "setup"]

_BLOCK = re.compile(r"^```python\n(.*?)^```\n", re.M | re.S)
_FIGURES = ("figure-*.png", "figure-*.gif")
_SECONDS = 600  # for one page, on a machine that has much else to do

# Keras's variables do not know NumPy's keyword `copy`.
_WARNINGS = ("error", "ignore:__array__ impl:DeprecationWarning")


class Failed(Exception):
    """A page with a block that does not run."""


@dataclass(frozen=True)
class Block:
    """A block of a page.

    Attributes
    ----------
    code : str
        Its program.
    line : int
        Number of its first line in the page.
    end : int
        Where the page goes on behind it, in characters.
    """

    code: str
    line: int
    end: int


@dataclass(frozen=True)
class Result:
    """What a block gave.

    Attributes
    ----------
    printed : str
        Its output.
    figures : tuple of str
        Names of the pictures it saved.
    """

    printed: str
    figures: tuple[str, ...]


def blocks(text: str) -> list[Block]:
    """Find the Python blocks of a page.

    Parameters
    ----------
    text : str
        The page.

    Returns
    -------
    list of Block
        In their order.
    """
    return [
        Block(match[1], text.count("\n", 0, match.start(1)) + 1, match.end())
        for match in _BLOCK.finditer(text)
    ]


def execute(page: Path, folder: Path) -> list[Result]:
    """Run the blocks of a page in a process of its own.

    Parameters
    ----------
    page : Path
        The page.
    folder : Path
        Where the pictures go; it is made anew.

    Returns
    -------
    list of Result
        One for each block.

    Raises
    ------
    Failed
        Naming the page, the block and the exception.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        results = place / "results.json"
        work = place / "work"
        work.mkdir()
        program = [sys.executable, "-P", *(f"-W{warning}" for warning in _WARNINGS)]
        command = [*program, __file__, str(page.resolve()), str(results)]
        try:
            done = subprocess.run(
                command,
                cwd=work,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise Failed(f"{page.name}: took more than {_SECONDS} s") from None
        if done.returncode:
            ended = f"{page.name}: ended with code {done.returncode}"
            raise Failed(done.stderr.strip() or ended)
        found = json.loads(results.read_text(encoding="utf-8"))
        for pattern in _FIGURES:
            for figure in work.glob(pattern):
                shutil.copy(figure, folder)
    return [Result(one["printed"], tuple(one["figures"])) for one in found]


def illustrated(text: str, results: list[Result], folder: str) -> str:
    """Put behind each block of a page what it gave.

    Parameters
    ----------
    text : str
        The page.
    results : list of Result
        One for each of its blocks.
    folder : str
        Of the pictures, as the page should name it.

    Returns
    -------
    str
        The page with its results.
    """
    parts, begin = [], 0
    for block, result in zip(blocks(text), results, strict=True):
        parts += [text[begin : block.end], *_shown(result, folder)]
        begin = block.end
    return "".join([*parts, text[begin:]])


_results: dict[str, list[Result]] = {}  # of each page, by its name


def setup(app: Any) -> dict[str, Any]:
    """Run tutorials before Sphinx reads them."""
    app.connect("env-before-read-docs", _execute_all)
    app.connect("source-read", _read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _execute_all(app: Any, env: Any, docnames: list[str]) -> None:
    # Sphinx would give all of them to one of its processes, as neighbours.
    from sphinx.errors import ExtensionError

    names = [name for name in docnames if Path(name).name.startswith("tutorial-")]
    pages = [Path(env.doc2path(name)) for name in names]
    folders = [_folder(app, name) for name in names]
    with ThreadPoolExecutor(app.parallel) as pool:
        try:
            _results.update(zip(names, pool.map(execute, pages, folders), strict=True))
        except Failed as error:
            raise ExtensionError(str(error)) from None


def _read(app: Any, docname: str, source: list[str]) -> None:
    if docname in _results:
        page = Path(app.env.doc2path(docname))
        relative = Path(os.path.relpath(_folder(app, docname), page.parent))
        source[0] = illustrated(source[0], _results[docname], relative.as_posix())


def _folder(app: Any, docname: str) -> Path:
    return Path(app.doctreedir) / "tutorials" / docname


def _shown(result: Result, folder: str) -> Iterator[str]:
    if result.printed.strip():
        yield f"\n```text\n{result.printed.rstrip()}\n```\n"
    for name in result.figures:
        words = Path(name).stem.removeprefix("figure-").replace("-", " ")
        yield f"\n```{{image}} {folder}/{name}\n:alt: {words}\n```\n"


def _environment() -> dict[str, str]:
    root = str(Path(__file__).parents[1])
    paths = [root, os.environ.get("PYTHONPATH", "")]
    return {
        **{k: v for k, v in os.environ.items() if k != "KERAS_BACKEND"},
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "OMP_NUM_THREADS": "1",
        "MPLBACKEND": "agg",
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }


def _run(page: Path) -> list[Result]:
    """Run the blocks of a page here, in the working directory."""
    results: list[Result] = []
    names: dict[str, Any] = {"__name__": "__main__"}
    text = page.read_text(encoding="utf-8")
    for number, block in enumerate(blocks(text), 1):
        before, printed = _figures(), io.StringIO()
        try:
            # Preceded by empty lines, so that tracebacks show the lines of the page.
            program = "\n" * (block.line - 1) + block.code
            code = compile(program, str(page), "exec", dont_inherit=True)
            with contextlib.redirect_stdout(printed):
                exec(code, names)
            new = _new(before)
        except BaseException as error:
            sys.stderr.write(
                f"{page.name}: block {number}, line {block.line}: "
                f"{type(error).__name__}: {error}\n{printed.getvalue()}"
                f"{traceback.format_exc()}"
            )
            raise SystemExit(1) from None
        results.append(Result(printed.getvalue(), new))
    return results


def _new(before: dict[str, int]) -> tuple[str, ...]:
    """Name the pictures that were written since, each for the first time."""
    after = _figures()
    again = [name for name, at in before.items() if after.get(name) != at]
    if again:
        raise FileExistsError(f"{again[0]} belongs to a block before")
    return tuple(sorted(after.keys() - before))


def _figures() -> dict[str, int]:
    """Names of the pictures in the working directory, and when they were written."""
    paths = (path for pattern in _FIGURES for path in Path().glob(pattern))
    return {path.name: path.stat().st_mtime_ns for path in paths}


if __name__ == "__main__":
    _page, _target = map(Path, sys.argv[1:])
    _content = json.dumps([asdict(result) for result in _run(_page)])
    _target.write_text(_content, encoding="utf-8")
