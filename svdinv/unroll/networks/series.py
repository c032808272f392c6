"""What the networks for dynamic MRI have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from svdinv.unroll.arrays import Array, casorati, from_casorati, is_complex, namespace
from svdinv.unroll.networks.functional import at_least, check_image, fraction, one_of
from svdinv.unroll.networks.recipe import Layers, Recipe, check_measurement
from svdinv.unroll.operators import MRI, Operator
from svdinv.unroll.problem import Problem


@dataclass(frozen=True, kw_only=True)
class SeriesRecipe(Recipe):
    """A network from the k-space of complex series (B, T, H, W) to the series."""

    features: int = 16
    threshold: float = -2.0

    axes: ClassVar[str] = "B T H W"
    measurement: ClassVar[tuple[str, ...]] = ("mask", "maps")

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "features")

    def operator(self, *measurement: Array) -> Operator:
        """Sample the k-space of each frame, of every coil.

        Of a mask (B, T, H, W), and for several coils maps (B, C, H, W), or None: from
        (B, T, H, W) to (B, T, H, W), or with maps to (B, T, C, H, W). Raises TypeError
        if the mask is missing, or no array of bool, ValueError if shapes do not go
        together.
        """
        return mri(self, measurement)


@dataclass(frozen=True, kw_only=True)
class ImageOrSeriesRecipe(Recipe):
    """A network of real images (B, C, H, W), or of complex series (B, T, H, W).

    With an operator of one's own `images` says only whether they are real or complex.
    """

    images: Literal["image", "series"]

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(("image", "series"), self, "images")

    @property
    def axes(self) -> str:  # type: ignore[override]
        """Axes of the images."""
        return SeriesRecipe.axes if self.images == "series" else "B C H W"

    @property
    def measurement(self) -> tuple[str, ...]:  # type: ignore[override]
        return (SeriesRecipe if self.images == "series" else Recipe).measurement

    def operator(self, *measurement: Array) -> Operator:
        if self.images == "series":
            return mri(self, measurement)
        return super().operator(*measurement)


def mri(recipe: Recipe, measurement: tuple[Any, ...]) -> Operator:
    """Make the operator of MRI for a recipe, as `SeriesRecipe.operator` describes."""
    check_measurement(recipe, measurement, optional=1)
    mask, maps = (*measurement, None)[:2]
    if maps is None:
        return MRI(mask)
    if len(maps.shape) != 4:
        raise ValueError(f"maps must be (B, C, H, W), got {tuple(maps.shape)}")
    return MRI(mask, maps[:, None])


def zero_filled(problem: Problem) -> Array:
    """Return A^H y, checked to be complex series, of complex k-space."""
    y = problem.y
    xp = namespace(y)
    if isinstance(problem.A, MRI) and not is_complex(y, xp):
        raise TypeError(f"the k-space must be complex, got {y.dtype}")
    x = problem.adjoint()
    check_image(x, SeriesRecipe.axes, True, xp)
    return x


def low_rank_series(x: Array, layers: Layers) -> Array:
    """Threshold the singular values of the Casorati matrix, frames x pixels."""
    xp = namespace(x)
    matrices = layers.svt(casorati(x, xp), fraction(layers.threshold, xp))
    return from_casorati(matrices, x, xp)
