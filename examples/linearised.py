"""How sure a fit is, and what to measure next: the linearised deep image prior.

Around fitted parameters theta*, images are x(theta) = x* + J (theta - theta*), with the
Jacobian J of the network. A Gaussian prior on theta makes one of images, and Gaussian
noise a posterior in closed form (J. Antorán, R. Barbano, J. Leuschner, J. M. Hernández-
Lobato and B. Jin, "Uncertainty estimation for computed tomography with a linearised
deep image prior", Transactions on Machine Learning Research, 2023). With J = U S V^T
of low rank, all that is needed lives in r dimensions: the prior of x is that of
mu + U S c for c ~ N(0, I / precision), and for data y = A x + noise the posterior of c
is Gaussian with the covariance ::

    (precision I + K^T K / noise^2)^-1,    K = A U S.

What the truncation neglects is the variance of the prior along the discarded singular
vectors: what data say of these is not used, and standard deviations are too small by
that part. `Linearised.neglected` estimates how much it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

import svdinv.torch
from svdinv.backends.torch import as_vector, leaves_of
from svdinv.unroll.operators import Operator

__all__ = ["Linearised", "linearise"]

PROBES = 16  # random products that tell what the truncation neglects
GRID = 64  # points of a search for the largest evidence, refined so many times
ROUNDS = 6


@dataclass(frozen=True)
class Linearised:
    """Gaussian posterior of an image, of low rank.

    Attributes
    ----------
    image : Tensor
        The fit x*, of any shape, N pixels.
    mean : Tensor
        Mean of the posterior, of that shape.
    std : Tensor
        Standard deviation of each pixel, of that shape; without the noise.
    precision, noise : float
        Precision of the prior of the parameters, and standard deviation of the noise.
    evidence : float
        Logarithm of the marginal likelihood of the data, with these two.
    neglected : float
        Share of the prior variance, summed over pixels, that the truncation leaves out;
        an unbiased estimate from 16 random products.
    U, S : Tensor
        Leading singular vectors, shape (N, r), and values, shape (r,), of the Jacobian.
    prior_mean : Tensor
        Mean of the prior, of the shape of the image.
    factor : Tensor
        L, shape (r, r): the posterior covariance of the image is U S L L^T S U^T.
    """

    image: Tensor
    mean: Tensor
    std: Tensor
    precision: float
    noise: float
    evidence: float
    neglected: float
    U: Tensor
    S: Tensor
    prior_mean: Tensor
    factor: Tensor

    def samples(self, count: int, seed: int | None = None) -> Tensor:
        """Draw images from the posterior.

        Parameters
        ----------
        count : int
            How many.
        seed : int, optional
            Seed; PyTorch's own source by default.

        Returns
        -------
        Tensor
            Independent, one along the first axis.
        """
        shape = (self.S.shape[0], count)
        device = self.S.device
        generator = None if seed is None else torch.Generator(device).manual_seed(seed)
        z = torch.randn(shape, dtype=self.S.dtype, device=device, generator=generator)
        spread = (self.U * self.S) @ (self.factor @ z)
        return self.mean + spread.mT.reshape(count, *self.image.shape)

    def given(
        self,
        A: Operator,
        y: Tensor,
        noise: float | None = None,
        precision: float | None = None,
    ) -> Linearised:
        """Return the posterior for other data, with the same prior.

        Parameters
        ----------
        A, y, noise, precision
            As for `linearise`, but that `noise` and `precision` are by default those of
            this posterior.

        Returns
        -------
        Linearised
            The Jacobian is not computed again, and the data of this one are forgotten.
        """
        return _posterior(
            (self.image, self.prior_mean, self.U, self.S, self.neglected),
            A,
            y,
            self.noise if noise is None else noise,
            self.precision if precision is None else precision,
        )

    def next_measurements(
        self,
        candidates: Operator,
        count: int,
        *,
        noise: float | None = None,
        criterion: Literal["information", "variance"] = "information",
    ) -> list[int]:
        """Choose measurements one after the other, each the best given those before.

        Greedy Bayesian design: the gain of information of the k-th candidate, with the
        rows A_k, is log det(I + A_k Sigma A_k^T / noise^2) / 2 for the covariance Sigma
        of the image. It does not depend on data, so that all can be chosen at once. The
        gain is submodular: the greedy choice has at least 1 - 1/e of the largest
        (Nemhauser, Wolsey and Fisher, 1978).

        Parameters
        ----------
        candidates : Operator
            Measures images, with their batch in front, by all candidates: one along the
            first axis of the data of an image, such as a pixel or a line of k-space.
        count : int
            How many to choose.
        noise : float, optional
            Standard deviation of the noise of each number measured, of each part of a
            complex one; that of the data by default.
        criterion : {"information", "variance"}
            What to gain most of: information, or reduction of the sum of the variances
            of all pixels.

        Returns
        -------
        list of int
            Indices along that axis, in the order of the choice.

        Raises
        ------
        ValueError
            If `count` is above the number of candidates, or `criterion` is unknown.
        """
        if criterion not in ("information", "variance"):
            raise ValueError(
                f"criterion must be 'information' or 'variance', got {criterion!r}"
            )
        variance = (self.noise if noise is None else _positive(noise, "noise")) ** 2
        rows = _measured(candidates, self.U * self.S, self.image.shape)
        r, number = rows.shape[:2]
        if not 0 <= count <= number:
            raise ValueError(f"count must be from 0 to {number}, got {count}")
        B = rows.reshape(r, number, -1).permute(1, 0, 2)  # (candidates, r, numbers)
        C = self.factor @ self.factor.mT
        eye = variance * torch.eye(B.shape[2], dtype=B.dtype, device=B.device)
        chosen: list[int] = []
        for _ in range(count):
            D = C @ B
            T = eye + B.mT @ D
            if criterion == "information":
                gain = torch.logdet(T)
            else:
                weighted = D.mT @ (self.S[:, None] ** 2 * D)
                gain = (
                    torch.linalg.solve(T, weighted).diagonal(dim1=-2, dim2=-1).sum(-1)
                )
            gain[chosen] = -math.inf
            k = int(gain.argmax())
            chosen.append(k)
            C = C - D[k] @ torch.linalg.solve(T[k], D[k].mT)
        return chosen


def linearise(
    f: Callable[[Any], Tensor],
    theta: Any,
    A: Operator,
    y: Tensor,
    noise: float | None = None,
    *,
    rank: int,
    precision: float | None = None,
    scales: Any = None,
    prior_mean: Any = None,
    oversampling: int = 10,
    power: int = 4,
    seed: Any = None,
    chunk: int | None = None,
) -> Linearised:
    """Make the posterior of an image around a fit of a network.

    Parameters
    ----------
    f : callable
        From `theta` to the image, real, of any shape: complex ones as two channels.
    theta : Tensor, or mapping or sequence of Tensor
        The fitted parameters.
    A : Operator
        The measurement. It takes images with a batch axis in front.
    y : Tensor
        Data, real or complex.
    noise : float, optional
        Standard deviation of the noise, of each part of complex data. By default that
        of the largest evidence.
    rank : int
        Number of singular triplets of the Jacobian.
    precision : float, optional
        Precision of the prior of the parameters, or its ratio to `scales`: their
        standard deviation is ``scales / sqrt(precision)``. By default that of the
        largest evidence.
    scales : float, or mapping or sequence of float, optional
        Relative standard deviation of the prior in each of the tensors of `theta`; all
        1 by default.
    prior_mean : Tensor, or mapping or sequence of Tensor, optional
        Parameters at the centre of the prior: those that the fit has started from, if
        they are known; 0 by default.
    oversampling, power, seed, chunk
        As for `svdinv.torch.jacobian_svd`.

    Returns
    -------
    Linearised
        The posterior.

    Raises
    ------
    ValueError
        If `noise` or `precision` is not positive, or `rank` above the size of the
        Jacobian.
    TypeError
        If `theta` or the image is not as said.

    Notes
    -----
    The evidence is that of the linear model, of low rank. With c and noise integrated
    out, and the singular vectors P and values of K = A U S, the data d = y - A mu are
    independent along P with the variances noise^2 + s_i^2 / precision, and noise^2
    outside: in closed form. One of both parameters is eliminated by its own optimum,
    the other found by a search in one dimension.

    Do not centre the prior at a `theta` that was fitted to `y` itself: it has seen the
    data, whose residual is then no more than noise, so that the largest evidence is
    that of a prior without any width.

    Examples
    --------
    >>> import torch
    >>> from svdinv.unroll.operators import Sampling
    >>> from svdinv.unroll.untrained.linearised import linearise
    >>> basis = torch.linspace(0, 3, 32)[:, None] ** torch.arange(4)
    >>> mask = torch.arange(32) % 3 == 0
    >>> y = torch.where(mask, basis @ torch.ones(4), 0.0)
    >>> posterior = linearise(
    ...     lambda theta: basis @ theta, torch.zeros(4), Sampling(mask), y, 0.1,
    ...     rank=4, precision=1.0, seed=0)
    >>> posterior.mean.shape, bool(posterior.std.max() < 1)
    (torch.Size([32]), True)
    """
    leaves, rebuilt = leaves_of(theta)
    start, widths = [torch.zeros_like(t) for t in leaves], [1.0] * len(leaves)
    if prior_mean is not None:
        start = _in_order(prior_mean, theta, "prior_mean")
    if scales is not None:
        widths = [_positive(w, "scales") for w in _in_order(scales, theta, "scales")]
    if any(t.shape != leaf.shape for t, leaf in zip(start, leaves, strict=True)):
        raise ValueError("prior_mean must have the shapes of theta")
    # Of variables that all have the same prior.
    J = svdinv.torch.Jacobian(
        lambda parts: f(rebuilt([w * t for w, t in zip(widths, parts, strict=True)])),
        [t / w for w, t in zip(widths, leaves, strict=True)],
        chunk,
    )
    U, S, _ = svdinv.torch.svd_lowrank(
        J, rank, oversampling=oversampling, power=power, seed=seed, like=J.at
    )
    generator = torch.Generator(J.at.device).manual_seed(0)
    probes = torch.randn(
        (PROBES, *J.at.shape), dtype=J.at.dtype, device=J.at.device, generator=generator
    )
    drawn = J.forward(probes).reshape(PROBES, -1).mT
    tail = float((drawn - U @ (U.mT @ drawn)).square().sum()) / PROBES
    neglected = tail / max(tail + float(S.square().sum()), math.ulp(0))
    centre = as_vector([t / w for w, t in zip(widths, start, strict=True)])
    mu = J.value + J.forward((centre - J.at)[None])[0]
    return _posterior((J.value, mu, U, S, neglected), A, y, noise, precision)


def _in_order(values: Any, theta: Any, name: str) -> list[Any]:
    """Return one value for each of the tensors of `theta`, in their order."""
    if isinstance(theta, Tensor):
        return [values]
    if isinstance(theta, Mapping):
        if not isinstance(values, Mapping) or set(values) != set(theta):
            raise ValueError(f"{name} must have the names of theta, {sorted(theta)}")
        return [values[key] for key in theta]
    if len(values) != len(theta):
        raise ValueError(f"{name} must be one for each of {len(theta)} tensors")
    return list(values)


def _positive(value: float, name: str) -> float:
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be positive, got {value}")
    return float(value)


def _measured(A: Operator, columns: Tensor, shape: torch.Size) -> Tensor:
    """Measure images in columns (N, r): real data of shape (r, *data)."""
    data = A.forward(columns.mT.reshape(-1, *shape))
    return torch.view_as_real(data) if data.is_complex() else data


def _posterior(
    prior: tuple[Tensor, Tensor, Tensor, Tensor, float],
    A: Operator,
    y: Tensor,
    noise: float | None,
    precision: float | None,
) -> Linearised:
    """Condition the prior, of x*, mu, U, S and what it neglects, on data."""
    image, mu, U, S, neglected = prior
    noise = None if noise is None else _positive(noise, "noise")
    precision = None if precision is None else _positive(precision, "precision")
    with torch.no_grad():
        rest = y - A.forward(mu[None])[0]
        kept = A.project_to_samples(torch.ones_like(rest))
        if rest.is_complex():
            rest, kept = torch.view_as_real(rest), torch.view_as_real(kept)
            kept = kept[..., :1].expand(kept.shape)
        kept = kept.reshape(-1) != 0
        d = rest.reshape(-1)[kept]
        K = _measured(A, U * S, image.shape).reshape(S.shape[0], -1)[:, kept].mT
        # All of V, because what is not measured has the variance of the prior.
        P, values, Qh = torch.linalg.svd(K, full_matrices=K.shape[0] < K.shape[1])
        P = P[:, : values.shape[0]]
        p = P.mT @ d
        evidence = _Evidence(values, p, d)
        precision, noise = evidence.largest(precision, noise)
        square = torch.zeros_like(S)
        square[: values.shape[0]] = values**2
        variances = 1 / (precision + square / noise**2)
        factor = Qh.mT * variances.sqrt()
        solved = torch.zeros_like(S)
        solved[: values.shape[0]] = values * p
        c = Qh.mT @ (variances * solved) / noise**2
        spread = (U * S) @ factor
        return Linearised(
            image,
            mu + ((U * S) @ c).reshape(image.shape),
            spread.square().sum(1).sqrt().reshape(image.shape),
            precision,
            noise,
            float(evidence(1 / precision, noise**2)),
            neglected,
            U,
            S,
            mu,
            factor,
        )


class _Evidence:
    """Logarithm of the marginal likelihood, over variances of prior and noise."""

    def __init__(self, values: Tensor, p: Tensor, d: Tensor) -> None:
        self.square, self.p2, self.count = values**2, p**2, d.numel()
        # The part of d that no image of the prior explains.
        self.outside = (d.square().sum() - self.p2.sum()).clamp(min=0)

    def __call__(self, prior: Any, noise: Any) -> Tensor:
        """Evaluate at variances, numbers or of shape (g, 1)."""
        variances = noise + prior * self.square
        noise = torch.as_tensor(noise, dtype=self.p2.dtype, device=self.p2.device)
        free = self.count - self.p2.numel()
        inside = (variances.log() + self.p2 / variances).sum(-1)
        outside = (free * noise.log() + self.outside / noise).sum(-1)
        return -0.5 * (inside + outside + self.count * math.log(2 * math.pi))

    def largest(
        self, precision: float | None, noise: float | None
    ) -> tuple[float, float]:
        """Return both hyperparameters, estimating missing ones by maximum evidence."""
        if precision is not None and noise is not None:
            return precision, noise
        if not float(self.square.sum()) > 0:
            raise ValueError(
                "noise and precision must be given: the data do not depend on theta"
            )

        def noise_of(ratio: Tensor) -> Tensor:
            """Variance of the noise, for that of the prior in units of it."""
            if noise is not None:
                return torch.full_like(ratio, noise**2)
            if precision is not None:
                return 1 / (precision * ratio)
            share = (self.p2 / (1 + ratio * self.square)).sum(-1, keepdim=True)
            return (share + self.outside) / self.count

        # From a prior that data drown to one that they do not notice.
        low, high = -8.0, 12.0
        for _ in range(ROUNDS):
            grid = torch.linspace(low, high, GRID, dtype=self.p2.dtype)[:, None]
            ratio = 10 ** grid.to(self.p2) / self.square.max()
            variance = noise_of(ratio)
            best = int(self(ratio * variance, variance).argmax())
            step = (high - low) / (GRID - 1)
            middle = float(grid[best])
            low, high = middle - step, middle + step
        variance = noise_of(ratio)
        return float(1 / (ratio * variance)[best]), math.sqrt(float(variance[best]))


if __name__ == "__main__":
    print("A module: docs/untrained-linearised.md has programs that import it.")
