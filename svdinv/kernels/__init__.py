"""Batches of small matrices on the CPU: one matrix in each lane of its vectors.

`decompositions.c`, `derivatives.c`, `consistent.c`, `alignment.c` and `tall.c` hold the
algorithms, `batch.c` the threads and the choice of an instruction set, and `build.py`
compiles all into one library without a trace of Python in it. Where that library is
missing, `suits` says no to everything.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

__all__ = [
    "DECOMPOSITIONS",
    "KINDS",
    "OF_POINTS",
    "Layout",
    "default_threads",
    "derives",
    "handles",
    "plan",
    "pulls",
    "run",
    "status",
    "suits",
    "suits_tall",
    "tall_blocks",
    "variants",
    "xla_handler",
]

KINDS = (
    *("svd", "eigh", "map", "derivative", "svd_pull", "eigh_pull"),
    *("align", "align_pull", "tall_eigen", "tall_gram", "tall_product"),
)
"""What the kernels do, in the order of `batch.c`."""

_KIND = {kind: index for index, kind in enumerate(KINDS)}

OF_POINTS = KINDS[6:8]
"""Those whose matrices are points, of which there may be fewer than dimensions."""

DECOMPOSITIONS = KINDS[:2]
"""Those that may fail."""

_LIBRARY = Path(__file__).parent / "libsvdinv.so"
# Beyond these sizes LAPACK's blocks are faster, or the lanes leave the caches.
_LARGEST, _MOST_ELEMENTS = 64, 8192
# Fewer matrices leave most lanes empty, which pays for those of few elements only.
_LEAST_BATCH, _FEW_ELEMENTS = 4, 1024
# LAPACK reduces long matrices to short ones first. Beyond this ratio of the sides that
# is faster, and for a small batch beyond a smaller one.
_MOST_SLENDER = 64
# Elements, for each matrix of a batch, up to which products in lanes are faster than
# array functions; a pullback of a decomposition takes more of these.
_DERIVED, _PULLED = 1024, 4096
# From here on, vectors of full length leave the second cache.
_NARROW_FROM = 41
# As many numbers as a narrow vector has: fewer matrices leave half of a long one empty.
_NARROW_LANES = (8, 4, 8, 4)

_TYPES = {"float32": 0, "float64": 1, "complex64": 2, "complex128": 3}
# Kernels with rows of one matrix in their lanes, and so many rows in one block.
_BY_ROWS, _TALL_ROWS = KINDS[-2:], 1024
# Shorter sides, and ratios of the sides, for which one matrix alone is worth it.
_ONE_SHORT, _ONE_LONG = 32, 32


# struct Task in task.h, by the number of arrays that there are.
_TASKS = [struct.Struct(f"{4 * n}q{32 * (12 - n)}x2dP3q") for n in range(13)]
_ABSENT = (0, 0, 0, 0)


Layout: TypeAlias = tuple[int, int, int, int]
"""Matrices in memory: an address, and the strides of a matrix, a row and a column.

