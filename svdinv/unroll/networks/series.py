"""What the networks for dynamic MRI have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from svdinv.unroll.arrays import Array, casorati, from_casorati, namespace
from svdinv.unroll.networks.parts import check_image, fraction
from svdinv.unroll.networks.recipe import Layers, Recipe
from svdinv.unroll.operators import MRI, Operator

__all__ = ["SeriesRecipe", "low_rank_series"]


@dataclass(frozen=True, kw_only=True)
class SeriesRecipe(Recipe):
    """A network from the k-space of complex series (B, T, H, W) to the series."""

    axes: ClassVar[str] = "B T H W"

    def operator(self, *measurement: Array) -> Operator:
        """Sample the k-space of each frame, of every coil.

        Parameters
        ----------
        *measurement : array
            A mask (B, T, H, W), and for several coils maps (B, C, H, W).

        Returns
        -------
        Operator
            From (B, T, H, W) to (B, T, H, W), or with maps to (B, T, C, H, W).

        Raises
        ------
        TypeError
            If there is anything else.
        """
        if len(measurement) not in (1, 2):
            raise TypeError(
                "beside the k-space the network takes a mask and perhaps coil maps, "
                f"or an operator, got {len(measurement)} arguments"
            )
        mask, *maps = measurement
        return MRI(mask, *(m[:, None] for m in maps))

    def zero_filled(self, y: Array, A: Operator) -> Array:
        """A^H y, checked to be complex series."""
        x = A.H(y)
        check_image(x, self.axes, True, namespace(x))
        return x


def low_rank_series(x: Array, layers: Layers) -> Array:
    """Threshold the singular values of the Casorati matrix, frames x pixels."""
    xp = namespace(x)
    matrices = layers.svt(casorati(x, xp), fraction(layers.threshold, xp))
    return from_casorati(matrices, x, xp)
