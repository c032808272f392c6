"""Framework-independent description of unrolled networks: layers and iteration.

A `Recipe` is an immutable value. It names the layers of one cell, computes the initial
state from a problem, and iterates, all in the array API. `svdinv.unroll.torch`,
`svdinv.unroll.keras` and `svdinv.unroll.manual` build networks from it with layers of
their own, so each algorithm is written once and runs on every framework.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeAlias, TypeVar

from svdinv.core.namespace import real
from svdinv.unroll.arrays import Array, namespace
from svdinv.unroll.fidelity import L2, DataFidelity
from svdinv.unroll.networks.functional import (
    at_least,
    check_axes,
    check_floats,
    require,
    residual_gains,
)
from svdinv.unroll.operators import Operator, Sampling
from svdinv.unroll.problem import Problem

State: TypeAlias = dict[str, Array]
"""Arrays that an iteration updates, by name."""


EPSILON = 1e-5
"""Added to a variance before the division by its square root."""


@dataclass(frozen=True)
class Convolutions:
    """A chain of convolutions that preserve the spatial size.

    The layer maps arrays (B, widths[0], ...) to (B, widths[-1], ...), with `axes` axes
    after the channels and a ReLU between convolutions. Empty `widths`: the identity.

    Attributes
    ----------
    widths : tuple of int
        Channels before the first convolution and after each one.
    axes : int
        2 for images, 3 for series.
    slope : float
        Slope of the ReLU below zero (leaky ReLU), nonnegative.
    last : bool
        Whether a ReLU also follows the last convolution.
    gains : tuple of float
        For each convolution the scale of its initial weights, relative to the
        initialisation that preserves the variance through a ReLU (He et al., ICCV
        2015). If empty, weights are initialised as in the released networks.
    side : int
        Side of the kernels, 3 or 1.
    normalised : bool
        Whether each channel of each item is normalised to mean 0 and variance 1 before
        a ReLU, then scaled and shifted by learned numbers (instance normalisation;
        Ulyanov, Vedaldi & Lempitsky, arXiv 1607.08022). A convolution without a ReLU
        after it gets only the shift. If false, convolutions have no bias.
    """

    widths: tuple[int, ...]
    axes: int
    slope: float = 0.0
    last: bool = False
    gains: tuple[float, ...] = ()
    side: int = 3
    normalised: bool = False

    def __post_init__(self) -> None:
        require(self.side in (1, 3), self, "side", "1 or 3")
        require(self.axes in (2, 3), self, "axes", "2 or 3")
        several = len(self.widths) != 1
        counts = several and all(isinstance(n, int) and n > 0 for n in self.widths)
        require(counts, self, "widths", "two positive integers or more, or none")
        if not self.slope >= 0:
            raise ValueError(f"slope must not be negative, got {self.slope!r}")
        valid = not self.gains or len(self.gains) == len(self.kernels)
        require(
            valid, self, "gains", f"one for each of {len(self.kernels)} convolutions"
        )

    @property
    def kernels(self) -> list[tuple[int, int]]:
        """Input and output channels of each convolution."""
        return list(zip(self.widths[:-1], self.widths[1:], strict=True))

    def gain(self, index: int) -> float | None:
        """Return the gain of a convolution, or None if there are no gains."""
        return self.gains[index] if self.gains else None

    def active(self, index: int) -> bool:
        """Return whether a ReLU follows a convolution."""
        return self.last or index < len(self.widths) - 2

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the weights by name, such as "0.weight"."""
        shapes: dict[str, tuple[int, ...]] = {}
        for i, (inputs, outputs) in enumerate(self.kernels):
            shapes[f"{i}.weight"] = (outputs, inputs, *[self.side] * self.axes)
            if self.normalised and self.active(i):
                shapes[f"{i}.scale"] = (outputs,)
            if self.normalised:
                shapes[f"{i}.shift"] = (outputs,)
        return shapes


@dataclass(frozen=True)
class Number:
    """A learned real number, such as a step size or the parameter of a threshold.

    Attributes
    ----------
    initial : float
        Initial value.
    """

    initial: float

    def __post_init__(self) -> None:
        check_floats(self)


