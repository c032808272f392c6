"""TLR-Net: an unrolled low-rank network for colour compressed sensing.

An image x is to be found from samples y = mask * x. The alternating direction method
of multipliers splits x from an auxiliary image z that has low rank after a transform,
and each of its iterations becomes a cell with learned transforms (Zhang & Hu,
arXiv 2411.14141):

    z = v + D(SVT(E(v))),  v = x + l        low rank after a learned transform
    x = (1 - mask) * (z - l) + mask * y     data consistency, exact
    l = l + eta * (x - z)                   multiplier

E and D are small convolutional networks without bias, SVT thresholds the singular
values of each feature map.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

import svdinv.torch
from svdinv.unroll.fill import normalised_fill
from svdinv.unroll.lowrank import SVD, LowRank

__all__ = ["PUBLISHED", "Cell", "TLRNet", "TLRNetConfig"]


@dataclass(frozen=True)
class TLRNetConfig:
    """Structure of a `TLRNet`.

    Attributes
    ----------
    cells : int
        Number of unrolled iterations.
    features : int
        Width of the hidden convolutions.
    channels : int
        Channels of the image.
    low_rank_maps : int
        Feature maps whose singular values each cell thresholds.
    bypass_maps : int
        Feature maps that go past the threshold, through a ReLU.
    convs_before, convs_after : int
        Convolutions in front of and behind the low-rank step. With `convs_before` = 0
        it acts on the channels of the image itself.
    block : int or None
        Side of the blocks that are matrices of their own; None for whole maps.
    start : {"fill", "samples"}
        First estimate: `normalised_fill`, or the samples with zeros between them.
    side : {"none", "samples", "mask"}
        What the convolutions see beside v: nothing, the zero-filled samples (hence
        which pixels are measured; the network stays homogeneous, black in, black
        out), or the mask itself.
    threshold : float
        First value of c, for thresholds ``sigmoid(c) * s_1``.
    step : float
        First value of eta.
    """

    cells: int = 5
    features: int = 32
    channels: int = 3
    low_rank_maps: int = 3
    bypass_maps: int = 0
    convs_before: int = 3
    convs_after: int = 3
    block: int | None = 32
    start: Literal["fill", "samples"] = "fill"
    side: Literal["none", "samples", "mask"] = "samples"
    threshold: float = -2.0
    step: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what makes no network.

        Raises
        ------
        ValueError
            Naming the attribute.
        """
        for name in ("cells", "features", "channels", "low_rank_maps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        for name in ("bypass_maps", "convs_before", "convs_after"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative")
        if self.block is not None and self.block < 1:
            raise ValueError("block must be at least 1, or None")
        if self.start not in ("fill", "samples"):
            raise ValueError(f"start must be 'fill' or 'samples', got {self.start!r}")
        if self.side not in ("none", "samples", "mask"):
            raise ValueError(
                f"side must be 'none', 'samples' or 'mask', got {self.side!r}"
            )
        plain = (self.low_rank_maps, self.bypass_maps) == (self.channels, 0)
        if 0 in (self.convs_before, self.convs_after) and not plain:
            raise ValueError(
                "where convs_before or convs_after is 0 the maps are the image: "
                "low_rank_maps must equal channels, and bypass_maps be 0"
            )


PUBLISHED = TLRNetConfig(
    cells=10, features=16, block=None, start="samples", side="none"
)
"""The network of Zhang & Hu, without additions."""


class Cell(nn.Module):
    """One unrolled iteration.

    Parameters
    ----------
    config : TLRNetConfig
        Structure.
    svd : callable
        As for `svdinv.unroll.lowrank.shrink_singular_values`.
    """

    def __init__(self, config: TLRNetConfig, svd: SVD) -> None:
        super().__init__()
        image, maps = config.channels, config.low_rank_maps + config.bypass_maps
        beside = 0 if config.side == "none" else image
        hidden = config.features
        self.low_rank_maps = config.low_rank_maps
        self.analysis = _convolutions(image + beside, hidden, maps, config.convs_before)
        self.low_rank = LowRank(config.threshold, svd=svd, block=config.block)
        self.synthesis = _convolutions(maps, hidden, image, config.convs_after)
        self.eta = nn.Parameter(torch.tensor(float(config.step)))

    def forward(
        self, x: Tensor, l: Tensor, samples: Tensor, mask: Tensor, side: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Iterate once.

        Parameters
        ----------
        x, l : Tensor, shape (B, C, H, W)
            Estimate and multiplier.
        samples, mask : Tensor, shape (B, C, H, W)
            Measured values, and a bool mask that is true where measured.
        side : Tensor or None, shape (B, C, H, W)
            What the convolutions see beside the estimate.

        Returns
        -------
        x, l : Tensor, shape (B, C, H, W)
            The next estimate, equal to the samples where measured, and multiplier.
        """
        v = x + l
        seen = v if side is None or not len(self.analysis) else torch.cat([v, side], 1)
        maps = self.analysis(seen)
        low_rank = self.low_rank(maps[:, : self.low_rank_maps])
        past = maps[:, self.low_rank_maps :].relu()
        z = v + self.synthesis(torch.cat([low_rank, past], dim=1))
        x = torch.where(mask, samples, z - l)
        return x, l + self.eta * (x - z)


class TLRNet(nn.Module):
    """Unrolled low-rank network, from samples and mask to an image.

    Parameters
    ----------
    config : TLRNetConfig
        Structure; `PUBLISHED` is the one of the paper.
    svd : callable
        The decomposition in every cell: `svdinv.torch.svd`, or anything called as
        ``svd(A, full_matrices=False)``, such as `torch.linalg.svd`.

    Examples
    --------
    >>> import torch
    >>> from svdinv.unroll.tlrnet import TLRNet, TLRNetConfig
    >>> network = TLRNet(TLRNetConfig(cells=2, features=8))
    >>> image = torch.rand(1, 3, 48, 40)
    >>> mask = torch.rand_like(image) < 0.4
    >>> network(image * mask, mask).shape
    torch.Size([1, 3, 48, 40])
    """

    def __init__(self, config: TLRNetConfig, *, svd: SVD = svdinv.torch.svd) -> None:
        super().__init__()
        self.config = config
        self.cells = nn.ModuleList([Cell(config, svd) for _ in range(config.cells)])
        # A CPU convolves few channels about three times as fast in this layout.
        self.to(memory_format=torch.channels_last)

    def forward(self, samples: Tensor, mask: Tensor) -> Tensor:
        """Reconstruct images.

        Parameters
        ----------
        samples : Tensor, shape (B, C, H, W)
            Measured values; entries outside the mask are not looked at.
        mask : Tensor of bool, shape (B, C, H, W)
            True where measured.

        Returns
        -------
        Tensor, shape (B, C, H, W)
            Images, not clipped; equal to `samples` where measured.
        """
        last = torch.channels_last
        measured = torch.where(mask, samples, torch.zeros_like(samples))
        measured = measured.contiguous(memory_format=last)
        weight = mask.to(samples.dtype).contiguous(memory_format=last)
        fill = self.config.start == "fill"
        x = normalised_fill(measured, weight) if fill else measured
        side = {"none": None, "samples": measured, "mask": weight}[self.config.side]
        l = torch.zeros_like(x)
        for cell in self.cells:
            x, l = cell(x, l, samples, mask, side)
        return x


def _convolutions(first: int, hidden: int, last: int, count: int) -> nn.Sequential:
    """Stack 3x3 convolutions without bias, with a ReLU after each but the last."""
    widths = [first, *[hidden] * (count - 1), last] if count else []
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
