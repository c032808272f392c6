"""svdinv's priors and operators in DeepInverse, and its physics in svdinv."""

from __future__ import annotations

from typing import Any

import deepinv
import torch

from svdinv.adapters.proximal import check_prior, prox_of_images, with_weight
from svdinv.unroll.operators import Operator
from svdinv.unroll.priors import Prior as Penalty

__all__ = ["Denoiser", "Physics", "Prior", "to_physics"]


class Prior(deepinv.optim.Prior):
    """A prior of svdinv for the optimisers and unfolded networks of DeepInverse.

    Parameters
    ----------
    prior : svdinv.unroll.priors.Prior
        Such as `Nuclear`, `WeightedNuclear`, `Schatten`, `Casorati`, `LocalLowRank` or
        `TensorNuclear`, of images (C, H, W), (C, T, H, W) and so on. A `weight` that is
        a Parameter becomes a parameter of this module.
    two_channels : bool, optional
        Whether images are complex, with real and imaginary parts as their two channels,
        as DeepInverse has them in MRI: (B, 2, H, W), which are images (1, H, W), or
        (B, 2, T, H, W). Complex tensors need no such option.

    Raises
    ------
    TypeError
        If `prior` has no proximal operator.
    """

    explicit_prior: bool

    def __init__(self, prior: Penalty, *, two_channels: bool = False) -> None:
        super().__init__()
        self.explicit_prior = True
        self.prior = check_prior(prior)
        self.two_channels = two_channels
        weight = getattr(prior, "weight", None)
        learned = isinstance(weight, torch.nn.Parameter)
        self.weight = weight if learned else None

    def fn(self, x: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        """Return the value of the prior for each image of a batch, shape (B,)."""
        prior = with_weight(self.prior, self.weight)
        found = [prior.value(image) for image in self._seen(x)]
        return torch.stack(found).to(x.real.dtype) if found else x.real.new_zeros(0)

    def prox(
        self, x: torch.Tensor, *args: Any, gamma: Any = 1.0, **options: Any
    ) -> torch.Tensor:
        """Apply the proximal operator of gamma times the prior.

        Parameters
        ----------
        x : Tensor, shape (B, ...)
            Images, real or complex.
        gamma : float, Tensor or sequence of float
            Step: one number, or one for each image, of shape (B,) or (B, 1, ...).

        Returns
        -------
        Tensor
            Of the shape and dtype of `x`.

        Raises
        ------
        ValueError
            If there are neither one nor B steps.
        """
        z = self._seen(x)
        if not isinstance(gamma, (int, float)):
            gamma = torch.as_tensor(gamma, device=x.device)
            if gamma.numel() != 1:
                if gamma.numel() != len(x) or len(gamma) != len(x):
                    raise ValueError(
                        f"gamma must be one number or {len(x)}, got {(*gamma.shape,)}"
                    )
                gamma = gamma.reshape(-1, *(1,) * (z.ndim - 1))
        z = prox_of_images(with_weight(self.prior, self.weight), z, gamma, "gamma")
        if not self.two_channels:
            return z
        return torch.stack([z.real, z.imag], 1).to(x.dtype).reshape(x.shape)

    def _seen(self, x: torch.Tensor) -> torch.Tensor:
        if not self.two_channels:
            return x
        if x.is_complex() or x.ndim < 2 or x.shape[1] != 2:
            raise ValueError(
                f"x must be real, of shape (B, 2, ...), got {x.dtype}, {tuple(x.shape)}"
            )
        if x.dtype == torch.bfloat16:  # which has no complex type
            x = x.float()
        z = torch.complex(x[:, 0], x[:, 1])
        # Without an axis of channels, a prior of series would take the batch for time.
        return z[:, None] if x.ndim == 4 else z


class Denoiser(deepinv.models.Denoiser):
    """The proximal operator of a prior as a denoiser, for plug-and-play methods.

    Its step is the noise level: singular values are thresholded at ``weight * sigma``.
    Noise of standard deviation 1 on an image of H by W pixels has a spectral norm of
    about sqrt(H) + sqrt(W), which is a good weight of a nuclear norm.

    Parameters
    ----------
    prior, two_channels
        As for `Prior`.
    """

    def __init__(self, prior: Penalty, *, two_channels: bool = False) -> None:
        super().__init__()
        self.prior = Prior(prior, two_channels=two_channels)

    def forward(self, x: torch.Tensor, sigma: Any, **options: Any) -> torch.Tensor:
        """Denoise images (B, ...), with one noise level or one for each."""
        return self.prior.prox(x, gamma=sigma)


class Physics(Operator):
    """A physics of DeepInverse as a forward operator of svdinv, of images (B, ...).

    Parameters
    ----------
    physics : deepinv.physics.Physics
        Only its `A` is used, not its noise and sensor. If it is not linear, automatic
        differentiation computes its derivative.

    Raises
    ------
    TypeError
        If `physics` is not a Physics, or is stacked and so returns a list of tensors.
    """

    def __init__(self, physics: deepinv.physics.Physics) -> None:
        if not isinstance(physics, deepinv.physics.Physics):
            raise TypeError(f"physics must be a Physics of DeepInverse, got {physics}")
        parts = (physics, *getattr(physics, "physics_list", ()))  # of composed ones
        if any(isinstance(part, deepinv.physics.StackedPhysics) for part in parts):
            raise TypeError(
                "physics must return one tensor, not a list: pass each of a stacked "
                "physics, and combine them by svdinv.unroll.operators.Stack"
            )
        self.physics = physics
        self.linear = isinstance(physics, deepinv.physics.LinearPhysics)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the physics to images, without noise and sensor."""
        return self.physics.A(x)

    def adjoint(self, y: torch.Tensor) -> torch.Tensor:
        """Apply the adjoint of a linear physics."""
        return self.physics.A_adjoint(y) if self.linear else super().adjoint(y)

    def derivative(self, x: torch.Tensor) -> Operator:
        """Return the derivative at an image."""
        return self if self.linear else _Derivative(self.physics, x)

    def extra_repr(self) -> str:
        """Name the physics."""
        return type(self.physics).__name__


class _Derivative(Operator):
    def __init__(self, physics: deepinv.physics.Physics, x: torch.Tensor) -> None:
        self.physics, self.x = physics, x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.func.jvp(self.physics.A, (self.x,), (x,))[1]

    def adjoint(self, y: torch.Tensor) -> torch.Tensor:
        return self.physics.A_vjp(self.x, y)


def to_physics(operator: Operator, **options: Any) -> deepinv.physics.Physics:
    """Make a physics of DeepInverse from a forward operator.

    Parameters
    ----------
    operator : svdinv.unroll.operators.Operator
        Linear, or with a `derivative`.
    **options
        Of `deepinv.physics.LinearPhysics` or `Physics`, such as `noise_model`.

    Returns
    -------
    deepinv.physics.Physics
        A `LinearPhysics` if the operator is linear.

    Raises
    ------
    TypeError
        If `operator` is not an Operator of svdinv.
    """
    if not isinstance(operator, Operator):
        raise TypeError(f"operator must be an Operator of svdinv, got {operator!r}")

    def A(x: torch.Tensor, **_: Any) -> torch.Tensor:
        return operator.forward(x)

    def A_adjoint(y: torch.Tensor, **_: Any) -> torch.Tensor:
        return operator.adjoint(y)

    if operator.linear:
        return deepinv.physics.LinearPhysics(A=A, A_adjoint=A_adjoint, **options)
    physics = deepinv.physics.Physics(A=A, **options)
    physics.A_vjp = lambda x, v: operator.derivative(x).adjoint(v)
    return physics