Layer: TypeAlias = Convolutions | Number | Callable[[], Any] | None
"""A layer of a cell: one of the two above, or a function without arguments that makes
a layer of the user's framework; None for a layer that this cell does not have."""


class Layers(Protocol):
    """The layers of one cell, made by a framework, as attributes with their names.

    Attributes
    ----------
    index : int
        Index of the cell, from 0.
    """

    index: int

    def __getattr__(self, name: str) -> Any:
        """Return `Convolutions` as a function, `Number` as an array."""

    def svt(
        self, matrices: Array, fraction: Array, scale: Array | None = None
    ) -> Array:
        """Soft-threshold singular values.

        Parameters
        ----------
        matrices : array, shape (..., m, n)
            Real or complex.
        fraction : array, shape ()
            In (0, 1).
        scale : array, shape (...), optional
            Thresholds are ``fraction * scale``; by default each largest singular value.

        Returns
        -------
        array, shape (..., m, n)
            ``U max(S - fraction * scale, 0) V^H``.
        """

    def doubled(self, maps: Array) -> Array:
        """Double the size of maps (..., H, W) by linear interpolation."""


class Part:
    """The layers of a cell whose names begin with a label, with the label removed."""

    def __init__(self, layers: Layers, label: str) -> None:
        self._layers, self._label = layers, label
        self.index, self.svt = layers.index, layers.svt

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layers, self._label + name)

    def doubled(self, maps: Array) -> Array:
        """Double the size of maps, see `Layers.doubled`, which some layers lack."""
        return self._layers.doubled(maps)


@dataclass(frozen=True, kw_only=True)
class Recipe(ABC):
    """An unrolled algorithm; subclasses define the cell.

    Attributes
    ----------
    cells : int
        Number of unrolled iterations.

    Raises
    ------
    TypeError, ValueError
        If an attribute is invalid; the message names it.
    """

    cells: int = 10

    axes: ClassVar[str]
    """Axes of the image, such as "B C H W"."""

    measurement: ClassVar[tuple[str, ...]] = ("mask",)
    """Names of the arguments of `operator`, accepted as keywords by a call."""

    has_penalty: ClassVar[bool] = False
    """Whether the cells add to ``"penalty"`` if the state has it."""

    def __post_init__(self) -> None:
        check_floats(self)
        at_least(1, self, "cells")

    @abstractmethod
    def layers(self, last: bool) -> Mapping[str, Layer]:
        """Return the layers of a cell by name.

        Parameters
        ----------
        last : bool
            Whether this is the last cell, which may need fewer layers.

        Returns
        -------
        mapping of str to Layer
            The layers, in the order in which weights are listed.
        """

    def operator(self, *measurement: Array) -> Operator:
        """Make the forward operator from the arguments that follow the measured values.

        Parameters
        ----------
        *measurement : array
            The arguments named in `measurement`; a mask by default.

        Returns
        -------
        Operator
            The forward operator; by default sampling of pixels by the mask.

        Raises
        ------
        TypeError
            If there are too few or too many arguments.
        """
        check_measurement(self, measurement)
        return Sampling(*measurement)

    def fidelity(self, *measurement: Array) -> DataFidelity:
        """Return the data fidelity for data that come without a `Problem`.

        Parameters
        ----------
        *measurement : array
            As for `operator`; empty if an operator was passed instead.

        Returns
        -------
        DataFidelity
            By default `L2`, for Gaussian noise.
        """
        return L2()

    @abstractmethod
    def begin(self, problem: Problem) -> State:
        """Return the state before the first cell.

        Parameters
        ----------
        problem : Problem
            Measurement, operator and data fidelity, with the batch axis in front.

        Returns
        -------
        dict of str to array
            The state; ``"x"`` is the first estimate.
        """

    def no_penalty(self, x: Array) -> Array:
        """Return the penalty before the first cell, 0; ValueError if there is none."""
        if not self.has_penalty:
            raise ValueError(f"penalty: {type(self).__name__} has none")
        xp = namespace(x)
        return xp.sum(xp.zeros_like(real(x, xp)))

    @abstractmethod
    def cell(self, state: State, problem: Problem, layers: Layers) -> State:
        """Iterate once.

        Parameters
        ----------
        state : dict of str to array
            The state; it is not changed.
        problem : Problem
            As for `begin`.
        layers : Layers
            The layers of this cell.

        Returns
        -------
        dict of str to array
            The next state, with the same names; ``"x"`` is the next estimate.
        """


