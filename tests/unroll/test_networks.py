"""The networks in PyTorch: formulas, derivatives, and what they must not depend on."""

from __future__ import annotations

import copy
import io
import itertools
import math
import pickle
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
import torch
from mri_reference import operators

from svdinv.unroll.algorithms import (
    ADMM,
    FISTA,
    ISTA,
    PDHG,
    GradientDescent,
    LowRankPlusSparse,
)
from svdinv.unroll.networks import (
    LLS,
    LS,
    SLR,
    T2LR,
    TLR,
    Convolutions,
    Convolved,
    JointPrimalDual,
    LearnedPrior,
    LowRank,
    Number,
    PrimalDual,
    Refined,
    Sparse,
    Unrolled,
    register,
)
from svdinv.unroll.networks.functional import fraction
from svdinv.unroll.operators import MRI, Blur, Operator, gaussian_sensing
from svdinv.unroll.torch import LSNet, Network, SLRNet, T2LRNet, TLRNet

B, T, C, H, W = 2, 3, 2, 5, 4

SMALL = {"cells": 2, "features": 3}

PUBLISHED = {
    "TLR": TLR(**SMALL),
    "TLR, fill, samples, blocks": TLR(
        **SMALL, start="fill", side="samples", block=3, bypass_maps=1
    ),
    "TLR, folded": TLR(
        **SMALL, fold=2, side="samples", slope=0.1, first_weights="residual"
    ),
    "TLR, refined": Refined(network=TLR(**SMALL), features=(3, 4)),
    "SLR": SLR(**SMALL, sparsity=0.0),
    "LS": LS(**SMALL),
    "T2LR": T2LR(**SMALL),
    "LLS": LLS(**SMALL, block=3, static=1, start=(1, 1), start_block=5),
    "LLS, noise": LLS(**SMALL, block=3, static=1, start=(1, 1), finish=2, noise=True),
    "PrimalDual": PrimalDual(**SMALL, memory=2, channels=3),
    "PrimalDual, data": PrimalDual(**SMALL, channels=3, start=2, data_steps=2),
    "JointPrimalDual": JointPrimalDual(**SMALL, memory=2, components=3, start=2),
}

SCHEMES = {
    "ISTA": ISTA(),
    "FISTA": FISTA(),
    "FISTA, restart": FISTA(restart=True),
    "ADMM": ADMM(cg_iterations=2),
    "ADMM, exact": ADMM(exact_data=True),
    "PDHG": PDHG(),
    "GradientDescent": GradientDescent(),
    "LowRankPlusSparse": LowRankPlusSparse(),
}

PRIORS = {
    "LowRank": LowRank(),
    "Sparse": Sparse(-1.0),
    "Convolved": Convolved(features=3),
}


def unrolled(algorithm, prior, kind):
    both = isinstance(algorithm, LowRankPlusSparse)
    prior = (prior, Sparse(-1.0)) if both else prior
    return Unrolled(cells=2, algorithm=algorithm, prior=prior, images=kind)


UNROLLED = {
    f"{kind}, {algorithm}, {prior}": unrolled(SCHEMES[algorithm], PRIORS[prior], kind)
    for algorithm, prior, kind in itertools.product(
        SCHEMES, PRIORS, ("series", "image")
    )
}
RECIPES = PUBLISHED | UNROLLED

# Each scheme of each kind of images, with the priors in turn.
CHOSEN = [
    f"{kind}, {scheme}, {list(PRIORS)[(i + j) % len(PRIORS)]}"
    for i, scheme in enumerate(SCHEMES)
    for j, kind in enumerate(("series", "image"))
]
each_recipe = pytest.mark.parametrize("name", [*PUBLISHED, *CHOSEN])


def is_series(recipe):
    return "T" in recipe.axes


def draw(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=dtype)


def problem(recipe, *, coils=False, dtype=torch.float64, batch=B):
    """Measured values and what measured them: of series, complex; of images, real."""
    if not is_series(recipe):
        y = draw(batch, 3, H, W, dtype=dtype)
        return y, (draw(batch, 3, H, W, seed=1) < 0.3,)
    dtype = dtype.to_complex()
    mask = draw(batch, T, H, W, seed=1) < 0.3
    if not coils:
        return draw(batch, T, H, W, dtype=dtype), (mask,)
    maps = draw(batch, C, H, W, seed=2, dtype=dtype)
    maps = maps / maps.abs().square().sum(1, keepdim=True).sqrt()
    return draw(batch, T, C, H, W, dtype=dtype), (mask, maps)


def network(recipe, *, dtype=torch.float64, **options):
    """Make a network whose numbers are not those that it starts with."""
    net = Network(recipe, seed=3, **options).to(dtype)
    rng = np.random.default_rng(4)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim == 0:
                parameter += 0.05 * (1 + rng.random())
            elif not parameter.any():
                parameter += torch.from_numpy(rng.uniform(-0.5, 0.5, parameter.shape))
    return net


def has_coils(recipe):
    exact = isinstance(recipe, Unrolled) and recipe.algorithm == ADMM(
        exact_data=True, batch_axes=1
    )
    return is_series(recipe) and not exact


def measurements(recipe):
    return [False, True] if has_coils(recipe) else [False]


