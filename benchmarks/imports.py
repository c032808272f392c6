"""Count the files of svdinv.unroll and the command line that an import brings in.

    python benchmarks/imports.py

Each line of the table is one fresh process. What is counted are the modules of
`svdinv.unroll`, `svdinv.cli` and `svdinv.study` in ``sys.modules``; those of tasks are
listed by their folder, its description left out.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter

CASES = {
    "import svdinv.unroll.torch": "import svdinv.unroll.torch",
    "svdinv reconstruct photo.png": (
        "from PIL import Image\n"
        "import numpy as np\n"
        "pixels = np.add.outer(np.arange(48), np.arange(48))[..., None] + [0, 60, 99]\n"
        "Image.fromarray(pixels.astype(np.uint8)).save('photo.png')\n"
        "from svdinv.cli import main\n"
        "assert main(['reconstruct', 'photo.png', '--output', 'out']) == 0\n"
    ),
}
"""Programs by their names; each runs in an empty folder."""

_COUNT = (
    "import json, sys\n"
    "parts = ('svdinv.unroll', 'svdinv.cli', 'svdinv.study')\n"
    "names = [n for n, m in sys.modules.items() if n.startswith(parts) and m]\n"
    "print(json.dumps(names))\n"
)


def modules(code: str) -> list[str]:
    """Run a program in a process of its own, and list svdinv's modules at its end."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", f"{code}\n{_COUNT}"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
    found: list[str] = json.loads(done.stdout.splitlines()[-1])
    return found


def tasks_of(names: list[str]) -> dict[str, int]:
    """Count modules by the folder of their task, its description left out."""
    parts = [name.split(".") for name in names]
    return dict(
        Counter(p[3] for p in parts if p[1:3] == ["unroll", "tasks"] and len(p) > 4)
    )


def main() -> None:
    """Print the table."""
    for name, code in CASES.items():
        found = modules(code)
        sys.stdout.write(f"{name:<32}{len(found):>5}  tasks: {tasks_of(found)}\n")
        if "--list" in sys.argv:
            sys.stdout.write("".join(f"    {each}\n" for each in sorted(found)))


if __name__ == "__main__":
    main()
