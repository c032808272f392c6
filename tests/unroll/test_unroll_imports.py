"""What importing the networks brings in."""

from __future__ import annotations

import importlib.metadata

import pytest
from interpreters import complaint, imported, run

from svdinv._missing import command

FOREIGN = {
    "PIL",
    "cupy",
    "h5py",
    "jax",
    "keras",
    "matplotlib",
    "safetensors",
    "scipy",
    "sigpy",
    "skimage",
    "tensorflow",
    "torch",
    "tqdm",
}

# What modules may import, besides NumPy and array-api-compat.
ALLOWED = {
    "": (
        "algorithms",
        "data.masks",
        "tasks.cine.phantom",
        "fidelity",
        "manual",
        "metrics",
        "networks",
        "networks.generators",
        "networks.weights",
        "operators",
        "priors",
        "problem",
    ),
    "scipy": (
        "algorithms.nonlinear",
        "tasks.impedance.tank",
        "tasks.impedance.operator",
        "operators.tomography",
    ),
    "torch": ("torch",),
    "torch, safetensors, tqdm": ("untrained",),
}


# Each interpreter takes them in turn: what came before it imports nothing foreign.
@pytest.mark.parametrize("turns", [[*ALLOWED][:2], [*ALLOWED][2:]])
def test_only_what_is_needed_is_imported(turns):
    code = "import sys\n"
    for allowed in turns:
        modules = ", ".join(f"svdinv.unroll.{name}" for name in ALLOWED[allowed])
        # PyTorch, for one, may import what it finds.
        code += f"import sys, {allowed}".rstrip(", ")
        code += (
            f"\nknown = set(sys.modules)\nimport {modules}\n"
            f"print(*{FOREIGN!r} & (set(sys.modules) - known))\n"
        )
    done = run("-c", code)
    assert (done.returncode, done.stdout) == (0, "\n\n"), done.stderr


def test_a_solver_learns_without_any_framework():
    """Whatever is installed: none of them can be imported here."""
    blocked = sorted(FOREIGN)
    done = run(
        "-c",
        "import sys\n"
        "class Blocked:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] in {blocked!r}:\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Blocked())\n"
        "import numpy as np\n"
        "from svdinv.unroll.manual import Solver\n"
        "from svdinv.unroll.networks import Unrolled\n"
        "y = np.random.default_rng(0).standard_normal((1, 3, 5, 4)) + 0j\n"
        "mask = np.ones(y.shape, bool)\n"
        "solver = Solver(Unrolled(cells=2))\n"
        "print(len(solver.fit([(y, y, mask)], steps=2, progress=False)))\n",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "2\n"


@pytest.mark.parametrize(
    ("module", "missing", "extra"),
    [
        ("torch", "torch", "torch"),
        ("keras", "keras", "keras"),
    ],
)
def test_what_is_missing_is_named(module, missing, extra):
    said = complaint(f"import svdinv.unroll.{module}", missing)
    assert f"for this: {command(extra)}" in said


def test_the_keras_networks_import_only_their_backend():
    pytest.importorskip("keras")
    if "jax" not in {d.name for d in importlib.metadata.distributions()}:
        pytest.skip("no JAX")
    keras = "import os; os.environ['KERAS_BACKEND'] = 'jax'; import keras"
    assert imported("import svdinv.unroll.keras", FOREIGN, keras) == set()