def gradients(net, y, *measurement, penalty=False):
    net.zero_grad()
    out = net(y, *measurement, penalty=penalty)
    x, extra = out if penalty else (out, 0)
    ((x - 0.5).abs().square().mean() + extra).backward()
    return x.detach(), {k: p.grad.clone() for k, p in net.named_parameters()}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (TLRNet, 10 * (2 * 9 * (3 * 16 + 16 * 16 + 16 * 3) + 2) - 1),
        (SLRNet, 10 * (2 * 27 * (2 * 16 + 16 * 16 + 16 * 16) + 5) - 1),
        (LSNet, 10 * (27 * (4 * 32 + 32 * 32 + 32 * 2) + 2)),
        (T2LRNet, 15 * (2 * 27 * (2 * 16 + 16 * 16 + 16 * 2) + 3) - 1),
    ],
)
def test_number_of_weights(kind, expected):
    """Published: about 63, 294, 328 and 259 thousand."""
    assert sum(p.numel() for p in kind().parameters()) == expected


class TestFormulas:
    """One cell against its formula, written with torch.linalg.svd and torch.fft."""

    def svt(self, X, c):
        U, S, Vh = torch.linalg.svd(X, full_matrices=False)
        tau = torch.sigmoid(c) * S.amax(-1, keepdim=True)
        return U @ torch.diag_embed((S - tau).clamp_min(0)).to(X.dtype) @ Vh

    def casorati_svt(self, x, c):
        return self.svt(x.flatten(-2), c).reshape(x.shape)

    def operators(self, *measurement):
        """A and A^H."""

        def in_torch(apply):
            return lambda x: torch.from_numpy(apply(x.detach().numpy()))

        return map(in_torch, operators(*(x.numpy() for x in measurement)))

    def chain(self, layer, x):
        """Convolve the two channels of series, or images, as PyTorch's functions do."""
        for i, convolution in enumerate(layer):
            kernel = convolution.weight
            apply = torch.conv2d if kernel.ndim == 4 else torch.conv3d
            x = apply(x, kernel, padding=1)
            if i < len(layer) - 1:
                x = torch.where(x > 0, x, layer.spec.slope * x)
        return x

    def channels(self, x):
        return torch.view_as_real(x).movedim(-1, 1)

    def joined(self, channels):
        return torch.view_as_complex(channels.movedim(1, -1).contiguous())

    @pytest.fixture(params=[False, True], ids=["one coil", "coils"])
    def series(self, request):
        def make(recipe):
            y, measurement = problem(recipe, coils=request.param)
            net = network(recipe)
            A, AH = self.operators(*measurement)
            return net(y, *measurement), net.cells, A, AH, AH(y), y

        return make

    def test_tlr(self):
        y, (mask,) = problem(PUBLISHED["TLR"])
        net = network(TLR(**SMALL))
        first, second = net.cells
        x = mask * y
        z = x + self.chain(
            first.synthesis, self.svt(self.chain(first.analysis, x), first.threshold)
        )
        x = torch.where(mask, y, z)
        l = first.eta * (x - z)
        v = x + l
        z = v + self.chain(
            second.synthesis, self.svt(self.chain(second.analysis, v), second.threshold)
        )
        torch.testing.assert_close(net(y, mask), torch.where(mask, y, z - l))

    def test_slr(self, series):
        found, cells, A, AH, x, y = series(PUBLISHED["SLR"])
        b = torch.zeros_like(x)
        for cell in cells:
            t = self.casorati_svt(x, cell.threshold)
            r = x - cell.p * AH(A(x) - y) - cell.q * (x + b - t)
            code = self.chain(cell.analysis, self.channels(r))
            soft = code.sign() * (code.abs() - cell.theta).clamp_min(0)
            x = r + self.joined(self.chain(cell.synthesis, soft))
            if cell.eta is not None:
                b = b + cell.eta.clamp_min(0) * (x - t)
        torch.testing.assert_close(found, x)

    def test_penalty_of_slr(self):
        recipe = SLR(cells=1, features=3)
        y, (mask,) = problem(recipe)
        net = network(recipe)
        (cell,), (A, AH) = net.cells, self.operators(mask)
        x = AH(y)
        t = self.casorati_svt(x, cell.threshold)
        r = self.channels(x - cell.p * AH(A(x) - y) - cell.q * (x - t))
        asymmetry = self.chain(cell.synthesis, self.chain(cell.analysis, r)) - r
        image, penalty = net(y, mask, penalty=True)
        torch.testing.assert_close(penalty, asymmetry.square().mean())
        assert torch.equal(image, net(y, mask))
        penalty.backward()
        kernels = [*cell.analysis.parameters(), *cell.synthesis.parameters()]
        assert all(w.grad.abs().max() > 0 for w in kernels)

    def test_ls(self, series):
        found, cells, A, AH, M, y = series(PUBLISHED["LS"])
        for cell in cells:
            L = self.casorati_svt(M, cell.threshold)
            both = torch.cat([self.channels(L), self.channels(M)], 1)
            S = self.joined(self.chain(cell.sparse, both))
            M = L + S - cell.gamma * AH(A(L + S) - y)
        torch.testing.assert_close(found, M)

    def test_t2lr(self, series):
        found, cells, A, AH, x, y = series(PUBLISHED["T2LR"])
        l = torch.zeros_like(x)
        for cell in cells:
            v = x + l
            maps = self.joined(self.chain(cell.analysis, self.channels(v)))
            maps = self.channels(self.svt(maps, cell.threshold))
            a = v + self.joined(self.chain(cell.synthesis, maps))
            mu = cell.mu.clamp_min(0)
            x = a - l - mu / (1 + mu) * AH(A(a - l) - y)
            if cell.eta is not None:
                l = l + cell.eta.clamp_min(0) * (x - a)
        torch.testing.assert_close(found, x)

    def prior(self, prior, layers, v, label="prior_"):
        c = getattr(layers, f"{label}threshold")
        if isinstance(prior, LowRank):
            return self.casorati_svt(v, c) if v.is_complex() else self.svt(v, c)
        if isinstance(prior, Sparse):
            z = torch.fft.fft(v, dim=1, norm="ortho") if v.is_complex() else v
            size = z.abs()
            rms = size.square().mean((1, 2, 3), keepdim=True).sqrt()
            z = torch.sgn(z) * (size - c.exp() * rms).clamp_min(0)
            return torch.fft.ifft(z, dim=1, norm="ortho") if v.is_complex() else z
        analysis = getattr(layers, f"{label}analysis")
        synthesis = getattr(layers, f"{label}synthesis")
        if not v.is_complex():
            return v + self.chain(synthesis, self.svt(self.chain(analysis, v), c))
        maps = self.svt(self.joined(self.chain(analysis, self.channels(v))), c)
        return v + self.joined(self.chain(synthesis, self.channels(maps)))

    @pytest.mark.parametrize("name", [n for n in UNROLLED if "restart" not in n])
    @pytest.mark.parametrize("coils", [False, True], ids=["one coil", "coils"])
    def test_unrolled(self, name, coils):
        recipe = UNROLLED[name]
        if coils and not has_coils(recipe):
            pytest.skip("images have no coils, and exact data need a projection")
        y, measurement = problem(recipe, coils=coils)
        net = network(recipe)
        if is_series(recipe):
            A, AH = self.operators(*measurement)
        else:
            A = AH = lambda x: measurement[0] * x
        x = AH(y)
        found = net(y, *measurement)
        run = getattr(self, type(recipe.algorithm).__name__.lower())
        torch.testing.assert_close(found, run(recipe, net.cells, x, A, AH, y))

    def ista(self, recipe, cells, x, A, AH, y):
        for cell in cells:
            x = x - cell.log_step.exp() * AH(A(x) - y)
            x = self.prior(recipe.prior, cell, x)
        return x

    def gradientdescent(self, recipe, cells, x, A, AH, y):
        for cell in cells:
            slope = AH(A(x) - y) + self.prior(recipe.prior, cell, x)
            x = x - cell.log_step.exp() * slope
        return x

    def fista(self, recipe, cells, x, A, AH, y):
        ahead, t = x, 1.0
        for cell in cells:
            v = ahead - cell.log_step.exp() * AH(A(ahead) - y)
            new, s = self.prior(recipe.prior, cell, v), (1 + math.hypot(1, 2 * t)) / 2
            ahead, x, t = new + (t - 1) / s * (new - x), new, s
        return x

    def pdhg(self, recipe, cells, x, A, AH, y):
        ahead, q = x, torch.zeros_like(y)
        for cell in cells:
            tau, sigma = cell.log_step.exp(), cell.log_dual_step.exp()
            q = (q + sigma * (A(ahead) - y)) / (1 + sigma)
            new = self.prior(recipe.prior, cell, x - tau * AH(q))
            ahead, x = 2 * new - x, new
        return x

    def lowrankplussparse(self, recipe, cells, x, A, AH, y):
        L, S = x, torch.zeros_like(x)
        for cell in cells:
            r = cell.log_step.exp() * AH(A(L + S) - y)
            L = self.prior(recipe.prior[0], cell, L - r, "low_rank_")
            S = self.prior(recipe.prior[1], cell, S - r, "sparse_")
        return L + S

    def admm(self, recipe, cells, x, A, AH, y):
        """The normal equations of each image by a matrix, not by conjugate gradients.

        Conjugate gradients take two steps here, and are exact after two if A^H A has
        two eigenvalues, as for one coil; for several they are compared step by step.
        """
        l = torch.zeros_like(x)
        for cell in cells:
            z = self.prior(recipe.prior, cell, x + l)
            if recipe.algorithm.exact_data:
                x = z - l - AH(A(z - l) - y)
            else:
                rho = cell.log_penalty.exp()
                x = self.explained(z - l, x, A, AH, y, rho)
            if cell.log_dual_step is not None:
                l = l + cell.log_dual_step.exp() * (x - z)
        return x

    def explained(self, v, x, A, AH, y, rho):
        """Minimise over the Krylov space of two dimensions, image by image."""
        b = AH(y) + rho * v

        def normal(w):
            return AH(A(w)) + rho * w

        r = b - normal(x)
        basis = torch.stack([r, normal(r)])
        images = torch.stack([normal(d) for d in basis])
        gram = torch.einsum("ibthw,jbthw->bij", basis.conj(), images)
        right = torch.einsum("ibthw,bthw->bi", basis.conj(), r)
        # Of one coil the two directions may depend on each other.
        weights = torch.linalg.pinv(gram, hermitian=True, rtol=1e-10) @ right[..., None]
        return x + torch.einsum("bi,ibthw->bthw", weights[..., 0], basis)