def residual_chain(recipe: Any, inputs: int, outputs: int, axes: int) -> Convolutions:
    """Return `convs` convolutions of width `features` for a residual branch."""
    widths = (inputs, *[recipe.features] * (recipe.convs - 1), outputs)
    gains = residual_gains(recipe.convs)
    return Convolutions(widths, axes=axes, slope=recipe.slope, gains=gains)


def choose(recipe: Recipe | None, kind: str, options: Any) -> Recipe:
    """Return `recipe`, checked, or a new one of class `kind` made from the options."""
    cls: type[Recipe] = Recipe  # type: ignore[type-abstract]
    if kind:
        cls = getattr(importlib.import_module("svdinv.unroll.networks"), kind)
        if recipe is None:
            return cls(**options)
    if not isinstance(recipe, cls):
        raise TypeError(f"recipe must be of the class {cls.__name__}, got {recipe!r}")
    if options:
        raise TypeError(f"options are not allowed with a recipe: {', '.join(options)}")
    return recipe


def first_state(recipe: Recipe, problem: Problem) -> State:
    """Return the state before the first cell.

    Raises TypeError without an image "x", ValueError if it has other axes than those of
    the recipe.
    """
    name = f"{type(recipe).__name__}.begin"
    state = checked_state(recipe.begin(problem), name, ["x"])
    x, axes = state["x"], getattr(recipe, "axes", None)
    known = getattr(x.shape, "rank", 0) is not None  # not so in TensorFlow's graphs
    if isinstance(axes, str) and known:
        check_axes(x, axes)
    return state


def checked_state(state: Any, method: str, names: Iterable[str]) -> State:
    """Return what a method of a recipe returned; TypeError without these names."""
    got = sorted(state) if isinstance(state, Mapping) else type(state).__name__
    if not (isinstance(got, list) and set(names) <= set(got)):
        raise TypeError(
            f"{method} must return a dict of arrays with the names {sorted(names)}, "
            f"got {got}"
        )
    return state


def next_state(recipe: Recipe, state: State, problem: Problem, layers: Layers) -> State:
    """Return the state after a cell; TypeError if an array of the state is missing."""
    found = recipe.cell(state, problem, layers)
    return checked_state(found, f"{type(recipe).__name__}.cell", state)


def make_problem(
    recipe: Recipe,
    operator: Any,
    y: Any,
    measurement: tuple[Any, ...],
    named: Mapping[str, Any] | None = None,
) -> Problem:
    """Return the problem for a call of a network, without the ground truth.

    `y` is data or a problem; its unmeasured entries become 0. `operator` is that of the
    network, a function that makes one, or None for `Recipe.operator`; an operator in
    `measurement` takes precedence. Raises TypeError if the arguments after the measured
    values do not determine an operator.
    """
    named = named or {}
    arguments: tuple[Any, ...] = ()
    if isinstance(y, Problem):
        if measurement or named:
            raise TypeError("a problem has its operator: no argument may follow it")
        return dataclasses.replace(y, y=y.A.project_to_samples(y.y), truth=None)
    if len(measurement) == 1 and not named and isinstance(measurement[0], Operator):
        A = measurement[0]
    elif isinstance(operator, Operator):
        if measurement or named:
            raise TypeError(
                "this network has its operator: only another Operator may follow y"
            )
        A = operator
    elif operator is None:
        arguments = in_order(recipe, measurement, named)
        if any(isinstance(x, Operator) for x in arguments):
            raise TypeError("an operator must be the only argument after y")
        A = recipe.operator(*arguments)
    else:
        A = operator(*measurement, **named)
        named_arguments = {n: x for n, x in named.items() if n in recipe.measurement}
        arguments = in_order(recipe, measurement, named_arguments)
    if not isinstance(A, Operator):
        raise TypeError(f"operator must return an Operator, got {type(A).__name__}")
    return Problem(A.project_to_samples(y), A, recipe.fidelity(*arguments))


