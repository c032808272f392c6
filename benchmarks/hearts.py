"""Compare weights for series on real hearts that they were not trained on.

For every series and pattern the network's start, the network with each of the weights,
and the classical methods, each at the weight of its grid that comes nearest to the
truth. What a classical method reaches takes about a minute; it is kept in a file of
JSON, and not made again.

    python benchmarks/hearts.py series.npz --kept classical.json \
        --weights old.safetensors runs/hearts/cine.safetensors

Without files of series, of the four built-in ones. SNR in dB; those of the phantom by
``--phantoms``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from svdinv.unroll import pretrained
from svdinv.unroll.data.noise import white_noise
from svdinv.unroll.inference import reconstruct
from svdinv.unroll.metrics import snr
from svdinv.unroll.problem import Problem
from svdinv.unroll.tasks.cine.hearts import (
    HEARTS,
    heart_series,
    read_hearts,
    smooth_phase,
)
from svdinv.unroll.tasks.cine.kspace import PATTERNS, sampled, sampling
from svdinv.unroll.tasks.cine.phantom import coil_maps
from svdinv.unroll.tasks.cine.task import Cine
from svdinv.unroll.tasks.cine.training import unseen_series
from svdinv.unroll.torch import load

HELD_OUT = ("short_00", "short_10", "short_19", "long_00", "long_07", "long_13")
THREE = ("radial", "variable-density", "vista")


def series_of(
    options: argparse.Namespace,
) -> Iterator[tuple[str, np.ndarray]]:
    """Give names and complex series, of which the largest magnitude is 1."""
    if options.phantoms:
        for i in range(options.phantoms):
            yield f"phantom {i}", unseen_series(i, options.frames, options.size)
        return
    if options.series:
        found = read_hearts(options.series)
        chosen = {n: found[n] for n in options.names or HELD_OUT}
    else:
        chosen = {name: heart_series(name) for name in options.names or HEARTS}
    for i, (name, magnitude) in enumerate(chosen.items()):
        T, H, W = magnitude.shape
        side, frames = min(options.size, H, W), min(options.frames, T)
        top, left = (H - side) // 2, (W - side) // 2
        part = magnitude[:frames, top : top + side, left : left + side]
        phase = smooth_phase(frames, side, np.random.default_rng(100 + i))
        yield name, (part / part.max() * phase).astype(np.complex64)


def made(
    name: str, series: np.ndarray, pattern: str, options: argparse.Namespace
) -> Problem:
    """Undersample a series, in the setting of the options."""
    rng = np.random.default_rng(7)
    mask = sampling(pattern, series.shape, rng, options.acceleration)
    shape = series.shape[1:]
    maps = coil_maps(options.coils, *shape, seed=5) if options.coils else None
    problem = sampled(name, series, mask, maps)
    if options.snr is not None:
        deviation = np.sqrt(np.mean(np.abs(series) ** 2) / 10 ** (options.snr / 10))
        noise = white_noise(problem.y.shape, problem.y.dtype, rng)
        noisy = problem.y + np.float32(deviation) * noise
        problem = replace(problem, y=problem.A.project_to_samples(noisy))
    return replace(problem, setting=pattern)


def main() -> int:
    """Compare, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("series", nargs="*", help="files .npz of real series")
    parser.add_argument("--names", nargs="*", help="of series; the six held out")
    parser.add_argument("--phantoms", type=int, default=0, metavar="COUNT")
    parser.add_argument("--weights", nargs="*", type=Path, default=[])
    parser.add_argument("--patterns", nargs="*", choices=PATTERNS, default=THREE)
    parser.add_argument("--acceleration", type=float, default=8.0)
    parser.add_argument("--coils", type=int, default=0)
    parser.add_argument("--snr", type=float, help="of noise, in dB")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--kept", type=Path, help="file for the classical scores")
    parser.add_argument("--no-classical", action="store_true")
    options = parser.parse_args()
    networks = {str(p): load(p) for p in options.weights or [pretrained.path("cine")]}
    # Its iterations have no weights: those of every network are the same.
    recipe = next(iter(networks.values())).recipe
    path = options.kept
    kept = json.loads(path.read_text()) if path and path.exists() else {}
    rows: dict[str, dict[str, list[float]]] = {}
    for name, series in series_of(options):
        for pattern in options.patterns:
            problem = made(name, series, pattern, options)
            setting = [options.acceleration, options.coils, options.snr]
            key = json.dumps([name, pattern, *setting, list(series.shape)])
            scores = dict(kept.get(key, {}))
            if not options.no_classical:
                methods = Cine().baselines()
                for method in methods.keys() - scores.keys() - {"zero-filled"}:
                    scores[method] = float(snr(series, methods[method](problem).image))
                    kept[key] = scores
                    if path:
                        path.write_text(json.dumps(kept, indent=0))
            best = max(scores.values(), default=float("nan"))
            tensors = problem.single().replace_arrays(torch.from_numpy)
            with torch.no_grad():
                start = recipe.begin(tensors)["x"][0].numpy()
            row = {"classical": best, "start": float(snr(series, start))}
            for label, network in networks.items():
                row[label] = float(snr(series, reconstruct(network, problem)))
            print(name, pattern, *(f"{x:.2f}" for x in row.values()), flush=True)
            for label, value in row.items():
                rows.setdefault(pattern, {}).setdefault(label, []).append(value)
    for pattern, columns in rows.items():
        print(f"{pattern}, mean of {len(columns['start'])}:")
        for label, values in columns.items():
            lead = np.array(values) - columns["classical"]
            print(
                f"  {np.mean(values):6.2f}  ahead {lead.mean():+.2f}, "
                f"least {lead.min():+.2f}  {label}"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