@each_recipe
def test_derivatives_against_finite_differences(name):
    """Through the whole network, by the measured values, coil maps and all weights."""
    recipe = RECIPES[name]
    for coils in measurements(recipe):
        y, (mask, *maps) = problem(recipe, coils=coils)
        net = network(recipe)
        names = [n for n, p in net.named_parameters()]
        weights = [p.detach().clone().requires_grad_() for p in net.parameters()]
        direction = draw(*y.shape, seed=5, dtype=y.dtype)

        # Along a line in the large arrays, along each axis in the numbers.
        kernels = [i for i, w in enumerate(weights) if w.ndim]
        lines = [draw(*weights[i].shape, seed=6 + i) for i in kernels]
        t = torch.zeros(len(kernels), dtype=torch.float64, requires_grad=True)
        s = torch.zeros(1 + len(maps), dtype=torch.float64, requires_grad=True)

        def function(s, t, *numbers, net=net, y=y, mask=mask, maps=maps,
                     weights=weights, names=names, kernels=kernels, lines=lines,
                     direction=direction):  # fmt: skip
            given = iter(numbers)
            used = [w if w.ndim else next(given) for w in weights]
            for i, line, step in zip(kernels, lines, t, strict=True):
                used[i] = weights[i].detach() + step * line
            turned = [m + s[1] * m.roll(1, -1) for m in maps]
            values = dict(zip(names, used, strict=True))
            args = (y + s[0] * direction, mask, *turned)
            return torch.func.functional_call(net, values, args)

        # Along a random direction of each argument, and of the images.
        numbers = [w for w in weights if not w.ndim]
        assert torch.autograd.gradcheck(
            function, (s, t, *numbers), eps=1e-7, atol=1e-6, rtol=1e-5, fast_mode=True
        )