def in_order(
    recipe: Recipe, measurement: tuple[Any, ...], named: Mapping[str, Any]
) -> tuple[Any, ...]:
    """Return positional followed by keyword arguments, with None for missing ones."""
    names = recipe.measurement
    for name in named:
        if name not in names:
            expected = ", ".join(names)
            raise TypeError(f"unexpected argument {name!r}; expected {expected}")
        if names.index(name) < len(measurement):
            raise TypeError(f"{name} is passed twice")
    remaining = [named.get(name) for name in names[len(measurement) :]]
    while remaining and remaining[-1] is None:
        remaining.pop()
    return (*measurement, *remaining)


def check_measurement(
    recipe: Recipe, measurement: tuple[Any, ...], optional: int = 0
) -> None:
    """Check the number of arguments that follow the data; the last few are optional."""
    names = recipe.measurement
    if len(names) - optional <= len(measurement) <= len(names):
        return
    required = ", ".join(names[: len(names) - optional])
    required += "".join(f"[, {name}]" for name in names[len(names) - optional :])
    raise TypeError(
        f"{type(recipe).__name__} needs after the measured values: {required}, or an "
        f"Operator; got {len(measurement)} arguments"
    )


_REGISTERED: dict[str, type] = {}

_Class = TypeVar("_Class", bound=type)


def register(cls: _Class) -> _Class:
    """Register a dataclass, such as a `Recipe`, so that files can store it.

    Its fields must be numbers, strings, None, registered dataclasses, or tuples of
    these. Returns the class, for use as a decorator. Raises TypeError if it is not a
    dataclass, ValueError if another class with that name is registered.
    """
    if not dataclasses.is_dataclass(cls):
        raise TypeError(f"{cls.__name__} must be a dataclass")
    other = _REGISTERED.get(cls.__name__, cls)
    # A class defined again, as by running a notebook cell twice, replaces the first.
    if (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ValueError(f"another class named {cls.__name__} is registered")
    _REGISTERED[cls.__name__] = cls
    return cls


def registered(base: type = object) -> dict[str, type]:
    """Return the subclasses of `base` that `register` has seen, by name."""
    networks = importlib.import_module("svdinv.unroll.networks")
    for name in networks.__all__:
        getattr(networks, name)
    return {name: cls for name, cls in _REGISTERED.items() if issubclass(cls, base)}


def to_json(recipe: Any) -> str:
    """Write an instance of a registered dataclass as JSON, for `from_json`.

    Raises TypeError if its class is not registered, or a field cannot be written.
    """
    return json.dumps(_plain(recipe))


def from_json(text: str) -> Any:
    """Make the dataclass instance that `to_json` wrote.

    Only registered classes are instantiated, and they check their fields; no code is
    run. Raises ValueError if the text is not such JSON or a field is invalid.
    """
    try:
        return _object(json.loads(text))
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"not the description of a network: {error}") from error


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        name = type(value).__name__
        if _REGISTERED.get(name) is not type(value):
            raise TypeError(
                f"{name} must be registered: svdinv.unroll.networks.register"
            )
        fields = dataclasses.fields(value)
        return {"class": name} | {
            f.name: _plain(getattr(value, f.name)) for f in fields
        }
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(f"cannot be written to a file: {value!r}")


def _object(value: Any) -> Any:
    if isinstance(value, dict):
        fields = {name: _object(item) for name, item in value.items()}
        name = fields.pop("class")
        networks = importlib.import_module("svdinv.unroll.networks")
        if name in networks.__all__:
            getattr(networks, name)
        elif name not in _REGISTERED:  # perhaps defined in a module not yet imported
            registered()
        if name not in _REGISTERED:
            raise ValueError(
                f"no network or component is named {name!r}; if it is your own, import "
                "the module that registers it, by --import MODULE on the command line"
            )
        return _REGISTERED[name](**fields)
    return tuple(map(_object, value)) if isinstance(value, list) else value
