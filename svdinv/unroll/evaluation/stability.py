"""How a reconstruction answers to small errors of its data, at their worst.

A perturbation e of the data is looked for, of given size, that moves the image most, by
gradient ascent through the reconstruction (Antun, Renna, Poon, Adcock & Hansen, PNAS
2020). Where the reconstruction is linear this is the power method, and e is its leading
right singular vector.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recompute

from svdinv.unroll.algorithms import PDHG, solve
from svdinv.unroll.networks import Recipe
from svdinv.unroll.priors import TotalVariation
from svdinv.unroll.problem import Problem
from svdinv.unroll.torch import tensor
from svdinv.unroll.untrained import Options, fit

__all__ = [
    "Answer",
    "stability",
    "total_variation",
    "untrained_method",
    "worst_case",
]

Differentiable = Callable[[Problem], Tensor]
"""From a problem with a batch axis, of tensors, to images; differentiable in ``y``."""


def worst_case(
    reconstruct: Differentiable,
    problem: Problem,
    size: float,
    *,
    steps: int = 10,
    seed: int = 0,
    callback: Callable[[], None] = lambda: None,
) -> Any:
    """Find the perturbation of the data that changes the image most.

    ``max |f(y + e) - f(y)|`` over ``|e| = size |y|`` where there are data, by so many
    steps ``e <- size |y| g / |g|`` with g the gradient of half the square, from a
    random e. Gives the e that moved the image most. Raises ValueError if an option is
    out of range.
    """
    if not size > 0 or steps < 1:
        raise ValueError(
            f"size must be positive and steps at least 1, got {size}, {steps}"
        )
    device = torch.device("cpu")
    convert = partial(tensor, device=device)
    given = replace(problem, truth=None).single().replace_arrays(convert)
    y, A = given.y, given.A
    length = size * float(torch.linalg.vector_norm(A.project_to_samples(y)))
    rng = np.random.default_rng(seed)
    drawn = rng.standard_normal((2, *y.shape)).astype(np.float32)
    first = drawn[0] + 1j * drawn[1] if y.is_complex() else drawn[0]

    def sized(e: Tensor) -> Tensor:
        e = A.project_to_samples(e)
        return e * (length / torch.linalg.vector_norm(e).clamp_min(1e-30))

    with torch.no_grad():
        usual = reconstruct(given)
    e = sized(torch.from_numpy(first).to(y))
    best, most = e, -1.0
    for _ in range(steps):
        e = e.detach().requires_grad_()
        moved = reconstruct(replace(given, y=y + e)) - usual
        square = moved.abs().square().sum()
        (g,) = torch.autograd.grad(square, e)
        if square.item() > most:
            best, most = e.detach(), square.item()
        if not float(torch.linalg.vector_norm(g)) > 0:
            break
        e = sized(g)
        callback()
    with torch.no_grad():
        moved = reconstruct(replace(given, y=y + e)) - usual
        if float(moved.abs().square().sum()) > most:
            best = e
    return best[0].detach().numpy()


@dataclass(frozen=True)
class Answer:
    """Error of a method, ``|image - truth| / |truth|``, with perturbed data.

    The perturbation is "none", "random", or "worst for" and the name of a method; its
    size is relative to the data.
    """

    method: str
    perturbation: str
    size: float
    error: float


def stability(
    problem: Problem,
    methods: Mapping[str, Differentiable],
    others: Mapping[str, Differentiable],
    sizes: Sequence[float],
    *,
    steps: int = 10,
    seed: int = 0,
    callback: Callable[[], None] = lambda: None,
) -> list[Answer]:
    """Measure how the error of methods grows with errors of the data.

    Differentiable methods each meet random noise and what is worst for each, of `sizes`
    relative to the data. Others meet the same: what is worst for another method is not
    the worst for them. `callback` is called after each step and each reconstruction.
    Raises ValueError if the truth is not known.
    """
    if problem.truth is None:
        raise ValueError("problem: the truth must be known")
    y, truth = np.asarray(problem.y), np.asarray(problem.truth)
    scale = np.linalg.norm(np.asarray(problem.A.project_to_samples(y)))
    rng = np.random.default_rng([seed, 3])
    noise = rng.standard_normal(y.shape) + 0 * y
    if np.iscomplexobj(y):
        noise = noise + 1j * rng.standard_normal(y.shape)
    noise = np.asarray(problem.A.project_to_samples(noise.astype(y.dtype)))
    noise = noise / np.linalg.norm(noise)
    found = [("none", 0.0, np.zeros_like(y))]
    for size in sizes:
        found.append(("random", size, size * scale * noise))
        for name, method in methods.items():
            e = worst_case(
                method, problem, size, steps=steps, seed=seed, callback=callback
            )
            found.append((f"worst for {name}", size, e))
    answers = []
    convert = partial(tensor, device=torch.device("cpu"))
    for name, method in {**methods, **others}.items():
        for what, size, e in found:
            moved = replace(problem, y=(y + e).astype(y.dtype), truth=None).single()
            with torch.no_grad():
                image = method(moved.replace_arrays(convert))[0].numpy()
            error = np.linalg.norm(image - truth) / np.linalg.norm(truth)
            answers.append(Answer(name, what, size, float(error)))
            callback()
    return answers


def total_variation(weight: float, iterations: int = 150) -> Differentiable:
    """Return total variation by a fixed number of PDHG iterations, as a method."""
    prior = TotalVariation(weight)

    def some(problem: Problem, y: Tensor, state: Any, parameters: Any) -> Any:
        done = solve(
            replace(problem, y=y),
            prior,
            algorithm=PDHG(),
            iterations=_BLOCK,
            rtol=0.0,
            state=state,
            parameters=parameters,
            objective=False,
        )
        return done.state, done.parameters

    def reconstruct(problem: Problem) -> Tensor:
        with torch.no_grad():  # for the steps alone
            _, parameters = some(problem, problem.y, None, None)
        state: Any = None
        for _ in range(-(-iterations // _BLOCK)):
            if torch.is_grad_enabled():  # keeps the memory of one block
                state, _ = recompute(
                    some, problem, problem.y, state, parameters, use_reentrant=False
                )
            else:
                state, _ = some(problem, problem.y, state, parameters)
        return state["x"]

    return reconstruct


_BLOCK = 15  # iterations


def untrained_method(
    generator: Recipe, options: Options, around: Callable[[Problem], Any]
) -> Differentiable:
    """Return an untrained prior as a method without derivative."""

    def reconstruct(problem: Problem) -> Tensor:
        one = replace(problem, y=problem.y[0])
        with torch.enable_grad():
            done = fit(one, generator, options, around=around, progress=False)
        return torch.from_numpy(done.image)[None]

    return reconstruct