@each_recipe
def test_recomputed_cells_change_no_bit(name):
    recipe = RECIPES[name]
    penalty = recipe.has_penalty
    for coils in measurements(recipe):
        y, measurement = problem(recipe, coils=coils, dtype=torch.float32)
        one, other = (
            network(recipe, dtype=torch.float32, checkpoint=c) for c in (False, True)
        )
        x, g = gradients(one, y, *measurement, penalty=penalty)
        x2, g2 = gradients(other, y, *measurement, penalty=penalty)
        assert torch.equal(x, x2)
        assert all(torch.equal(g[k], g2[k]) for k in g)


def test_recomputed_cells_keep_less():
    """What autograd keeps for the backward, counted in bytes."""

    def kept(**options):
        net = Network(LS(cells=4, features=8), seed=0, **options)
        y, (mask,) = problem(net.recipe, dtype=torch.float32)
        sizes = []

        def pack(x):
            sizes.append(x.numel() * x.element_size())
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            net(y, mask)
        return sum(sizes)

    assert kept(checkpoint=True) < kept() / 2


@pytest.mark.parametrize("c", [-100.0, 0.0, 100.0])
def test_thresholds_that_are_hardly_any_or_all_have_a_derivative(c):
    number = torch.tensor(c, requires_grad=True)
    share = fraction(number, torch)
    share.backward()
    assert share.item() == pytest.approx(0.5 + c / 200, abs=1e-30)
    assert number.grad.item() == pytest.approx(0.0 if c else 0.25, abs=1e-30)
    recipe = LS(**SMALL, threshold=c)
    y, measurement = problem(recipe, dtype=torch.float32)
    _, g = gradients(Network(recipe, seed=0), y, *measurement)
    assert all(x.isfinite().all() for x in g.values())


@each_recipe
def test_what_is_not_sampled_is_not_looked_at(name):
    """Neither by the images nor by the gradients: it may be NaN."""
    recipe = RECIPES[name]
    for coils in measurements(recipe):
        y, (mask, *maps) = problem(recipe, coils=coils)
        net = network(recipe)
        x, g = gradients(net, y, mask, *maps)
        sampled = mask[:, :, None] if coils else mask
        y = torch.where(sampled, y, torch.nan).requires_grad_()
        x2, g2 = gradients(net, y, mask, *maps)
        assert torch.equal(x, x2)
        assert all(torch.equal(g[k], g2[k]) for k in g)
        assert y.grad.isfinite().all()
        assert not y.grad[~sampled.expand(y.shape)].any()


@each_recipe
def test_images_of_a_batch_are_independent(name):
    recipe = RECIPES[name]
    for coils in measurements(recipe):
        y, measurement = problem(recipe, coils=coils, batch=3)
        # Of different sizes, so that what they share would be seen.
        y = y * torch.tensor([1, 30, 1e-3]).reshape(3, *[1] * (y.ndim - 1))
        net = network(recipe)
        together = net(y, *measurement)
        order = [2, 0, 1]
        turned = net(y[order], *(m[order] for m in measurement))
        for i in range(3):
            scale = float(y[i].abs().max())
            alone = net(y[i : i + 1], *(m[i : i + 1] for m in measurement))[0]
            for found in (together[i], turned[order.index(i)]):
                torch.testing.assert_close(
                    found, alone, rtol=1e-9, atol=1e-9 * scale, msg=f"image {i}"
                )


HOMOGENEOUS = [
    name
    for name in (*PUBLISHED, *CHOSEN)
    # Of which the first thresholds at a learned size, the other knows what is flat.
    if not isinstance(RECIPES[name], SLR | Refined)
]


@pytest.mark.parametrize("name", HOMOGENEOUS)
def test_twice_the_light_is_twice_the_image(name):
    """Convolutions have no bias, and thresholds are relative to the image."""
    recipe = RECIPES[name]
    y, measurement = problem(recipe)
    net = network(recipe)
    for factor in (1e-6, 2.0, 1e6):
        torch.testing.assert_close(
            net(factor * y, *measurement) / factor, net(y, *measurement)
        )


