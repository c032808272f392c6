"""A first estimate of an image from its samples: normalised convolution."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["SCALES", "normalised_fill"]

SCALES = (6.0, 2.0, 0.8)
"""Widths of the Gaussians in pixels, coarsest first: holes, then detail."""

# A scale is trusted where its window holds about this weight of samples.
_ENOUGH = 0.05


def normalised_fill(
    samples: Tensor, mask: Tensor, scales: Sequence[float] = SCALES
) -> Tensor:
    """Fill the gaps between samples with Gaussian means of the samples around them.

    Normalised convolution, ``blur(mask * y) / blur(mask)`` (Knutsson & Westin, CVPR
    1993), at several widths: each finer mean replaces the coarser one as far as there
    are samples near enough to carry it. Linear in the samples, so black stays black.

    Parameters
    ----------
    samples, mask : Tensor, shape (B, C, H, W)
        Measured values and the mask, 1 where measured; channels are filled
        separately.
    scales : sequence of float
        Widths of the Gaussians in pixels, coarsest first.

    Returns
    -------
    Tensor, shape (B, C, H, W)
        The filled image; it equals `samples` where measured.
    """
    measured = mask * samples
    channels = samples.shape[1]
    stacked = torch.cat([measured, mask], dim=1)
    filled = torch.zeros_like(samples)
    for rank, scale in enumerate(scales):
        mean, weight = _blur(stacked, scale).split(channels, dim=1)
        local = mean / weight.clamp_min(torch.finfo(weight.dtype).tiny)
        trust = weight / (weight + _ENOUGH) if rank else 1.0
        filled = filled + trust * (local - filled)
    return measured + (1 - mask) * filled


def _blur(images: Tensor, width: float) -> Tensor:
    """Gaussian blur with zeros around the image; an impulse becomes a bell of sum 1."""
    radius = max(1, round(3 * width))
    offsets = torch.arange(-radius, radius + 1, device=images.device)
    bell = torch.exp(-((offsets.to(images.dtype) / width) ** 2) / 2)
    bell = bell / bell.sum()
    flat = images.reshape(-1, 1, *images.shape[-2:])
    flat = F.conv2d(flat, bell.view(1, 1, -1, 1), padding=(radius, 0))
    flat = F.conv2d(flat, bell.view(1, 1, 1, -1), padding=(0, radius))
    return flat.reshape(images.shape)
