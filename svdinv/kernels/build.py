"""Compile the kernels into shared libraries, with the C compiler that is found.

Run by the build hook of the package, and by hand as ``python -m svdinv.kernels.build``.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
LIBRARY = HERE / "libsvdinv.so"
# TensorFlow's operation, in a library that TensorFlow loads.
TENSORFLOW = HERE / "libsvdinv_tensorflow.so"
LIBRARIES = LIBRARY, TENSORFLOW

# Bytes of a vector, and the flags, of each instruction set; the widest last.
X86 = {
    "baseline": (16, ["-msse2"]),
    "avx2": (32, ["-mavx2", "-mfma"]),
    "avx512": (
        64,
        [
            "-mavx512f",
            "-mavx512vl",
            "-mavx512dq",
            "-mavx512bw",
            "-mfma",
            "-mprefer-vector-width=512",
        ],
    ),
}
OTHER: dict[str, tuple[int, list[str]]] = {"baseline": (16, [])}
# Instruction sets compiled for one matrix alone, which longer vectors do not speed up.
ALONE = "baseline", "avx2"
# Sources compiled for every instruction set and type, and for one matrix alone.
SOURCES = (
    *("decompositions.c", "derivatives.c", "consistent.c"),
    *("alignment.c", "tall.c", "tall_eigen.c"),
)
SOURCES_ALONE = "alone.c", "derivatives.c", "consistent.c", "tall_eigen.c"
OPTIONS = {"consistent.c": ["-ffp-contract=off"]}
TYPES = {"f32": (0, 0), "f64": (1, 0), "c64": (0, 1), "c128": (1, 1)}
FLAGS = [
    *("-std=gnu11", "-O3", "-fPIC", "-fvisibility=hidden", "-pthread"),
    *("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"),
    *("-Wall", "-Wextra", "-Werror", "-Wno-psabi", "-Wno-unknown-warning-option"),
]


class BuildError(RuntimeError):
    """No library could be compiled; the message says why."""


def compiler() -> list[str] | None:
    """Command of a C compiler: $CC, that of the system, or the one in ziglang."""
    if os.environ.get("CC"):
        return os.environ["CC"].split()
    for name in ("cc", "gcc", "clang"):
        if found := shutil.which(name):
            return [found]
    try:
        import ziglang  # type: ignore[import-not-found]  # noqa: F401
    except ImportError:
        return None
    return [sys.executable, "-m", "ziglang", "cc"]


def build(
    to: Path = LIBRARY, extra: tuple[str, ...] = (), names: tuple[str, ...] = ()
) -> tuple[Path, ...]:
    """Compile every instruction set and type, or those named, and link the libraries.

    Each library is replaced in one step; the one with the kernels becomes `to`. `extra`
    are further flags, such as ``-fsanitize=address``. Raises BuildError if there is no
    compiler, or it fails.
    """
    command = compiler()
    if command is None:
        raise BuildError("no C compiler (cc, gcc, clang, or the ziglang package)")
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    sets = X86 if x86 else OTHER
    sets = {name: sets[name] for name in names or sets}
    alone = [name for name in sets if name in ALONE]
    variants, for_one = (
        " ".join(f"X({name})" for name in names) for names in (sets, alone)
    )
    # An instruction set, bytes of a vector or 0 for one matrix alone, and a source.
    units = [(name, sets[name][0], source) for name in sets for source in SOURCES]
    units += [(name, 0, source) for name in alone for source in SOURCES_ALONE]
    with tempfile.TemporaryDirectory() as folder:
        jobs = [
            (
                Path(folder) / f"{name}-{width}-{kind}-{source}.o",
                [
                    *sets[name][1],
                    *OPTIONS.get(source, []),
                    f"-DLANE_BYTES={width}",
                    f"-DSUFFIX={kind}_{name}{'' if width else '_alone'}",
                    f"-DDOUBLE={double}",
                    f"-DCOMPLEX={pair}",
                    str(HERE / source),
                ],
            )
            for name, width, source in units
            for kind, (double, pair) in TYPES.items()
        ]
        entry = [f"-DVARIANTS(X)={variants}", f"-DALONE(X)={for_one}"]
        entry.append(str(HERE / "batch.c"))
        jobs.append((Path(folder) / "batch.o", entry))
        jobs.append((Path(folder) / "xla.o", [str(HERE / "xla.c")]))
        jobs.append((Path(folder) / "tensorflow.o", [str(HERE / "tensorflow.c")]))

        def compiled(job: tuple[Path, list[str]]) -> str:
            target, arguments = job
            _run([*command, *FLAGS, *extra, *arguments, "-c", "-o", str(target)])
            return str(target)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(compiled, jobs))
        libraries = to, to.with_name(TENSORFLOW.name)
        _link([*command, *extra], objects[:-1], libraries[0])
        _link([*command, *extra], objects[-1:], libraries[1])
    return libraries


def _link(command: list[str], objects: list[str], to: Path) -> None:
    partial = to.with_suffix(f".{os.getpid()}.tmp")
    libraries = [] if sys.platform == "darwin" else ["-ldl"]
    flags = ["-shared", "-pthread", *objects, "-lm", *libraries, "-o", str(partial)]
    _run([*command, *flags])
    os.replace(partial, to)


def up_to_date() -> bool:
    """Check whether the libraries load here and are newer than their sources."""
    sources = [HERE / "build.py", *HERE.glob("*.[ch]")]
    try:
        ctypes.CDLL(str(LIBRARY))
        made = min(library.stat().st_mtime for library in LIBRARIES)
    except OSError:
        return False
    return all(source.stat().st_mtime < made for source in sources)


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BuildError(f"{command[0]}: {error}") from error
    if done.returncode:
        raise BuildError(f"{' '.join(command)}\n{done.stderr.strip()}")


if __name__ == "__main__":
    print(*build(extra=tuple(sys.argv[1:])))