def degenerate(recipe, kind, dtype):
    """Measured values of an image whose matrices have equal singular values."""
    y, (mask,) = problem(recipe, dtype=dtype)
    image = torch.zeros_like(y)
    if kind == "black":
        return image, mask
    if kind == "constant":
        image += 0.5
    elif kind == "repeated":  # frames, or channels of images
        image += y[:, :1] if is_series(recipe) else y[..., :1]
    else:  # a dot that moves, or a diagonal: singular values of 1
        for i in range(3):
            image[:, i if is_series(recipe) else slice(None), i, i] = 1
    mask = torch.ones_like(mask)
    return MRI(mask)(image) if is_series(recipe) else image, mask


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("black", torch.float32),
        ("repeated", torch.float32),
        ("repeated", torch.float64),
        ("constant", torch.float64),
        ("dot", torch.float32),
    ],
)
@each_recipe
def test_gradients_are_finite_where_singular_values_are_equal(name, kind, dtype):
    net = network(RECIPES[name], dtype=dtype)
    y, mask = degenerate(RECIPES[name], kind, dtype)
    y.requires_grad_()
    x, g = gradients(net, y, mask)
    assert x.isfinite().all()
    assert all(v.isfinite().all() for v in g.values())
    assert y.grad.isfinite().all()


@each_recipe
def test_another_svd_gives_the_same_numbers(name):
    recipe = RECIPES[name]
    if recipe == PUBLISHED["TLR, fill, samples, blocks"]:
        # Zeros around a block repeat a singular value of 0: NaN in PyTorch.
        recipe = TLR(**SMALL, start="fill", side="samples", bypass_maps=1)
    if isinstance(recipe, LLS):
        recipe = replace(recipe, block=1)  # for the same reason
    y, measurement = problem(recipe)
    x, g = gradients(network(recipe), y, *measurement)
    theirs = network(recipe, svd=torch.linalg.svd)
    x2, g2 = gradients(theirs, y, *measurement)
    torch.testing.assert_close(x, x2)
    for k in g:
        torch.testing.assert_close(g[k], g2[k], rtol=1e-6, atol=1e-9, msg=k)


KERNEL = np.array([[0.05, 0.1, 0.05], [0.1, 0.4, 0.1], [0.05, 0.1, 0.05]])

OPERATORS = {
    "blur": Blur(KERNEL),
    "Gaussian": gaussian_sensing(30, (3, H, W), 0, dtype=np.float64),
}


class TestOperators:
    """Forward operators other than the recipe's own."""

    @pytest.mark.parametrize("name", OPERATORS)
    @pytest.mark.parametrize(
        "recipe",
        [PUBLISHED["TLR"], *(UNROLLED[f"image, {s}, Convolved"] for s in SCHEMES
                             if s != "ADMM, exact")],
        ids=["TLR", *(s for s in SCHEMES if s != "ADMM, exact")],
    )  # fmt: skip
    def test_as_an_argument_and_as_an_option(self, name, recipe):
        A = OPERATORS[name]
        image = draw(B, 3, H, W)
        y = A(image)
        net, own = network(recipe), network(recipe, operator=A)
        x, g = gradients(net, y, A)
        x2, g2 = gradients(own, y)
        assert x.shape == image.shape
        assert torch.equal(x, x2)
        assert all(torch.equal(g[k], g2[k]) for k in g)
        assert all(v.abs().max() > 0 for v in g.values())

    def test_what_makes_one(self):
        recipe = PUBLISHED["TLR"]
        net = network(recipe, operator=Blur)
        y, kernel = draw(B, 3, H, W), torch.from_numpy(KERNEL)
        expected = network(recipe)(y, Blur(KERNEL))
        torch.testing.assert_close(net(y, kernel), expected)

    def test_the_kernel_may_be_learned(self):
        kernel = torch.from_numpy(KERNEL).requires_grad_()
        net = network(RECIPES["image, ISTA, LowRank"])
        y = draw(1, 3, H, W)
        assert torch.autograd.gradcheck(
            lambda k: net(y, Blur(k)), (kernel,), eps=1e-7, atol=1e-6
        )

    def test_refused(self):
        net = network(PUBLISHED["TLR"], operator=OPERATORS["blur"])
        y = draw(B, 3, H, W)
        with pytest.raises(TypeError, match="this network has its operator"):
            net(y, y > 0)
        wrong = network(PUBLISHED["TLR"], operator=lambda mask: mask)
        with pytest.raises(TypeError, match="must return an Operator, got Tensor"):
            wrong(y, y > 0)
        fill = network(TLR(**SMALL, start="fill"))
        with pytest.raises(TypeError, match="samples pixels, got Blur"):
            fill(y, OPERATORS["blur"])
        exact = network(RECIPES["image, ADMM, exact, LowRank"])
        with pytest.raises(ValueError, match="exact_data needs a tight operator"):
            exact(y, OPERATORS["blur"])

    def test_an_operator_of_ones_own_that_samples_pixels(self):
        """It says so by its mask, whatever its class."""

        class Own(Operator):
            def __init__(self, mask):
                self.pixel_mask = mask

            def forward(self, x):
                return self.pixel_mask * x

            adjoint = forward
            project_to_samples = forward

        y, (mask,) = problem(PUBLISHED["TLR, fill, samples, blocks"])
        net = network(PUBLISHED["TLR, fill, samples, blocks"])
        torch.testing.assert_close(net(mask * y, Own(mask)), net(mask * y, mask))


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda net: pickle.loads(pickle.dumps(net)),
    "torch.save": lambda net: _through_torch(net),
    "state_dict": lambda net: _through_state(net),
}


