"""What an unrolled network is, before any framework: its layers and its iteration.

A `Recipe` is a value. It names the layers of one cell, starts from the measurements,
and iterates, in the array API; `svdinv.unroll.torch`, `svdinv.unroll.keras` and
`svdinv.unroll.manual` make networks of it, each with its own layers. So an algorithm
is read in one place, and a new one appears on every framework.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeAlias, TypeVar

from svdinv.core.namespace import real
from svdinv.unroll.arrays import Array, namespace
from svdinv.unroll.fidelity import L2, DataFidelity
from svdinv.unroll.networks.functional import (
    at_least,
    check_floats,
    require,
    residual_gains,
)
from svdinv.unroll.operators import Operator, Sampling
from svdinv.unroll.problem import Problem

State: TypeAlias = dict[str, Array]
"""The arrays that an iteration changes, by name."""


EPSILON = 1e-5
"""Added to a variance, by whose root is then divided."""


@dataclass(frozen=True)
class Convolutions:
    """A chain of convolutions that keep the size.

    The layer maps arrays (B, widths[0], ...) to (B, widths[-1], ...), with `axes` axes
    behind the channels, and has a ReLU between the convolutions. Without any widths it
    hands on what it is given.

    Attributes
    ----------
    widths : tuple of int
        Channels before the first convolution and after each.
    axes : int
        2 for images, 3 for series.
    slope : float
        Slope of the ReLU below zero (a leaky ReLU), not negative.
    last : bool
        Whether a ReLU follows the last convolution too.
    gains : tuple of float
        For each convolution the size of its first weights relative to those that keep
        the size of what passes through a ReLU (He et al., ICCV 2015); if empty, the
        first weights are those of the released networks.
    side : int
        Of the kernels, 3 or 1.
    normalised : bool
        Whether each channel of each item is brought to mean 0 and variance 1 before a
        ReLU, then scaled and shifted by learned numbers (Ulyanov, Vedaldi & Lempitsky,
        arXiv 1607.08022); where no ReLU follows it is shifted alone. Otherwise the
        convolutions have no bias.
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
        if not self.slope >= 0:
            raise ValueError(f"slope must not be negative, got {self.slope!r}")
        each = not self.gains or len(self.gains) == len(self.kernels)
        require(
            each, self, "gains", f"one for each of {len(self.kernels)} convolutions"
        )

    @property
    def kernels(self) -> list[tuple[int, int]]:
        """Channels that go into and come out of each convolution."""
        return list(zip(self.widths[:-1], self.widths[1:], strict=True))

    def gain(self, index: int) -> float | None:
        """Return the gain of a convolution, if it has one."""
        return self.gains[index] if self.gains else None

    def active(self, index: int) -> bool:
        """Return whether a ReLU follows a convolution."""
        return self.last or index < len(self.widths) - 2

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name the weights, as in "0.weight", and give their shapes."""
        found: dict[str, tuple[int, ...]] = {}
        for i, (inputs, outputs) in enumerate(self.kernels):
            found[f"{i}.weight"] = (outputs, inputs, *[self.side] * self.axes)
            if self.normalised and self.active(i):
                found[f"{i}.scale"] = (outputs,)
            if self.normalised:
                found[f"{i}.shift"] = (outputs,)
        return found


@dataclass(frozen=True)
class Number:
    """A learned real number: a step size, or what a threshold is made of.

    Attributes
    ----------
    initial : float
        Its first value.
    """

    initial: float


Layer: TypeAlias = Convolutions | Number | Callable[[], Any] | None
"""What a cell is made of: besides the two above, a function without arguments that
makes a layer of the user's framework; None for a layer that this cell lacks."""


