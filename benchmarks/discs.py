"""Score reconstructions of the Helsinki Tomography Challenge 2022.

    python benchmarks/discs.py FOLDER

FOLDER has sinograms such as ta_category7.mat and beside each its truth, a picture of
512 x 512 pixels of 0 and 1, ta_category7_truth.png. An image is cut in two at Otsu's
threshold and judged by Matthews' correlation, as in the challenge. The weight of total
variation is the same for all discs, that of the best mean score: with so few, this
favours it a little. An untrained network is stopped by its rule; the network of the
package for limited angles, or that of `--weights`, is taken as it is and as an
educated prior.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage.filters import threshold_otsu

from svdinv.unroll.algorithms import PDHG, solve
from svdinv.unroll.inference import apply, open_network
from svdinv.unroll.priors import TotalVariation
from svdinv.unroll.tasks.tomography.ct import Ct, CtOptions, fbp, nnls
from svdinv.unroll.untrained import educated, fit
from svdinv.unroll.untrained.presets import generator_for

PIXELS = 512  # of the truths
WEIGHTS = 10.0 ** np.arange(-5, -1, 0.5)


def matthews(truth: np.ndarray, found: np.ndarray) -> float:
    """Correlation of two binary pictures; 0 where one of them is of one value."""
    a, b = (x.astype(float).ravel() - x.mean() for x in (truth, found))
    norm = np.sqrt(np.sum(a * a) * np.sum(b * b))
    return float(a @ b / norm) if norm else 0.0


def score(truth: np.ndarray, image: np.ndarray) -> float:
    """Cut an image in two, and judge it."""
    image = np.maximum(image[0], 0)
    by = PIXELS // image.shape[0]
    finer = np.kron(image, np.ones((by, by)))
    return matthews(truth, finer > threshold_otsu(finer))


def tv(problem, weight: float) -> np.ndarray:
    """Total variation."""
    found = solve(
        problem,
        TotalVariation(weight, axes=(-2, -1)),
        algorithm=PDHG(),
        iterations=1000,
        rtol=1e-4,
        x0=np.zeros_like(problem.adjoint()),
        objective=False,
    )
    return found.image


def untrained(problem, iterations: int) -> np.ndarray:
    """Fit a network from noise."""
    how = {"iterations": iterations, "input_noise": Ct.input_noise}
    return fit(problem, generator_for("dip", problem), progress=False, **how).image


def taught(problem, network) -> np.ndarray:
    """Fit a network from its training."""
    how = educated(problem, network)
    return fit(problem, network.recipe, how, weights=network, progress=False).image


def main() -> None:
    """Print a line for each method."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=128, choices=(64, 128, 256, 512))
    parser.add_argument("--iterations", type=int, default=1500, help="of the fits")
    parser.add_argument("--weights", default="ct-limited", help="of a trained network")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    task, measured = Ct(), {}
    for path in task.files(options.folder):
        truth = np.asarray(Image.open(path.with_name(f"{path.stem}_truth.png"))) > 0
        problem = task.read(path, CtOptions(size=options.size))
        measured[path.stem] = problem, truth
    network = open_network(options.weights)
    methods = {
        "FBP": lambda problem: fbp(problem).image,
        "NNLS": lambda problem: nnls(problem).image,
        "network": lambda problem: apply(network, task, problem).image,
        "EDIP": lambda problem: taught(problem, network),
        "DIP": lambda problem: untrained(problem, options.iterations),
    }
    tried = defaultdict(list)
    for weight in WEIGHTS:
        for problem, truth in measured.values():
            tried[weight].append(score(truth, tv(problem, weight)))
    best = max(tried, key=lambda w: np.mean(tried[w]))
    print(told(f"TV, weight {best:.0e}", tried[best]), flush=True)
    for name, method in methods.items():
        began = time.monotonic()
        found = [score(truth, method(problem)) for problem, truth in measured.values()]
        print(f"{told(name, found)}  {time.monotonic() - began:.0f} s", flush=True)


def told(name: str, scores: list[float]) -> str:
    """Say scores in a line."""
    each = "  ".join(f"{x:.3f}" for x in scores)
    return f"{name:24} mean {np.mean(scores):.3f}  {each}"


if __name__ == "__main__":
    main()
