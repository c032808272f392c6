"""Count what of svdinv.unroll and the command line an import or a command takes.

    python benchmarks/imports.py [--list]

Each line of the tables is a fresh process in an empty folder. The first counts modules
of `svdinv.unroll` and `svdinv.cli` in ``sys.modules``, and those of tasks by their
folder, its description left out. The second counts functions of these
packages that are called, and the files they are in, once everything is imported.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter

_PHOTO = """\
from PIL import Image
import numpy as np
pixels = np.add.outer(np.arange(48), np.arange(48))[..., None] + [0, 60, 99]
Image.fromarray(pixels.astype(np.uint8)).save("photo.png")
from svdinv.cli import main
"""
_SERIES = """\
import numpy as np
from svdinv.unroll.tasks.cine.phantom import heart
np.savez("series.npz", heart(6, 48, 48, seed=0).series)
from svdinv.cli import main
"""
_TRAINING = """\
from svdinv.unroll.networks import TLR
from svdinv.unroll.tasks.colour.task import Colour
from svdinv.unroll.training.config import Config, Training
from svdinv.unroll.training.run import Run
network = TLR(cells=2, features=4, block=8)
training = Training(steps=9, batch=2)
run = Run(Config(task=Colour(patch=16), network=network, training=training))
counted = []
"""
_COMMAND = "assert main({}) == 0\n"

IMPORTS = {
    "import svdinv.unroll.torch": "import svdinv.unroll.torch\n",
    "svdinv reconstruct photo.png": _PHOTO
    + _COMMAND.format(["reconstruct", "photo.png", "--output", "out"]),
}
"""Programs whose imports are counted, by their names."""

CALLS = {
    "svdinv reconstruct series.npz": (
        _SERIES,
        _COMMAND.format(["reconstruct", "series.npz", "--output", "out"]),
    ),
    "svdinv fit photo.png": (
        _PHOTO,
        _COMMAND.format(["fit", "photo.png", "--iterations", "3", "--output", "out"]),
    ),
    "a training step": (
        _TRAINING,
        "run.train(stop=lambda: counted.append(0) or len(counted) > 1)\n",
    ),
}
"""Preparations and programs whose calls are counted, by their names."""

_LIST_MODULES = """
import json, sys
parts = ("svdinv.unroll", "svdinv.cli")
print(json.dumps([n for n, m in sys.modules.items() if n.startswith(parts) and m]))
"""
_BEGIN = """
import json, sys, threading
called = set()
def note(frame, event, argument):
    code = frame.f_code
    place = code.co_filename.partition("svdinv/")[2]
    if event == "call" and place.startswith(("unroll/", "cli/")):
        if not code.co_name.startswith("<"):
            called.add((place, code.co_qualname))
threading.setprofile(note)
sys.setprofile(note)
"""
_LIST_CALLS = """
sys.setprofile(None)
print(json.dumps(sorted(called)))
"""


def _last_line(code: str) -> list:
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
    return json.loads(done.stdout.splitlines()[-1])


def modules(code: str) -> list[str]:
    """List svdinv's modules that a program has imported at its end."""
    return _last_line(code + _LIST_MODULES)


def calls(before: str, code: str) -> list[tuple[str, str]]:
    """List files and names of svdinv's functions that a program calls.

    The program has run once before, so that nothing is imported any more.
    """
    warm = code.replace("'out'", "'warm'")
    return _last_line(before + warm + _BEGIN + code + _LIST_CALLS)


def tasks_of(names: list[str]) -> dict[str, int]:
    """Count modules by the folder of their task, its description left out."""
    parts = [name.split(".") for name in names]
    return dict(
        Counter(p[3] for p in parts if p[1:3] == ["unroll", "tasks"] and len(p) > 4)
    )


def main() -> None:
    """Print the tables."""
    shown = "--list" in sys.argv
    for name, code in IMPORTS.items():
        found = modules(code)
        sys.stdout.write(f"{name:<32}{len(found):>5} files  {tasks_of(found)}\n")
        sys.stdout.write("".join(f"    {n}\n" for n in sorted(found) if shown))
    for name, (before, code) in CALLS.items():
        every = calls(before, code)
        files = len({file for file, _ in every})
        sys.stdout.write(f"{name:<32}{len(every):>5} functions in {files} files\n")
        sys.stdout.write("".join(f"    {f} {n}\n" for f, n in every if shown))


if __name__ == "__main__":
    main()