These are counted in real numbers.
"""


class _Kernels:
    """The loaded library: the variants that the processor runs, narrowest first."""

    def __init__(self) -> None:
        self.indices: dict[str, int] = {}
        self.reason = ""
        try:
            library = ctypes.CDLL(str(_LIBRARY))
        except OSError as error:
            missing = not _LIBRARY.exists()
            self.reason = "they were not compiled" if missing else str(error)
            return
        self.library = library
        library.svdinv_variant.restype = ctypes.c_char_p
        for index in range(8):
            name = library.svdinv_variant(index)
            if name is None:
                break
            if library.svdinv_supported(index):
                self.indices[name.decode()] = index
        self.run = library.svdinv_run
        self.run.argtypes = [ctypes.c_int] * 4 + [ctypes.c_int64, ctypes.c_char_p]
        self.select(os.environ.get("SVDINV_ISA", ""))

    def select(self, name: str) -> None:
        """Take one instruction set, or the widest for an empty name."""
        if name == "none":
            self.indices, self.reason = {}, "SVDINV_ISA=none"
            return
        if name and name not in self.indices:
            self.reason = (
                f"SVDINV_ISA={name} is none of {', '.join(self.indices)}, which this "
                "processor runs"
            )
            self.indices = {}
            return
        self.wide = list(self.indices.values())[-1]
        if name:
            self.wide = self.indices[name]
        self.narrow = min(self.wide, self.indices.get("avx2", self.wide))


_kernels = _Kernels()


def handles(dtype: str, batch: int, m: int, n: int) -> bool:
    """Tell whether the kernels take such matrices at all."""
    return (
        bool(_kernels.indices)
        and dtype in _TYPES
        and 0 < min(m, n) <= _LARGEST
        and batch > 0
        and m * n <= _MOST_ELEMENTS
    )


def suits(dtype: str, batch: int, m: int, n: int) -> bool:
    """Tell whether the kernels decompose a batch faster than LAPACK."""
    slender = max(m, n) > min(batch, _MOST_SLENDER) * min(m, n)
    many = batch >= _LEAST_BATCH and not slender
    return (many or m * n <= _FEW_ELEMENTS) and handles(dtype, batch, m, n)


def derives(dtype: str, batch: int, m: int, n: int) -> bool:
    """Tell whether the kernels are faster with U diag(y) V^H, and its derivative."""
    return m * n <= _DERIVED * batch and handles(dtype, batch, m, n)


def pulls(dtype: str, batch: int, m: int, n: int) -> bool:
    """Tell whether they are with the pullback of a decomposition."""
    return m * n <= _PULLED * batch and handles(dtype, batch, m, n)


def suits_tall(dtype: str, batch: int, m: int, n: int) -> bool:
    """Tell whether Gram matrices of a tall or wide batch are faster by the kernels."""
    short, long = min(m, n), max(m, n)
    return (
        bool(_kernels.indices)
        and dtype in ("float32", "complex64")
        and 0 < short <= _LARGEST
        and long >= 2 * short
        and batch > 0
        # Eigenvectors of one matrix, in one lane, may cost as much as an SVD by LAPACK.
        and (batch > 1 or short <= _ONE_SHORT or long >= _ONE_LONG * short)
    )


def tall_blocks(m: int) -> int:
    """Give the number of blocks of rows of a tall matrix."""
    return -(-m // _TALL_ROWS)


def _variant(kind: str, dtype: str, batch: int, n: int) -> int:
    if kind in _BY_ROWS:
        return _kernels.wide
    narrow = n >= _NARROW_FROM or batch <= _NARROW_LANES[_TYPES[dtype]]
    return _kernels.narrow if narrow else _kernels.wide


def default_threads() -> int:
    """OMP_NUM_THREADS, or the number of processors that this process may use."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdigit() and int(given) > 0:
        return int(given)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run(
    kind: str,
    dtype: str,
    shape: tuple[int, int, int],
    arrays: Sequence[Layout | None],
    *,
    failed: int | None = None,
    numbers: tuple[float, float] = (0.0, 0.0),
    adjoint: bool = False,
    threads: int,
) -> int:
    """Run a kernel, one of `KINDS`, over a batch; give how many matrices failed.

    What its arrays are, None for one that is absent, is said at the kernel. The shape
    is b, m and n, with m >= n but for points. `failed` is the address of b numbers of
    type int32, which tell where a decomposition gave up; `numbers` are tolerances;
    `adjoint` tells whether the matrices in memory are the adjoints of those of the
    kernel. At most so many threads are used. Raises MemoryError if there is none for
    the work.
    """
    batch, m, n = shape
    flat: list[int] = []
    for layout in arrays:
        flat += layout or _ABSENT
    task = _TASKS[len(arrays)].pack(*flat, *numbers, failed or 0, m, n, adjoint)
    variant = _variant(kind, dtype, batch, n)
    count = _kernels.run(_KIND[kind], variant, _TYPES[dtype], threads, batch, task)
    if count < 0:
        raise MemoryError("no memory for the kernels of small matrices")
    return count


def plan(
    kind: str,
    dtype: str,
    batch: int,
    m: int,
    n: int,
    adjoint: bool,
    numbers: tuple[float, float],
) -> list[int]:
    """First numbers of the plan in `xla.c`: all but the arrays."""
    variant = _variant(kind, dtype, batch, n)
    head = [_KIND[kind], variant, _TYPES[dtype], default_threads()]
    bits = struct.unpack("2q", struct.pack("2d", *numbers))
    return [*head, batch, m, n, int(adjoint), -1, *bits]


def xla_handler() -> Any:
    """Give the handler of XLA's custom call, or None where it was not compiled."""
    return getattr(_kernels.library, "svdinv_xla", None) if _kernels.indices else None


def variants() -> tuple[str, ...]:
    """Names of the instruction sets that may be taken, narrowest first."""
    return tuple(_kernels.indices)


def status() -> str:
    """Say which kernels are used, or why none are."""
    if not _kernels.indices:
        return f"none: {_kernels.reason}"
    chosen = {index: name for name, index in _kernels.indices.items()}
    return f"{chosen[_kernels.wide]} (of {', '.join(_kernels.indices)})"
