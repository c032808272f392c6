"""Batches of small matrices on the CPU: one matrix in each lane of its vectors.

`decompositions.c`, `derivatives.c`, `consistent.c`, `alignment.c`, `tall.c` and
`tall_eigen.c` hold the algorithms; `alone.c` decomposes one matrix, whose columns are
in the lanes. `batch.c` holds the threads and the choice of an instruction set, and
`build.py` compiles all into one library that does not depend on Python. `rules.py`
states which operations the kernels compute, and with which arrays. Three modules call
the library: `memory.py` with addresses, `svdinv.backends.jax_kernels` through `xla.c`,
and `svdinv.backends.tensorflow_kernels` through `tensorflow.c`. Where the library is
missing, `supports` is False for everything.
"""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path
from typing import Any

KINDS = (
    *("svd", "eigh", "spectral", "map", "derivative", "svd_pull", "eigh_pull"),
    *("clusters", "hermitian", "product", "align", "align_pull"),
    *("tall_eigen", "tall_gram", "tall_product"),
)
"""Names of the kernels, in the order of `call.h`."""

DOUBLE = {"float32": "float64", "complex64": "complex128"}
"""The double precision dtype for each single precision dtype."""

_KIND = {kind: index for index, kind in enumerate(KINDS)}
_TYPE = {"float32": 0, "float64": 1, "complex64": 2, "complex128": 3}

_LIBRARY = Path(__file__).parent / "libsvdinv.so"
TENSORFLOW_LIBRARY = _LIBRARY.with_name("libsvdinv_tensorflow.so")
"""Path of the library with TensorFlow's operation."""

# Beyond these sizes LAPACK's blocks are faster, or the lanes leave the caches.
_LARGEST, _MOST_ELEMENTS = 64, 8192
# Fewer matrices leave most lanes empty, which pays only for matrices of few elements.
_LEAST_BATCH, _FEW_ELEMENTS = 4, 1024
# LAPACK first reduces long matrices to short ones. That is faster beyond this ratio of
# the sides, and for a small batch beyond a smaller one.
_MOST_SLENDER = 64
# Up to this ratio and number of elements, kernels are faster for any batch.
_SLENDER, _SOME_ELEMENTS = 8, 4096
# Elements up to which the kernels are not slower for one matrix of any ratio.
_TINY = 256
# The same, compared with LAPACK's singular values without vectors.
_TINY_OF_VALUES = 192
# Work m n min(m, n) for each matrix of the batch up to which products in lanes are
# faster than array functions, though one matrix leaves most lanes empty.
_MOST_WORK = 2**18
_OF_PRODUCTS = "map", "spectral", "derivative", "hermitian", "svd_pull", "eigh_pull"
# The same for one matrix alone, of which no lane is empty, and whose U diag(y) V^H is
# two products, as by a BLAS.
_LARGEST_ONE, _MOST_ELEMENTS_ONE, _MOST_WORK_ONE = 128, 2**16, 2**21
# Most values among which clusters are searched, in memory for three such matrices.
_MOST_CLUSTERED = 4096
_TALL_ROWS = 1024  # of one block, as in tall.h

# struct Call in call.h: a kind, a type and a shape, numbers, and strides.
_CALL = struct.Struct("5q2d36q")
_ADDRESSES = struct.Struct("12P")
# As in graph.h: the version that saved graphs are checked against, and flags.
_PLAN_VERSION = 3
_TRANSPOSED, _REAL, _PAIRS = 1, 2, 4


