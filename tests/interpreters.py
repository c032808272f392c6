"""Interpreters of their own: for what is imported, and for one backend of Keras each.

Run as a script, it calls the functions ``check_*`` of others, and writes down of each
whether it failed: `keras_checks` starts it where one process has one backend.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import re
import subprocess
import sys
import traceback
from pathlib import Path

import pytest


def run(*arguments, **environment):
    """Run Python with these arguments; give what came of it."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def imported(statement, modules, before=""):
    """Which of the modules a statement imports in an interpreter, after another one."""
    code = (
        f"import sys\n{before}\nknown = set(sys.modules)\n{statement}\n"
        f"print(*{modules!r} & (set(sys.modules) - known))"
    )
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def complaint(statement, missing):
    """What an ImportError of a statement says where a module is not installed."""
    done = run(
        "-c",
        f"import sys; sys.modules[{missing!r}] = None\n"
        f"try:\n    {statement}\nexcept ImportError as error:\n    print(error)\n",
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def checks(script):
    """Names of the checks of a script."""
    return re.findall(r"^def (check_\w+)", script.read_text(encoding="utf-8"), re.M)


def keras_checks(backend, folder, *scripts):
    """Run the checks of scripts on a backend of Keras: of each, None or its failure.

    Each check is given the folder that is called like its script.
    """
    pytest.importorskip(backend)
    # Keras's variables do not know NumPy's keyword `copy`.
    warnings = ["-W", "error", "-W", "ignore:__array__ impl:DeprecationWarning"]
    # XLA takes half the time without optimizing; its programs run but a few times here.
    flags = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=1"
    flags = f"{os.environ.get('XLA_FLAGS', '')} {flags}"
    environment = {"KERAS_BACKEND": backend, "XLA_FLAGS": flags}
    done = run(*warnings, __file__, folder, *scripts, **environment)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "failed.json").read_text(encoding="utf-8"))


def _call_checks(folder, *scripts):
    gc.set_threshold(50_000, 20, 10)  # as in `conftest`
    failed = {script.stem: {} for script in scripts}
    for script in scripts:
        sys.path.insert(0, str(script.parent))
        module = importlib.import_module(script.stem)
        (folder / script.stem).mkdir(exist_ok=True)
        for name in checks(script):
            try:
                getattr(module, name)(folder / script.stem)
                failed[script.stem][name] = None
            except Exception:
                failed[script.stem][name] = traceback.format_exc()
    (folder / "failed.json").write_text(json.dumps(failed), encoding="utf-8")


if __name__ == "__main__":
    _call_checks(*map(Path, sys.argv[1:]))
