"""Fit a generator within the subspace in which its weights have moved.

The weights of a network that is trained move along few directions. Their snapshots, as
the columns of a matrix, have these as leading left singular vectors; and within so few
dimensions a second-order method is cheap (Barbano et al., "Image reconstruction via
deep image prior subspaces", arXiv 2302.10279).
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, jvp

import svdinv.torch
from svdinv.unroll.networks import Recipe
from svdinv.unroll.problem import Problem
from svdinv.unroll.torch import Network, tensor
from svdinv.unroll.untrained import Fit, Fitting, Options, Record

__all__ = ["directions", "fit_in_subspace", "fit_with_snapshots"]

Snapshot = Mapping[str, Tensor]


def fit_with_snapshots(
    problem: Problem,
    generator: Recipe,
    every: int,
    options: Options | None = None,
    *,
    weights: Network | None = None,
    measure: Any = None,
    **changes: Any,
) -> tuple[Fit, list[Snapshot]]:
    """Fit as `svdinv.unroll.untrained.fit` does, and keep weights on the way.

    Parameters
    ----------
    problem, generator, options, weights, measure, **changes
        As there.
    every : int
        Iterations from one set of weights to the next.

    Returns
    -------
    Fit
        The fit.
    list of dict of str to Tensor
        The weights.
    """
    options = replace(options or Options(), **changes)
    fitting = Fitting(problem, generator, options, weights=weights, measure=measure)
    snapshots: list[Snapshot] = []
    began = time.monotonic()
    while not (ending := fitting.ended()):
        fitting.step()
        if fitting.iteration % every == 0:
            snapshots.append(copy.deepcopy(fitting.models[0].weights().state_dict()))
    return fitting.result(ending, time.monotonic() - began), snapshots


def directions(snapshots: Sequence[Snapshot], rank: int) -> dict[str, Tensor]:
    """Find the directions along which weights have moved.

    Parameters
    ----------
    snapshots : sequence of mapping of str to Tensor
        Weights of one network at several times, as of ``network.state_dict()``.
    rank : int
        How many directions, less than there are snapshots.

    Returns
    -------
    dict of str to Tensor
        For each weight one of shape (rank, ...): together the leading left singular
        vectors of the snapshots less their mean, orthonormal.

    Raises
    ------
    ValueError
        If there are too few snapshots, or they are of different networks.
    """
    count = sum(x.numel() for x in snapshots[0].values()) if snapshots else 0
    if not 1 <= rank <= min(len(snapshots) - 1, count):
        raise ValueError(
            f"rank must be from 1 to {len(snapshots) - 1}, one less than there are "
            f"snapshots, and not above the number of weights, {count}; got {rank}"
        )
    shapes = {name: tuple(x.shape) for name, x in snapshots[0].items()}
    for other in snapshots[1:]:
        if {name: tuple(x.shape) for name, x in other.items()} != shapes:
            raise ValueError("snapshots must be of one network")
    rows = [torch.cat([x.flatten() for x in s.values()]) for s in snapshots]
    trajectory = torch.stack(rows, dim=1)
    U, _, _ = svdinv.torch.svd(trajectory - trajectory.mean(dim=1, keepdim=True))
    parts = U[:, :rank].mT.split([x.numel() for x in snapshots[0].values()], dim=1)
    pairs = zip(shapes.items(), parts, strict=True)
    return {name: part.reshape(rank, *shape) for (name, shape), part in pairs}


def fit_in_subspace(
    problem: Problem,
    network: Network,
    basis: Mapping[str, Tensor],
    *,
    steps: int = 20,
    damping: float = 1e-3,
    rtol: float = 1e-4,
    around: Any = None,
    measure: Any = None,
    device: torch.device | str = "cpu",
) -> Fit:
    """Fit a generator along given directions by the method of Levenberg and Marquardt.

    With ``weights = weights_0 + Q c`` the residual is linearised in c, J c, and
    ``(J^T J + mu I) dc = -J^T r`` solved; a step that does not lower the residual is
    taken back and the damping mu raised (Marquardt, J. SIAM 1963). No rule stops it:
    the few directions are what keeps it from fitting noise.

    Parameters
    ----------
    problem : Problem
        Of one image, with an `L2` fidelity without weights.
    network : Network
        A generator with the weights to begin with.
    basis : mapping of str to Tensor
        Q, as `directions` gives it.
    steps : int
        Steps, at most; each takes about three forward passes a direction.
    damping : float
        First mu, relative to the mean diagonal of J^T J.
    rtol : float
        The fit ends when a step lowers the squared residual by less than this part.
    around : array, optional
        An image to which what is generated is added, as it was in the fit before.
    measure : callable, optional
        From an image to decibels, for the trajectory alone.
    device : device
        Where to compute.

    Returns
    -------
    Fit
        One record a step; the image is that of the last.

    Raises
    ------
    TypeError
        If the fidelity is another one.
    ValueError
        If an option is out of range.
    """
    if not problem.has_white_noise:
        raise TypeError(
            f"problem must have an L2 fidelity without weights, got {problem.fidelity}"
        )
    if steps < 1 or not damping > 0 or not 0 <= rtol < 1:
        raise ValueError("steps must be at least 1, damping positive, rtol in [0, 1)")
    began = time.monotonic()
    convert = partial(tensor, device=torch.device(device))
    single = replace(problem, truth=None).single().replace_arrays(convert)
    state = network.recipe.begin(single)
    first = {name: x.detach() for name, x in network.state_dict().items()}
    start = {name: convert(x) for name, x in first.items()}
    added = 0.0 if around is None else convert(around)[None]
    Q = {name: convert(x) for name, x in basis.items()}
    rank = len(next(iter(Q.values())))

    def images(c: Tensor) -> Tensor:
        moved = {n: x + torch.tensordot(c, Q[n], dims=1) for n, x in start.items()}
        made = state
        for index, cell in enumerate(network.cells):
            label = f"cells.{index}."
            own = {
                n.removeprefix(label): w
                for n, w in moved.items()
                if n.startswith(label)
            }
            made = functional_call(cell, own, (made, single))
        return made["x"] + added

    def residual(c: Tensor) -> Tensor:
        r = single.A.project_to_samples(single.A.forward(images(c)) - single.y)
        return torch.view_as_real(r).flatten() if r.is_complex() else r.flatten()

    c = torch.zeros(rank, dtype=state["x"].real.dtype, device=device)
    identity = torch.eye(rank, dtype=c.dtype, device=device)
    trajectory: list[Record] = []
    count = max(int(single.sampled_mask().sum()), 1)
    with torch.no_grad(), warnings.catch_warnings():
        # Forward mode through a norm compiles a decomposition in the old way.
        warnings.simplefilter("ignore", DeprecationWarning)
        r = residual(c)
        mu = None
        for step in range(1, steps + 1):
            # One by one: the layout of the convolutions is none of vmap's.
            every = [jvp(residual, (c,), (v,))[1] for v in identity]
            columns = torch.stack(every)
            gram, right = columns @ columns.mT, columns @ r
            unit = gram.diagonal().mean()
            mu = damping if mu is None else mu
            energy = r @ r
            lowered = False
            for _ in range(_TRIES):
                system = gram + mu * unit * identity
                moved = c - torch.linalg.solve(system, right)
                new = residual(moved)
                if new @ new < energy:
                    lowered = True
                    break
                mu = 4 * mu
            if lowered:
                c, r, mu = moved, new, mu / 3
            value = float(r @ r) / 2 / count
            decibels = float("nan")
            if measure is not None:
                decibels = measure(images(c)[0].cpu().numpy())
            trajectory.append(Record(step, value, value, value, decibels))
            if not lowered or float(energy - r @ r) <= rtol * float(energy):
                break
        image = images(c)[0].cpu().numpy()
        fitted = {
            n: convert(x) + torch.tensordot(c, Q[n], dims=1) for n, x in first.items()
        }
    result = Network(network.recipe, seed=0).to(device)
    result.load_state_dict(fitted)
    done = len(trajectory)
    ending: Any = "iterations" if done == steps else "rule"
    seconds = time.monotonic() - began
    return Fit(image, image, image, done, done, ending, trajectory, [], result, seconds)


_TRIES = 8  # of a larger damping


if __name__ == "__main__":
    print("A module: docs/untrained.md has programs that import it.")