def _through_torch(net):
    stream = io.BytesIO()
    torch.save(net, stream)
    return torch.load(io.BytesIO(stream.getvalue()), weights_only=False)


def _through_state(net):
    other = Network(net.recipe, seed=99).double()
    other.load_state_dict(net.state_dict())
    return other


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("name", [*PUBLISHED, "series, ADMM, Convolved"])
def test_copies(name, how):
    net = network(RECIPES[name])
    y, measurement = problem(RECIPES[name])
    other = COPIES[how](net)
    assert other.recipe == net.recipe
    assert torch.equal(other(y, *measurement), net(y, *measurement))
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert not torch.equal(other(y, *measurement), net(y, *measurement))


def test_a_copy_keeps_its_svd():
    net = network(RECIPES["TLR"], svd=torch.linalg.svd, checkpoint=True)
    for how in ("deepcopy", "pickle", "torch.save"):
        other = COPIES[how](net)
        assert other.checkpoint
        assert all(cell.svd is torch.linalg.svd for cell in other.cells)


def test_first_weights():
    """Of a seed always the same; without one, of PyTorch's generator."""
    recipe = RECIPES["SLR"]

    def weights(seed):
        return [p.clone() for p in Network(recipe, seed=seed).parameters()]

    def equal(one, other):
        return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))

    assert equal(weights(1), weights(1))
    assert not equal(weights(1), weights(2))
    torch.manual_seed(5)
    first, second = weights(None), weights(None)
    torch.manual_seed(5)
    assert equal(first, weights(None))
    assert not equal(first, second)
    state = torch.random.get_rng_state()
    weights(1)
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("kind", [TLRNet, LSNet])
def test_the_first_kernels_are_those_of_the_released_networks(kind):
    for kernel in kind(seed=0).parameters():
        if kernel.ndim:
            outputs, inputs = kernel.shape[:2]
            if kind is TLRNet:  # PyTorch's own
                limit = math.sqrt(1 / (9 * inputs))
            else:  # Keras's own
                limit = math.sqrt(6 / (27 * (inputs + outputs)))
            assert kernel.abs().max() <= limit
            assert float(kernel.detach().std()) == pytest.approx(
                limit / math.sqrt(3), rel=0.15
            )


@pytest.mark.parametrize("name", PUBLISHED)
def test_precisions(name):
    recipe = PUBLISHED[name]
    y, measurement = problem(recipe, coils=is_series(recipe))
    expected = network(recipe)(y, *measurement)
    single = network(recipe, dtype=torch.float32)
    for net in (single, copy.deepcopy(single).double().to(torch.float32)):
        short = torch.complex64 if y.is_complex() else torch.float32
        found = net(y.to(short), *measurement)
        assert found.dtype == short
        torch.testing.assert_close(found.to(expected.dtype), expected, rtol=1e-4,
                                   atol=1e-4)  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_of_real_images(dtype):
    recipe = PUBLISHED["TLR"]
    y, (mask,) = problem(recipe)
    expected = network(recipe)(y, mask)
    found = network(recipe, dtype=dtype)(y.to(dtype), mask)
    assert found.dtype == dtype
    error = (found - expected).norm() / expected.norm()
    assert error < 10 * torch.finfo(dtype).eps


