r"""
A threshold learned with and without the truth
==============================================

A camera pans slowly over a photograph, and each of its 12 frames is noisy. In a small
block of pixels the frames are nearly alike, so that the block, written as a matrix of
pixels by frames, has nearly low rank. ``local_low_rank`` soft-thresholds the singular
values of each block. One number is to be chosen, the threshold :math:`\tau`. It is
learned by gradient descent twice:

- **without the truth**, by Stein's unbiased estimate of the squared error, ``sure``, on
  the noisy series itself, whose noise level :math:`\sigma` is known;
- **with the truth**, by the squared error on another photograph.

Both photographs come with scikit-image. A learned threshold has to stay positive: here
its logarithm is learned.
"""

import matplotlib.pyplot as plt
import numpy as np
import skimage.data
import torch

import svdinv.torch

SIGMA, BLOCK, FRAMES, SIZE = 0.1, 16, 12, 128


def series(photograph, top, left):
    """Give a pan of one pixel a frame, shape (FRAMES, SIZE, SIZE)."""
    grey = photograph.mean(axis=-1) / 255
    places = [(top + t, left + t) for t in range(FRAMES)]
    return np.stack([grey[y : y + SIZE, x : x + SIZE] for y, x in places])


def casorati(x):
    """Give blocks of a series as matrices of pixels by frames."""
    blocks = x.unfold(1, BLOCK, BLOCK).unfold(2, BLOCK, BLOCK)
    return blocks.permute(1, 2, 3, 4, 0).flatten(2, 3)


def psnr(x, truth):
    """Compare two series with values from 0 to 1."""
    return float(-10 * (x - truth).square().mean().log10())


def learn(loss):
    """Find the threshold with the least loss."""
    level = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([level], lr=0.2)
    for _ in range(40):
        optimizer.zero_grad()
        loss(SIGMA * torch.exp(level)).backward()
        optimizer.step()
    return SIGMA * level.detach().exp()


rng = np.random.default_rng(0)
truth = torch.tensor(series(skimage.data.chelsea(), 60, 130))
other = torch.tensor(series(skimage.data.astronaut(), 100, 200))
noisy, other_noisy = (
    x + SIGMA * torch.tensor(rng.standard_normal(x.shape)) for x in (truth, other)
)

# %%
# Two thresholds
# --------------
#
# The gradient in :math:`\tau` goes through ``svt`` and ``sure`` alike. Where it is
# asked for in the matrices as well, as in a network in front of the threshold, it is
# exact too: flat blocks, whose singular values are zero or repeated, do no harm.

blocks = casorati(noisy)
without = learn(lambda tau: svdinv.torch.sure(blocks, tau, SIGMA).sum())
other_blocks, other_truth = casorati(other_noisy), casorati(other)
supervised = learn(
    lambda tau: (svdinv.torch.svt(other_blocks, tau) - other_truth).square().sum()
)

levels = SIGMA * torch.arange(2.0, 40.0, dtype=torch.float64)
errors = torch.stack(
    [(svdinv.torch.svt(blocks, t) - casorati(truth)).square().sum() for t in levels]
)
best = levels[int(errors.argmin())]

print(f"noisy: {psnr(noisy, truth):.2f} dB")
print(f"mean of the frames: {psnr(noisy.mean(0).expand_as(truth), truth):.2f} dB")
for name, tau in (
    ("without the truth", without),
    ("from another photograph", supervised),
    ("the best, with the truth", best),
):
    once = svdinv.torch.local_low_rank(noisy, tau, BLOCK)
    overlapping = svdinv.torch.local_low_rank(noisy, tau, BLOCK, stride=BLOCK // 4)
    print(
        f"{name}: tau = {float(tau) / SIGMA:.1f} sigma, {psnr(once, truth):.2f} dB, "
        f"with overlapping blocks {psnr(overlapping, truth):.2f} dB"
    )
    assert psnr(once, truth) > psnr(noisy, truth) + 4

# %%
# The threshold found without the truth costs less than 0.1 dB against the best one.
# ``sure`` holds for independent matrices with Gaussian noise of known :math:`\sigma`,
# so for blocks that do not overlap. For the average over overlapping ones the threshold
# is simply taken over.

images = {
    "truth": truth,
    "noisy": noisy,
    "threshold learned without the truth": overlapping,
}
figure, axes = plt.subplots(1, 3, figsize=(9, 3.2), layout="constrained")
for axis, (name, image) in zip(axes, images.items(), strict=True):
    axis.imshow(image[0], cmap="gray", vmin=0, vmax=1)
    axis.set_title(name, fontsize="medium")
    axis.axis("off")
plt.show()
