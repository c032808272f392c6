"""Unrolled solvers for NumPy and CuPy that are trained without a framework.

A `Solver` runs a recipe whose layers are numbers, such as
`svdinv.unroll.networks.Unrolled` with low-rank and sparse priors, and computes the
gradient of a loss with respect to its thresholds and steps by `svdinv.numpy.vjp`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias

import numpy as np

from svdinv.operators._arguments import as_integer
from svdinv.unroll.arrays import (
    Array,
    inner,
    is_complex,
    like,
    namespace,
    operators,
    real_dtype,
)
from svdinv.unroll.interrupts import progress_bar
from svdinv.unroll.networks import weights as files
from svdinv.unroll.networks.functional import svt
from svdinv.unroll.networks.recipe import (
    Recipe,
    first_state,
    make_problem,
    next_state,
)
from svdinv.unroll.operators import Operator, Stack
from svdinv.unroll.operators.wrapped import Linear
from svdinv.unroll.plugins import naming
from svdinv.unroll.problem import Problem

__all__ = ["Solver", "load", "save"]

Gradient: TypeAlias = dict[str, Array]
"""Cotangents of the learned numbers, by name."""

Example: TypeAlias = tuple[Any, ...]
"""Truth, data, and the arguments of the forward operator."""


class Solver:
    """An unrolled solver with learned numbers.

    Parameters
    ----------
    recipe : Recipe
        Network of numbers only, such as `Unrolled` with `LowRank` and `Sparse`.
    operator : Operator or callable, optional
        Forward operator to use instead of the recipe's, or a function that makes one
        from the arguments that follow `y`.

    Attributes
    ----------
    numbers : dict of str to ndarray
        The learned numbers, 0-d arrays in double precision, by their names in files.

    Raises
    ------
    TypeError
        If `recipe` is not a Recipe, or has convolutions.

    Examples
    --------
    >>> import numpy as np
    >>> from svdinv.unroll.manual import Solver
    >>> from svdinv.unroll.networks import LowRank, Sparse, Unrolled
    >>> from svdinv.unroll.algorithms.iterations import LowRankPlusSparse
    >>> rng = np.random.default_rng(0)
    >>> series = rng.standard_normal((1, 4, 8, 8)) + 0j
    >>> mask = rng.random((1, 4, 8, 8)) < 0.5
    >>> recipe = Unrolled(
    ...     cells=3, algorithm=LowRankPlusSparse(), prior=(LowRank(), Sparse())
    ... )
    >>> solver = Solver(recipe)
    >>> y = recipe.operator(mask)(series)
    >>> x, pullback = solver.vjp(y, mask)
    >>> sorted(pullback(x - series))[:2]
    ['cells.0.log_step', 'cells.0.low_rank_threshold']
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        operator: Operator | Callable[..., Operator] | None = None,
    ) -> None:
        self.recipe = recipe
        self.operator = operator
        if not isinstance(recipe, Recipe):
            raise TypeError(f"recipe must be a Recipe, got {type(recipe).__name__}")
        drawn = files.initial(recipe, np.random.default_rng(0))
        if any(array.ndim for array in drawn.values()):
            raise TypeError("recipe must have only numbers as layers, no convolutions")
        self._names = frozenset(drawn)
        self.numbers = {name: np.asarray(x, np.float64) for name, x in drawn.items()}

    def __call__(self, y: Array | Problem, *measurement: Any, **named: Any) -> Array:
        """Reconstruct images, with the axes that ``recipe.axes`` names.

        `y` holds data, of NumPy or CuPy, followed by the arguments of the forward
        operator, such as a mask and coil maps, also by keyword, or by an operator; or
        `y` is a problem and has no arguments after it.
        """
        problem = make_problem(self.recipe, self.operator, y, measurement, named)
        return self._run(problem, self.numbers)

    def vjp(
        self, y: Array | Problem, *measurement: Any, **named: Any
    ) -> tuple[Array, Callable[[Array], Gradient]]:
        """Reconstruct, and return a function for the derivative.

        Parameters
        ----------
        y, *measurement, **named
            As for a call.

        Returns
        -------
        array
            The images.
        callable
            Maps the cotangent G of the images, ``dL = Re <G, dx>``, to those by name.
        """
        problem = make_problem(self.recipe, self.operator, y, measurement, named)
        functions, names = operators(problem.y), list(self.numbers)
        if not hasattr(functions, "vjp"):
            raise TypeError(
                f"y must be an array of NumPy or CuPy, got {type(problem.y).__name__}: "
                "networks of PyTorch are in svdinv.unroll.torch, others in "
                "svdinv.unroll.keras"
            )
        xp = namespace(problem.y)
        if not xp.isdtype(problem.y.dtype, ("real floating", "complex floating")):
            self.recipe.begin(problem)  # raises TypeError with the expected dtype
        A = _taped(problem.A)

        def run(y: Array, *values: Array) -> Array:
            taped = replace(problem, y=y, A=A)
            return self._run(taped, dict(zip(names, values, strict=True)))

        dtype = real_dtype(problem.y, xp)
        values = [xp.asarray(self.numbers[name], dtype=dtype) for name in names]
        x, vjp = functions.vjp(run, problem.y, *values)

        def pullback(G: Array) -> Gradient:
            if getattr(G, "shape", None) != x.shape:
                got = getattr(G, "shape", type(G).__name__)
                raise ValueError(f"G must be an array of shape {x.shape}, got {got}")
            _, *cotangents = vjp(G)
            return dict(zip(names, cotangents, strict=True))

        return x, pullback

    def _run(self, problem: Problem, numbers: Mapping[str, Any]) -> Array:
        if wrong := self._names ^ set(numbers):
            raise ValueError(
                f"numbers must have the names {sorted(self._names)}; missing or too "
                f"many are {sorted(wrong)}"
            )
        state = first_state(self.recipe, problem)
        for i in range(self.recipe.cells):
            names = self.recipe.layers(i == self.recipe.cells - 1)
            xp = namespace(state["x"])
            dtype = real_dtype(state["x"], xp)
            own = {name: numbers.get(f"cells.{i}.{name}") for name in names}
            own = {
                name: None if value is None else xp.asarray(value, dtype=dtype)
                for name, value in own.items()
            }
            layers: Any = SimpleNamespace(index=i, svt=svt, **own)
            state = next_state(self.recipe, state, problem, layers)
        return state["x"]

    def fit(
        self,
        examples: Sequence[Example],
        *,
        steps: int,
        rate: float = 0.05,
        seed: int = 0,
        callback: Callable[[int, float], bool | None] | None = None,
        progress: bool = True,
    ) -> list[float]:
        """Learn the numbers with Adam on the mean squared error, one example per step.

        Kingma & Ba, ICLR 2015. After Ctrl-C the numbers are those of the last step.

        Parameters
        ----------
        examples : sequence of tuple
            Tuples ``(truth, y, *measurement)``, with the batch axis in front.
        steps : int
            Number of steps.
        rate : float
            Learning rate.
        seed : int
            Seed of the order of the examples.
        callback : callable, optional
            Called as ``callback(step, loss)``, from step 1; True ends the fit.
        progress : bool
            Whether to show a progress bar.

        Returns
        -------
        list of float
            The mean squared error of each step.

        Raises
        ------
        ValueError, TypeError
            Before the first step, if examples or options are missing or invalid.
        FloatingPointError
            If a loss or its gradient is not finite; previous numbers are kept.
        """
        steps = as_integer(steps, "steps", 0)
        if not 0 < rate < math.inf:
            raise ValueError(f"rate must be positive and finite, got {rate}")
        examples = list(examples)
        if not examples:
            raise ValueError("examples must not be empty")
        for example in examples:
            self._check(example)
        iterator: Iterable[int] = range(1, steps + 1)
        if progress:
            iterator = progress_bar(steps, visible=True, iterable=iterator, desc="fit")
        losses: list[float] = []
        moments = dict.fromkeys(self.numbers, (0.0, 0.0))
        for step in iterator:
            # Each epoch uses all examples in a new order.
            epoch, position = divmod(step - 1, len(examples))
            order = np.random.default_rng([seed, epoch]).permutation(len(examples))
            truth, y, *measurement = examples[int(order[position])]
            loss, gradient = self._loss(truth, y, measurement)
            if not all(map(math.isfinite, (loss, *gradient.values()))):
                raise FloatingPointError(f"loss or gradient of step {step} not finite")
            numbers = dict(self.numbers)
            for name, g in gradient.items():
                m, v = moments[name]
                m, v = _BETA1 * m + (1 - _BETA1) * g, _BETA2 * v + (1 - _BETA2) * g * g
                moments[name] = m, v
                mean, square = m / (1 - _BETA1**step), v / (1 - _BETA2**step)
                move = rate * mean / (math.sqrt(square) + _EPSILON)
                numbers[name] = np.asarray(numbers[name] - move)
            self.numbers = numbers  # in one assignment, because of Ctrl-C
            losses.append(loss)
            if callback is not None and callback(step, loss):
                break
        return losses

    def _check(self, example: Example) -> None:
        if len(example) < 2:
            raise ValueError("examples must be tuples (truth, y, *measurement)")
        truth, y, *measurement = example
        own = self.operator
        problem = make_problem(self.recipe, own, y, tuple(measurement))
        x = first_state(self.recipe, problem)["x"]
        if truth.shape != x.shape:
            raise ValueError(f"truth must have shape {x.shape}, got {truth.shape}")
        xp = namespace(x)
        if is_complex(truth, xp) and not is_complex(x, xp):
            raise TypeError(f"truth must be real, got {truth.dtype}")

    def _loss(
        self, truth: Array, y: Array, measurement: Sequence[Any]
    ) -> tuple[float, dict[str, float]]:
        try:
            x, pullback = self.vjp(y, *measurement)
        except np.linalg.LinAlgError:  # raised by NumPy for NaN
            return math.nan, {}
        error = x - like(truth, x, namespace(x))
        count = math.prod(x.shape)
        gradient = pullback(error * (2 / count))
        return float(inner(error, error)) / count, {
            name: float(g) for name, g in gradient.items()
        }


