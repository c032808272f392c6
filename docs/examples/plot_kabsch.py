r"""
Alignment with learned weights
==============================

``kabsch(P, Q, weights)`` finds the rotation :math:`R` and the translation :math:`t`
that bring the points :math:`P` nearest to the points :math:`Q`,

.. math::

    \min_{R, t} \sum_i w_i\, \| R p_i + t - q_i \|^2, \qquad \det R = 1,

and is differentiable in the points and in the weights. So it can be a layer. It takes
batches of any shape, in any dimension; weights of 0 leave a point out, and have a
gradient there.
"""

import itertools

import matplotlib.pyplot as plt
import torch

import svdinv.torch

# %%
# The gradient at a perfect fit
# -----------------------------
#
# The usual way is an SVD of the covariance of :math:`P` and :math:`Q`. If the body is
# symmetric and the fit good, the covariance has repeated singular values, and the
# derivative of its singular vectors does not exist. That of the rotation does: it
# contains :math:`1 / (s_i + s_j)` only. One part is not smooth by nature: the ``rmsd``
# of a perfect fit has a kink, as a norm has at 0.


def by_svd(P, Q):
    """Compose it of PyTorch's SVD."""
    p, q = P - P.mean(0), Q - Q.mean(0)
    U, _, Vh = torch.linalg.svd(q.mT @ p)
    d = torch.sign(torch.linalg.det(U.detach() @ Vh.detach()))
    return (U * torch.stack([torch.ones_like(d), torch.ones_like(d), d])) @ Vh


cube = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=3)))
for name, rotation in (
    ("torch.linalg.svd", by_svd),
    ("kabsch", lambda P, Q: svdinv.torch.kabsch(P, Q).rotation),
):
    P = cube.clone().requires_grad_()
    rotation(P, cube)[0, 1].backward()
    print(f"{name}: norm of the gradient {P.grad.norm():.4f}")

# %%
# Ignoring outliers
# -----------------
#
# 30 points are turned, shifted and measured with noise of 0.05; up to ten of them are
# measured at random instead. The alignment is repeated three times, each with weights
# from the distances that the one before has left,
#
# .. math:: w_i = \operatorname{sigmoid}(a - b\, d_i / c),
#
# with :math:`c` the median distance. :math:`a` and :math:`b` of each of the three
# rounds are learned, by the error of the last rotation. All goes through ``kabsch``:
# the points are the same in each round, the weights change.

generator = torch.Generator().manual_seed(0)


def problems(number):
    """Give points, moved ones with outliers, and the rotation."""
    P = torch.randn(number, 30, 3, generator=generator)
    R = svdinv.torch.polar(torch.randn(number, 3, 3, generator=generator))
    R = R * torch.linalg.det(R)[:, None, None]  # proper
    Q = P @ R.mT + torch.randn(number, 1, 3, generator=generator)
    Q = Q + 0.05 * torch.randn(Q.shape, generator=generator)
    share = torch.rand(number, 1, generator=generator) / 3
    outlier = torch.rand(number, 30, generator=generator) < share
    noise = 2 * torch.randn(Q.shape, generator=generator)
    return P, torch.where(outlier[..., None], Q + noise, Q), R


def align(P, Q, rounds):
    """Align with weights, again and again."""
    motion = svdinv.torch.kabsch(P, Q)
    for a, b in rounds:
        moved = P @ motion.rotation.mT + motion.translation[:, None]
        distance = (moved - Q).norm(dim=-1)
        scale = distance.median(dim=-1, keepdim=True).values
        weights = torch.sigmoid(a - b * distance / scale)
        motion = svdinv.torch.kabsch(P, Q, weights)
    return motion.rotation


def error(R, exact):
    """Give the angle between two rotations, in degrees; smooth at 0."""
    chord = (R - exact).square().sum((-2, -1))
    return torch.rad2deg(torch.asin((chord / 8).clamp(max=1).sqrt()) * 2)


rounds = torch.tensor([[2.0, 1.0]] * 3, requires_grad=True)
optimizer = torch.optim.Adam([rounds], lr=0.05)
for _ in range(300):
    P, Q, R = problems(64)
    loss = (align(P, Q, rounds) - R).square().sum((-2, -1)).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

P, Q, R = problems(1000)
with torch.no_grad():
    angles = {
        "all alike": error(align(P, Q, []), R),
        "weights at first": error(align(P, Q, [[2.0, 1.0]] * 3), R),
        "learned weights": error(align(P, Q, rounds), R),
    }
for name, angle in angles.items():
    print(f"{name}: median {angle.median():.2f}, worst {angle.max():.1f} degrees")
before, start, after = (float(angle.max()) for angle in angles.values())
assert after < start < before

# %%
# The loss was the mean square, which the worst cases dominate: it is they that have
# improved.

for name, angle in angles.items():
    share = torch.linspace(0, 1, len(angle))
    plt.semilogx(angle.sort().values, share, label=name)
plt.xlabel("error of the rotation in degrees")
plt.ylabel("share of 1,000 problems that are as good")
plt.legend()
plt.show()