def default_threads() -> int:
    """OMP_NUM_THREADS, or the number of processors that this process may use."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdigit() and int(given) > 0:
        return int(given)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Kernels:
    """The loaded library: the variants that the processor runs, narrowest first."""

    def __init__(self) -> None:
        self.indices: dict[str, int] = {}
        self.compiled: list[str] = []
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
            self.compiled.append(name.decode())
            if library.svdinv_supported(index):
                self.indices[name.decode()] = index
        self.run = library.svdinv_run
        self.run.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int]
        self.select(os.environ.get("SVDINV_ISA", ""))

    def select(self, name: str) -> None:
        """Select an instruction set, or the widest for an empty name."""
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
        self.wide = self.indices[name] if name else list(self.indices.values())[-1]
        narrow = min(self.wide, self.indices.get("avx2", self.wide))
        self.library.svdinv_select(self.wide, narrow, default_threads())


_kernels = _Kernels()


def is_loaded() -> bool:
    """Whether kernels for this processor are loaded."""
    return bool(_kernels.indices)


def supports(
    kind: str,
    dtype: str,
    batch: Any,
    m: Any,
    n: Any,
    least: Any = min,
    most: Any = max,
) -> Any:
    """Whether the kernels compute such matrices, and faster than array functions.

    All limits of the kernels are here. The lengths may be scalar arrays, with `least`
    and `most` as minimum and maximum of two; then the result is an array, too.
    """
    tall = kind.startswith("tall")
    if not _kernels.indices or dtype not in (DOUBLE if tall else _TYPE):
        return False
    short, long = least(m, n), most(m, n)
    if tall:
        fits = (short > 0) & (short <= _LARGEST) & (long >= 2 * short)
        return fits & (batch > 0)
    if kind == "clusters":  # replaces many passes over such arrays
        return (batch > 0) & (n > 0) & (n <= _MOST_CLUSTERED)
    work, there = m * n * short, (short > 0) & (batch > 0)
    fits = there & (short <= _LARGEST) & (m * n <= _MOST_ELEMENTS)
    if kind in _OF_PRODUCTS:
        fits = fits & (work <= _MOST_WORK * batch)
    if kind in _OF_PRODUCTS and kind != "spectral":
        most = _MOST_WORK if kind == "map" else _MOST_WORK_ONE
        fits = fits | (
            (there & (batch == 1) & (short <= _LARGEST_ONE))
            & ((m * n <= _MOST_ELEMENTS_ONE) & (work <= most))
        )
    if kind in (*_OF_PRODUCTS, "product") and kind != "spectral":
        return fits
    if kind.startswith("align"):  # whose decompositions are of n x n matrices
        few = (batch >= _LEAST_BATCH) | (n * n <= _FEW_ELEMENTS)
        return fits & (n <= _LARGEST) & few
    if kind not in ("svd", "eigh", "spectral"):
        raise ValueError(f"there is no kernel {kind!r}")
    many = (batch >= _LEAST_BATCH) & (long <= least(batch, _MOST_SLENDER) * short)
    some = long <= _SLENDER * short
    if kind == "spectral":
        # Without kernels, a map of the factors takes several calls of Python. But two
        # or three matrices leave lanes empty.
        some = some | (batch == 1) | (batch >= _LEAST_BATCH)
        some = some | (m * n <= _SOME_ELEMENTS // 2)
    some = some & (m * n <= _SOME_ELEMENTS)
    return fits & (many | some | (m * n <= _FEW_ELEMENTS))


def suits_alone(kind: str, m: int, n: int) -> bool:
    """Whether the kernels support a matrix of that size only if it is alone."""
    lanes = min(m, n) <= _LARGEST and m * n <= _MOST_ELEMENTS
    lanes = lanes and m * n * min(m, n) <= _MOST_WORK
    return kind in _OF_PRODUCTS and not lanes


def outruns_lapack(m: int, n: int) -> bool:
    """Whether kernels decompose one supported matrix faster than the framework does."""
    return m * n <= _TINY or max(m, n) <= _SLENDER * min(m, n)


def outruns_values(m: int, n: int) -> bool:
    """Whether kernels decompose one matrix faster than LAPACK computes S alone."""
    return m * n <= _TINY_OF_VALUES


def tall_blocks(m: int) -> int:
    """Count the blocks of rows of a tall matrix."""
    return -(-m // _TALL_ROWS)


def packed(
    kind: str,
    dtype: str,
    shape: tuple[int, int, int],
    numbers: tuple[float, float],
    strides: list[tuple[int, int, int]],
) -> bytes:
    """Pack what `run` needs besides addresses: the kind, dtype, shape and strides.

    The shape is b, m and n; strides, of a matrix, a row and a column of each of the
    twelve arrays, are counted in real numbers; `numbers` are tolerances. Which array is
    which is stated in the C source of the kernel.
    """
    flat = [step for steps in strides for step in steps]
    return _CALL.pack(_KIND[kind], _TYPE[dtype], *shape, *numbers, *flat)


def run(call: bytes, addresses: list[int], threads: int) -> int:
    """Run a kernel on at most `threads` threads; return how many matrices failed.

    There are twelve addresses, 0 for an absent array. Raises MemoryError if the kernel
    could not allocate its workspace.
    """
    count = _kernels.run(call, _ADDRESSES.pack(*addresses), threads)
    if count < 0:
        raise MemoryError("no memory for the kernels of small matrices")
    return count


def plan(
    kind: str,
    dtype: str,
    numbers: tuple[float, float],
    arrays: list[tuple[int, int, int, bool, bool, bool]],
) -> list[int]:
    """Make the plan of `graph.h`, for contiguous arrays of any batch.

    `arrays` are tuples of slot, buffer, number of axes after those of the batch, and
    whether the array is transposed, is real, and holds pairs of single precision.
    """
    head = [_PLAN_VERSION, _KIND[kind], _TYPE[dtype]]
    slots = [[-1, 0, 0] for _ in range(12)]
    for slot, buffer, axes, transposed, real, pairs in arrays:
        flags = transposed * _TRANSPOSED + real * _REAL + pairs * _PAIRS
        slots[slot] = [buffer, axes, flags]
    bits = struct.unpack("2q", struct.pack("2d", *numbers))
    return [*head, *bits, *(number for slot in slots for number in slot)]


def xla_handler() -> Any:
    """Return the handler of XLA's custom call, or None without kernels."""
    return _kernels.library.svdinv_xla if _kernels.indices else None


def run_address() -> Any:
    """Address of the function that runs a kernel."""
    return ctypes.cast(_kernels.run, ctypes.c_void_p)


def variants() -> tuple[str, ...]:
    """Names of the instruction sets that can be selected, narrowest first."""
    return tuple(_kernels.indices)


def chosen() -> str:
    """Name of the instruction set in use, or why there are no kernels."""
    if not _kernels.indices:
        return f"none: {_kernels.reason}"
    return next(k for k, index in _kernels.indices.items() if index == _kernels.wide)


def status() -> str:
    """Name the kernels in use, and those compiled, or why there are none."""
    if not _kernels.indices:
        return chosen()
    return f"{chosen()} (compiled: {', '.join(_kernels.compiled)})"