def _taped(operator: Operator) -> Operator:
    """Return a copy of a linear operator that a tape differentiates by its adjoint.

    Its other methods, and nonlinear operators, must be composed of functions that the
    tape can differentiate.
    """
    if not operator.linear:
        return operator
    taped = copy(operator)
    if isinstance(taped, Stack):  # its operators may be used in turn
        taped.operators = taped.parts = tuple(map(_taped, taped.operators))
    A, AH = operator.forward, operator.adjoint
    P, M = operator.project_to_samples, operator.preconditioned  # Hermitian
    for name, linear in {
        "forward": Linear(A, AH),
        "adjoint": Linear(AH, A),
        "project_to_samples": Linear(P, P),
        "preconditioned": Linear(M, M),
    }.items():
        object.__setattr__(taped, name, linear)
    return taped


_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8


def save(solver: Solver, path: str | Path) -> None:
    """Write the numbers and the recipe of a solver to a safetensors file.

    An existing file is replaced atomically. Raises ValueError if a number is not
    finite, OSError if the file cannot be written.
    """
    files.write(path, solver.recipe, solver.numbers)


def load(path: str | Path, **options: Any) -> Solver:
    """Make a solver from a safetensors file, written by any framework.

    `options` are those of `Solver`, such as `operator`. Raises FileNotFoundError if the
    file does not exist, ValueError if it is damaged or does not contain the weights of
    a network, TypeError if its network has convolutions.
    """
    recipe, weights, _ = files.read(path)
    solver = Solver(recipe, **options)
    with naming(path, TypeError):
        files.check(weights, files.shapes(recipe))
    solver.numbers = {name: np.asarray(x, np.float64) for name, x in weights.items()}
    return solver