@pytest.mark.parametrize("name", PUBLISHED)
def test_mixed_precision(name):
    recipe = PUBLISHED[name]
    y, measurement = problem(recipe, dtype=torch.float32)
    net = network(recipe, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = net(y, *measurement)
    expected = net(y, *measurement)
    assert found.dtype == expected.dtype
    error = (found - expected).norm() / expected.norm()
    assert 0 < error < 4 * torch.finfo(torch.bfloat16).eps
    found.abs().sum().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.filterwarnings("ignore:Dynamo detected a call:UserWarning")
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*complex operators:UserWarning")
@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("LS", {"backend": "aot_eager"}),
        # As docs/networks.md says: with the default layout gradients are wrong.
        pytest.param(
            "SLR",
            {"options": {"layout_optimization": False}},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_compiled(name, options):
    recipe = replace(PUBLISHED[name], cells=1)
    y, measurement = problem(recipe, dtype=torch.float32)
    net = network(recipe, dtype=torch.float32)
    x, g = gradients(net, y, *measurement)
    compiled = torch.compile(net, fullgraph=True, **options)
    found = compiled(y, *measurement)
    torch.testing.assert_close(found, x)
    net.zero_grad()
    (found - 0.5).abs().square().mean().backward()
    for k, p in net.named_parameters():
        torch.testing.assert_close(p.grad, g[k], rtol=1e-4, atol=1e-6, msg=k)


def test_hooks_see_what_a_convolution_returns():
    net = network(PUBLISHED["LS"])
    y, measurement = problem(PUBLISHED["LS"])
    expected = gradients(net, y, *measurement)
    kept = []
    for module in net.modules():
        if isinstance(module, torch.nn.Conv3d):
            module.register_forward_hook(lambda m, x, out: kept.append((m, x[0], out)))
            module.register_full_backward_hook(lambda m, g, out: None)
    found = gradients(net, y, *measurement)
    torch.testing.assert_close(found, expected)
    for module, x, out in kept:
        again = torch.nn.functional.conv3d(x, module.weight, padding=1)
        torch.testing.assert_close(out, again)
    assert len(kept) == 2 * 3  # cells and convolutions


def check_gradients_of_each_item_by_vmap(net, y, *measurement):
    weights = {k: p.detach() for k, p in net.named_parameters()}

    def loss(weights, *inputs):
        one = tuple(x[None] for x in inputs)
        return torch.func.functional_call(net, weights, one).abs().square().sum()

    slope = torch.func.grad(loss)
    axes = None, *[0] * (1 + len(measurement))
    found = torch.vmap(slope, in_dims=axes)(weights, y, *measurement)
    for i in range(len(y)):
        expected = slope(weights, y[i], *(m[i] for m in measurement))
        one = {k: g[i] for k, g in found.items()}
        torch.testing.assert_close(one, expected, rtol=1e-9, atol=1e-12)


# PyTorch says which of its operations it calls item by item.
@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("name", [*PUBLISHED, *CHOSEN[::5]])
def test_gradients_of_each_item_by_vmap(name):
    y, measurement = problem(RECIPES[name])
    check_gradients_of_each_item_by_vmap(network(RECIPES[name]), y, *measurement)


def test_an_empty_batch_of_coils_with_noise():
    net = Network(LLS(cells=1, features=4, block=4, noise=True), seed=0)
    y, mask = torch.ones(2, 3, 2, 8, 8) + 0j, torch.ones(2, 3, 8, 8) > 0
    x = net(y[:0], mask[:0], y[:0, 0])
    assert x.shape == (0, 3, 8, 8)


@pytest.mark.parametrize("name", PUBLISHED)
def test_an_empty_batch_and_shapes_without_numbers(name):
    y, measurement = problem(RECIPES[name])
    net = network(RECIPES[name])
    x = net(y[:0], *(m[:0] for m in measurement))
    assert x.shape == y[:0].shape
    x.abs().sum().backward()
    x = net.to("meta")(y.to("meta"), *(m.to("meta") for m in measurement))
    assert (x.shape, x.dtype) == (y.shape, y.dtype)


@pytest.mark.parametrize("state", [lambda y: y, lambda y: {"image": y}])
@pytest.mark.parametrize("method", ["begin", "cell"])
def test_a_recipe_whose_state_has_no_image(method, state):
    class Unnamed(TLR):
        pass

    y = torch.ones(1, 3, 16, 16)
    setattr(Unnamed, method, lambda *_: state(y))
    network = Network(Unnamed(cells=1, features=4))
    message = rf"Unnamed.{method} must return a dict of arrays with the names \[.*'x'\]"
    with pytest.raises(TypeError, match=message):
        network(y, y > 0)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (lambda: Convolutions((2, 0, 2), axes=3), "widths must be two positive integ"),
        (lambda: Convolutions((2, 4.5, 2), axes=3), "widths must be two positive"),
        (lambda: Convolutions((2,), axes=3), "widths must be two positive integers"),
        (lambda: Convolutions((2, 2), axes=4), "axes must be 2 or 3, got 4"),
        (lambda: Number(float("nan")), "initial must be finite"),
        (lambda: Number("a"), "initial must be a real number"),
    ],
)
def test_layers_that_cannot_be_made(layer, message):
    with pytest.raises((TypeError, ValueError), match=message):
        layer()


def test_maps_that_are_none():
    net, (y, (mask,)) = network(RECIPES["SLR"]), problem(RECIPES["SLR"])
    assert torch.equal(net(y, mask, None), net(y, mask))


def test_numpy_masks_and_masks_that_broadcast():
    y, (mask,) = problem(RECIPES["LS"])
    net = network(RECIPES["LS"])
    assert torch.equal(net(y, mask), net(y, mask.numpy()))
    same = mask[:1].expand_as(mask)
    assert torch.equal(net(y, mask[:1]), net(y, same))
    assert torch.equal(net(y, mask[0]), net(y, same))
    y, (mask,) = problem(RECIPES["TLR"])
    for options in ({"start": "fill"}, {"side": "mask"}):
        net = network(TLR(**SMALL, **options))
        same = mask[:, :1].expand_as(mask)
        for given in (mask[:, :1], mask[:, :1].numpy()):
            torch.testing.assert_close(net(y, given), net(y, same))


@dataclass(frozen=True)
class Halved(LearnedPrior):
    """A prior of the user's own, with a layer of PyTorch's and a use for the step."""

    def layers(self, axes):
        return {"scale": Number(-1.0), "own": lambda: torch.nn.Conv2d(3, 3, 1)}

    def prox(self, v, step, layers):
        return v / (1 + step * layers.scale.exp()) + 0.1 * layers.own(v)


@pytest.mark.parametrize("algorithm", ["ADMM", "ADMM, exact"])
def test_a_prior_of_ones_own(algorithm):
    recipe = Unrolled(
        cells=2, algorithm=SCHEMES[algorithm], prior=Halved(), images="image"
    )
    net = network(recipe)
    y, (mask,) = problem(recipe)
    _, g = gradients(net, y, mask)
    assert {"cells.0.log_penalty", "cells.0.prior_own.bias"} <= set(g)
    assert all(v.abs().max() > 0 for v in g.values())


def call(name, change, **options):
    y, (mask,) = problem(RECIPES[name])
    return lambda: network(RECIPES[name])(*change(y, mask), **options)


