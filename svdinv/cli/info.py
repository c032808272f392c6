"""``svdinv info``: versions, frameworks, kernels, threads, devices and weights."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata as metadata
import os
import platform
import sys

from svdinv import __version__, kernels
from svdinv._missing import command
from svdinv.cli.arguments import Subparsers

# For each framework its packages, and the module that reports its kernels, or the
# reason why it uses none.
_FRAMEWORKS = {
    "numpy": ("numpy", "svdinv.kernels"),
    "torch": ("torch", "svdinv.kernels"),
    "tensorflow": ("tensorflow tensorflow-cpu", "svdinv.backends.tensorflow_kernels"),
    "jax": ("jax", "svdinv.backends.jax_kernels"),
    "cupy": ("cupy-cuda13x cupy-cuda12x cupy", "none: they run on the CPU"),
    "dask": ("dask", "svdinv.kernels"),
    "mlx": ("mlx", "none: MLX's own decompositions are called"),
    "keras": ("keras", ""),
    "array-api-compat": ("array-api-compat", ""),
}


def add(commands: Subparsers, help: str) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "info",
        help=help,
        description=(
            "Print installed versions, the kernels that decompose small matrices and "
            "why, the device that PyTorch uses, and the trained networks in svdinv. "
            "For bug reports."
        ),
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print one line for each item."""
    lines = {
        "svdinv": __version__,
        "Python": f"{platform.python_version()} on {platform.platform()}",
        "kernels": kernels.status(),
        "threads": str(kernels.default_threads()),
    }
    for name, (packages, used) in _FRAMEWORKS.items():
        version = next(filter(None, map(_version, packages.split())), None)
        lines[name] = "not installed" if version is None else version
        if version is not None and used:
            is_module = used.startswith("svdinv.")
            lines[name] += f", kernels {_kernels(name, used) if is_module else used}"
    if lines["torch"] != "not installed":
        lines["device"] = _device()
    for name, text in (*lines.items(), *_weights()):
        print(f"{name:<23} {text}")
    return 0


def _weights() -> list[tuple[str, str]]:
    """Describe the weights that come with svdinv."""
    try:
        from svdinv.unroll import pretrained
        from svdinv.unroll.networks import weights
        from svdinv.unroll.tasks import task_of
    except ModuleNotFoundError as error:
        return [("weights", f"cannot be read without {error.name}: {command('train')}")]
    except ImportError as error:
        return [("weights", f"cannot be read: {error}")]
    found = []
    for name in pretrained.names():
        path = pretrained.path(name)
        try:
            recipe, arrays, kind = weights.read(path)
            axes, channels = (getattr(recipe, n, None) for n in ("axes", "channels"))
            task = task_of(axes, channels, kind)
        except ImportError as error:
            return [("weights", f"cannot be read: {error}")]
        except ValueError as error:
            found.append((f"weights {name}", f"cannot be read: {error}"))
            continue
        numbers = sum(array.size for array in arrays.values())
        size = path.stat().st_size / 1e6
        what = f"{type(recipe).__name__} with {numbers:,} weights, {size:.2f} MB"
        found.append((f"weights {name}", f"{what}, for {task.kind}"))
    return found


def _kernels(framework: str, module: str) -> str:
    """Return which kernels a framework uses, or why it uses none."""
    for name, value in {
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_ENABLE_ONEDNN_OPTS": "0",
    }.items():
        os.environ.setdefault(name, value)  # fewer messages from TensorFlow's import
    try:
        return importlib.import_module(module).chosen()
    except Exception as error:  # a broken installation may raise any
        return f"none: {framework} cannot be imported: {error}"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _device() -> str:
    try:
        import torch
    except Exception as error:  # a broken installation may raise any
        return f"PyTorch cannot be imported: {error}"
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    if sys.platform == "darwin" and torch.backends.mps.is_available():
        return "Apple's GPU (mps)"
    return f"CPU, {torch.get_num_threads()} threads"