class Layers(Protocol):
    """The layers of one cell, made by a framework: attributes under their names.

    Attributes
    ----------
    index : int
        Which cell it is, from 0.
    """

    index: int

    def __getattr__(self, name: str) -> Any:
        """Return a `Convolutions` as a function, a `Number` as an array."""

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
            What `fraction` is a fraction of; the largest singular value of each
            matrix by default.

        Returns
        -------
        array, shape (..., m, n)
            ``U max(S - fraction * scale, 0) V^H``.
        """

    def doubled(self, maps: Array) -> Array:
        """Double the size of maps (..., H, W) by linear interpolation."""


class Part:
    """Those of the layers of a cell whose names begin with a label, without it."""

    def __init__(self, layers: Layers, label: str) -> None:
        self._layers, self._label = layers, label
        self.index, self.svt = layers.index, layers.svt

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layers, self._label + name)

    def doubled(self, maps: Array) -> Array:
        """Double the size of maps, as `Layers.doubled`, which not all layers have."""
        return self._layers.doubled(maps)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """An unrolled algorithm: subclasses say what a cell is.

    Attributes
    ----------
    cells : int
        Number of unrolled iterations.

    Raises
    ------
    TypeError, ValueError
        If an attribute makes no network, which is named.
    """

    cells: int = 10

    axes: ClassVar[str]
    """Axes of the image, such as "B C H W"."""

    measurement: ClassVar[tuple[str, ...]] = ("mask",)
    """Names of the arguments of `operator`, which a call may use."""

    has_penalty: ClassVar[bool] = False
    """Whether ``"penalty"``, where it is in the state, is added to."""

    def __post_init__(self) -> None:
        check_floats(self)
        at_least(1, self, "cells")

    def layers(self, last: bool) -> Mapping[str, Layer]:
        """Name the layers of a cell.

        Parameters
        ----------
        last : bool
            Whether it is the last cell, which may need fewer.

        Returns
        -------
        mapping of str to Layer
            The layers, in the order in which they are listed.
        """
        raise NotImplementedError

    def operator(self, *measurement: Array) -> Operator:
        """Make the forward operator from the arguments behind the measured values.

        Parameters
        ----------
        *measurement : array
            What `measurement` names: a mask, unless a subclass says otherwise.

        Returns
        -------
        Operator
            The forward operator; of a mask the sampling of pixels.

        Raises
        ------
        TypeError
            If there are too few or too many.
        """
        check_measurement(self, measurement)
        return Sampling(*measurement)

    def fidelity(self, *measurement: Array) -> DataFidelity:
        """Return the data fidelity for data that are given without a problem.

        Parameters
        ----------
        *measurement : array
            As for `operator`; nothing where an operator was given.

        Returns
        -------
        DataFidelity
            That of Gaussian noise, unless a subclass says otherwise.
        """
        return L2()

    def begin(self, problem: Problem) -> State:
        """Return the state before the first cell.

        Parameters
        ----------
        problem : Problem
            What was measured, by what, and how well an image explains it: of the
            batch, with the batch axis in front.

        Returns
        -------
        dict of str to array
            The state; ``"x"`` is the first estimate.
        """
        raise NotImplementedError

    def no_penalty(self, x: Array) -> Array:
        """Return the penalty before the first cell: 0, as an array like the image.

        Raises ValueError if this recipe has no penalty.
        """
        if not self.has_penalty:
            raise ValueError(f"penalty: {type(self).__name__} has none")
        xp = namespace(x)
        return xp.sum(xp.zeros_like(real(x, xp)))

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
        raise NotImplementedError


def residual_chain(recipe: Any, inputs: int, outputs: int, axes: int) -> Convolutions:
    """Return `convs` convolutions of width `features` for a residual branch."""
    widths = (inputs, *[recipe.features] * (recipe.convs - 1), outputs)
    gains = residual_gains(recipe.convs)
    return Convolutions(widths, axes=axes, slope=recipe.slope, gains=gains)


def choose(recipe: Recipe | None, kind: str, options: Any) -> Recipe:
    """Return the recipe of a network: as given, or of the class `kind` with options."""
    own: type[Recipe] = Recipe
    if kind:
        own = getattr(importlib.import_module("svdinv.unroll.networks"), kind)
        if recipe is None:
            return own(**options)
    if not isinstance(recipe, own):
        raise TypeError(f"recipe must be of the class {own.__name__}, got {recipe!r}")
    if options:
        raise TypeError(f"unexpected beside a recipe: {', '.join(options)}")
    return recipe


def given_problem(
    recipe: Recipe,
    own: Any,
    y: Any,
    measurement: tuple[Any, ...],
    named: Mapping[str, Any] | None = None,
) -> Problem:
    """Return the problem for a call of a network, without the truth.

    Of data, or a problem itself; what lies where nothing was measured becomes 0. A
    forward operator that is given comes before the network's own, which is an operator,
    what makes one, or None for that of the recipe. Raises TypeError if the arguments
    behind the measured values do not make one.
    """
    named = named or {}
    beside: tuple[Any, ...] = ()
    if isinstance(y, Problem):
        if measurement or named:
            raise TypeError("nothing goes beside a problem, which has its operator")
        return dataclasses.replace(y, y=y.A.project_to_samples(y.y), truth=None)
    if len(measurement) == 1 and not named and isinstance(measurement[0], Operator):
        A = measurement[0]
    elif isinstance(own, Operator):
        if measurement or named:
            raise TypeError(
                "this network has its operator: nothing but another goes beside y"
            )
        A = own
    elif own is None:
        beside = in_order(recipe, measurement, named)
        A = recipe.operator(*beside)
    else:
        A = own(*measurement, **named)
        known = {n: x for n, x in named.items() if n in recipe.measurement}
        beside = in_order(recipe, measurement, known)
    if not isinstance(A, Operator):
        raise TypeError(f"operator must give an Operator, got {type(A).__name__}")
    return Problem(A.project_to_samples(y), A, recipe.fidelity(*beside))


def in_order(
    recipe: Recipe, measurement: tuple[Any, ...], named: Mapping[str, Any]
) -> tuple[Any, ...]:
    """Append keyword arguments to positional ones, with None for missing ones."""
    names = recipe.measurement
    for name in named:
        if name not in names:
            known = ", ".join(names)
            raise TypeError(f"unexpected argument {name!r}; there are {known}")
        if names.index(name) < len(measurement):
            raise TypeError(f"{name} is given twice")
    later = [named.get(name) for name in names[len(measurement) :]]
    while later and later[-1] is None:
        later.pop()
    return (*measurement, *later)


def check_measurement(
    recipe: Recipe, measurement: tuple[Any, ...], optional: int = 0
) -> None:
    """Check how many arguments there are behind the data; the last few are optional."""
    names = recipe.measurement
    if len(names) - optional <= len(measurement) <= len(names):
        return
    due = ", ".join(names[: len(names) - optional])
    due += "".join(f"[, {name}]" for name in names[len(names) - optional :])
    raise TypeError(
        f"{type(recipe).__name__} needs beside the measured values: {due}, or an "
        f"Operator; got {len(measurement)} arguments"
    )


_REGISTERED: dict[str, type] = {}

_Class = TypeVar("_Class", bound=type)


def register(cls: _Class) -> _Class:
    """Register a dataclass, so that it can be written to and read from files.

    Of a `Recipe`, say, whose fields are numbers, strings, None, tuples of these, or
    registered dataclasses. Returns the same class: this is a decorator. Raises
    TypeError if it is no dataclass, ValueError if another class has that name.
    """
    if not dataclasses.is_dataclass(cls):
        raise TypeError(f"{cls.__name__} must be a dataclass")
    known = _REGISTERED.get(cls.__name__, cls)
    # The same class anew, as when a cell of a notebook is run twice, is no other.
    if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ValueError(f"there is another class named {cls.__name__}")
    _REGISTERED[cls.__name__] = cls
    return cls


def registered(base: type = object) -> dict[str, type]:
    """List the classes that `register` has seen, by name, such as each `Recipe`."""
    networks = importlib.import_module("svdinv.unroll.networks")
    for name in networks.__all__:
        getattr(networks, name)
    return {name: cls for name, cls in _REGISTERED.items() if issubclass(cls, base)}


def to_json(recipe: Any) -> str:
    """Write an instance of a registered dataclass as JSON.

    `from_json` makes an equal one of that. Raises TypeError if it is not registered, or
    a field cannot be written.
    """
    return json.dumps(_plain(recipe))


def from_json(text: str) -> Any:
    """Make the dataclass that `to_json` wrote.

    Only registered classes are made, and they check their fields: nothing in the text
    is run. Raises ValueError if it is not such JSON, or its fields make no network.
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
        own = importlib.import_module("svdinv.unroll.networks")
        if name in own.__all__:
            getattr(own, name)
        elif name not in _REGISTERED:  # a part of a network of svdinv
            registered()
        if name not in _REGISTERED:
            raise ValueError(
                f"no network or part of one is named {name!r}; import the module that "
                "registers it, if it is your own"
            )
        return _REGISTERED[name](**fields)
    return tuple(map(_object, value)) if isinstance(value, list) else value