ISTA_OF_SERIES = "series, ISTA, LowRank"

REFUSED = [
    (call("LS", lambda y, m: (y, m, y[:, :2])), ValueError, "must have an axis of co"),
    (call("LS", lambda y, m: (y[:, :, None], m, y[0])), ValueError, "maps must be .B,"),
    (call("LS", lambda y, m: (y, m), penalty=True), ValueError, "penalty: LS has none"),
    (call("TLR", lambda y, m: (y.numpy(), m)), TypeError, "y must be a torch.Tensor"),
    (call("TLR", lambda y, m: (y + 0j, m)), TypeError, "real .* got torch.complex128"),
    (call("TLR", lambda y, m: (y.int(), m)), TypeError, "floating .* got torch.int32"),
    (call("TLR", lambda y, m: (y[:, :1], m[:, :1])), ValueError, "3 channels, got"),
    (call("LS", lambda y, m: (y.real, Blur(KERNEL))), TypeError, "must be complex"),
    (call("LS", lambda y, m: (y.real, m)), TypeError, "k-space must be complex"),
    (call(ISTA_OF_SERIES, lambda y, m: (y.real, m)), TypeError, "k-space must be co"),
    (call("LS", lambda y, m: (y.cfloat(), m)), TypeError, "same precision, got .*64"),
    (lambda: TLRNet(svd="torch"), TypeError, "svd must be a function, got 'torch'"),
    *[
        (partial(TLR, **changes), ValueError, next(iter(changes)))
        for changes in (
            {"cells": 0},
            {"features": 0},
            {"channels": 0},
            {"low_rank_maps": 0},
            {"bypass_maps": -1},
            {"convs_after": -1},
            {"block": 0},
            {"start": "zeros"},
            {"side": "both"},
            {"fold": 0},
            {"first_weights": "he"},
            {"low_rank_maps": 3, "fold": 2, "convs_before": 0},
            {"low_rank_maps": 4, "convs_before": 0},
            {"convs_after": 0, "bypass_maps": 1},
        )
    ],
    (lambda: SLRNet(features=2.0), ValueError, "features must be .* 2.0"),
    (lambda: TLR(features=10**12), ValueError, "features must be at most"),
    (lambda: TLR(cells=10**12), ValueError, "cells must be at most"),
    (lambda: TLR(convs_before=2.5), ValueError, "convs_before must be an integer"),
    (lambda: TLR(bypass_maps=True), ValueError, "bypass_maps must be an .*, got True"),
    (lambda: LSNet(slope=-0.1), ValueError, "slope must not be negative"),
    (lambda: T2LRNet(width=3), TypeError, "width"),
    (lambda: TLRNet(TLR(), cells=3), TypeError, "not allowed with a recipe: cells"),
    (lambda: LSNet(TLR()), TypeError, "recipe must be of the class LS, got TLR"),
    (lambda: Network(cells=3), TypeError, "recipe must be .*, got None"),
    (lambda: LS(threshold="a"), TypeError, "threshold must be a real number"),
    (lambda: LS(step=math.nan), ValueError, "step must be finite, got nan"),
    (lambda: LowRank(math.inf), ValueError, "threshold must be finite"),
    (lambda: Unrolled(algorithm=LowRankPlusSparse()), ValueError, "takes two priors"),
    (lambda: Unrolled(prior=(LowRank(), Sparse())), ValueError, "ISTA takes one prior"),
    (lambda: Unrolled(algorithm=ISTA), TypeError, "algorithm must be an Algorithm"),
    (lambda: Unrolled(images="movie"), ValueError, "images must be .* 'movie'"),
    (lambda: register(int), TypeError, "int must be a dataclass"),
]


@pytest.mark.parametrize(("call", "error", "message"), REFUSED)
def test_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_numbers_of_numpy_are_taken():
    recipe = LS(threshold=np.float32(-1.5), step=1)
    assert type(recipe.threshold) is type(recipe.step) is float
    assert recipe == LS(threshold=-1.5)


OPTIONS = {"cells": 2, "features": 4, "block": 32, "start": "fill", "side": "samples"}

VARIANTS = [
    {"cells": 1},
    {"cells": 4},
    {"channels": 1, "low_rank_maps": 2},
    {"low_rank_maps": 5, "bypass_maps": 3},
    {"block": None},
    {"block": 5},
    {"start": "adjoint", "side": "none"},
    {"side": "mask"},
    {"convs_before": 0},
    {"convs_before": 1, "convs_after": 0},
]


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_samples_are_kept_exactly_and_every_weight_learns(changes):
    net = TLRNet(seed=3, **(OPTIONS | changes))
    torch.manual_seed(4)
    image = torch.rand(2, changes.get("channels", 3), 12, 16)
    mask = torch.rand_like(image) < 0.4
    found = net(image * mask, mask)
    assert found.shape == image.shape
    assert torch.equal(found[mask], image[mask])
    assert not torch.equal(found[~mask], image[~mask])
    ((found - image) ** 2).mean().backward()
    for name, weight in net.named_parameters():
        assert weight.grad.isfinite().all(), name
        assert weight.grad.abs().max() > 0, name


def test_a_learned_prior_names_the_channels_that_it_is_for():
    network = Network(Unrolled(prior=Convolved(), images="image"))
    with pytest.raises(ValueError, match="must have 3 channels, got shape"):
        network(torch.ones(2, 1, 8, 8), torch.ones(2, 1, 8, 8, dtype=torch.bool))
