"""Compare a projector's product with many images at once and one after the other.

    python benchmarks/projectors.py

Prints the time of n products with single images over that of one product with all n,
for the projector, its adjoint, and a dense matrix, in single precision; minima of
repetitions in turn. One thread: set OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from svdinv.unroll.operators import ParallelBeam, from_matrix

COUNTS = 1, 4, 8, 24, 64
REPETITIONS = 15


def ratio(function: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> float:
    """Return the time of single products over that of all at once."""
    single = together = float("inf")
    for _ in range(REPETITIONS):
        begin = time.perf_counter()
        for image in x:
            function(image)
        middle = time.perf_counter()
        function(x)
        end = time.perf_counter()
        single = min(single, middle - begin)
        together = min(together, end - middle)
    return single / together


def main() -> None:
    """Print a table."""
    rng = np.random.default_rng(0)
    print("ratio for n =", *(f"{n:8d}" for n in COUNTS))
    for size, views in ((32, 20), (64, 45), (128, 60)):
        A = ParallelBeam((size, size), np.arange(views) * 180 / views)
        dense = from_matrix(
            rng.standard_normal((size * views, size**2)).astype(np.float32),
            (size, size),
        )
        for name, function, shape in (
            ("projector", A.forward, A.image_shape),
            ("adjoint", A.adjoint, A.data_shape),
            ("dense", dense.forward, dense.image_shape),
        ):
            ratios = [
                ratio(function, rng.standard_normal((n, *shape)).astype(np.float32))
                for n in COUNTS
            ]
            print(f"{name:9s} {size:4d}", *(f"{r:8.2f}" for r in ratios), flush=True)


if __name__ == "__main__":
    main()
