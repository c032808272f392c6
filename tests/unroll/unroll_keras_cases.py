"""What the networks of Keras are to do as PyTorch does, for `unroll_keras_checks`."""

from __future__ import annotations

from unittest import mock

import numpy as np
import torch

from svdinv.unroll.algorithms import (
    ADMM,
    FISTA,
    ISTA,
    LowRankPlusSparse,
)
from svdinv.unroll.fidelity import PoissonKL
from svdinv.unroll.networks import (
    LLS,
    LS,
    SLR,
    T2LR,
    TLR,
    Bilinear,
    Convolved,
    Decoder,
    EMNet,
    JointPrimalDual,
    LowRank,
    LowRankAndSparse,
    NonLocal,
    PrimalDual,
    Refined,
    Skip,
    Sparse,
    Unrolled,
    non_local,
)
from svdinv.unroll.operators import ParallelBeam, Stack
from svdinv.unroll.problem import Problem
from svdinv.unroll.torch import Network, save

SMALL = {"cells": 2, "features": 4}

GROUPS = {"rounds": 1, "steps": 2, "patch": 2, "stride": 2, "count": 5, "reach": 2}

CASES = {
    "TLR, fill": TLR(**SMALL, start="fill", side="mask", bypass_maps=1),
    "TLR, folded": TLR(
        **SMALL, fold=2, side="samples", slope=0.1, first_weights="residual"
    ),
    "TLR, refined": Refined(network=TLR(cells=1, features=4), features=(4, 5)),
    "Refined, noise alone": Refined(
        network=NonLocal(**GROUPS, exact=False, alone=True),
        features=(4, 5),
        exact=False,
    ),
    "NonLocal": NonLocal(
        network=TLR(cells=1, features=4),
        **GROUPS | {"rounds": 2, "steps": 1},
        first=0.1,
        last=0.05,
    ),
    "NonLocal, reweighted": NonLocal(
        **GROUPS | {"rounds": 1, "steps": 1}, reweighted=(3, 2)
    ),
    "NonLocal, coils": NonLocal(images="series", exact=False, **GROUPS),
    "NonLocal, coils, phase": NonLocal(
        images="series", exact=False, phase=1.0, **GROUPS
    ),
    "SLR": SLR(**SMALL, sparsity=0.01),
    "LS, coils": LS(**SMALL),
    "T2LR": T2LR(**SMALL),
    "LLS with coils": LLS(
        **SMALL, block=3, static=1, start=(1, 2), noise=True, finish=3
    ),
    "PrimalDual": PrimalDual(cells=2, features=3, memory=2, channels=3),
    "PrimalDual, data": PrimalDual(
        cells=2, features=3, memory=2, channels=3, start=2, data_steps=2
    ),
    "JointPrimalDual": JointPrimalDual(
        cells=2, features=3, memory=2, components=3, start=2
    ),
    "Skip": Skip(features=(3, 4), skips=(1, 0), depth=2),
    "LowRankAndSparse": LowRankAndSparse(
        channels=3,
        low_rank=Bilinear(rank=2, space=Decoder(features=(3,))),
        sparse=Decoder(features=(3,), side=3),
        depth=2,
    ),
    "Unrolled, ISTA": Unrolled(
        cells=2, algorithm=ISTA(), prior=Convolved(4), images="image"
    ),
    "Unrolled, FISTA": Unrolled(cells=2, algorithm=FISTA(True), prior=Sparse(-1.0)),
    "Unrolled, ADMM, coils": Unrolled(
        cells=2, algorithm=ADMM(cg_iterations=2), prior=LowRank()
    ),
    "Unrolled, L+S, coils": Unrolled(
        cells=2, algorithm=LowRankPlusSparse(), prior=(LowRank(), Sparse(-1.0))
    ),
}


def gauss(rng, *shape):
    parts = rng.standard_normal((2, *shape))
    return (parts[0] + 1j * parts[1]).astype(np.complex64)


def problem(name, seed=0):
    rng = np.random.default_rng(seed)
    if "T" not in CASES[name].axes:
        # Noise is told from some hundred patches.
        size = (17, 16) if "alone" in name else (7, 6)
        truth = rng.random((2, 3, *size)).astype(np.float32)
        mask = rng.random(truth.shape) < 0.5
        return {"truth": truth, "y": mask * truth, "mask": mask}
    truth = gauss(rng, 2, 3, 6, 5)
    arrays = {"truth": truth, "mask": rng.random(truth.shape) < 0.5}
    if "coils" in name:
        maps = gauss(rng, 2, 2, 6, 5)
        arrays["maps"] = maps / np.linalg.norm(maps, axis=1, keepdims=True)
    measurement = [arrays[k] for k in ("mask", "maps") if k in arrays]
    return arrays | {"y": CASES[name].operator(*measurement)(truth)}


# Fewer iterations to compile, and inverses that keep their digits in single precision.
REWEIGHTED = {"_ITERATIONS": 4, "_NEAREST": 4, "_LEVEL": -3.0}


@mock.patch.multiple(non_local, **REWEIGHTED)
def write_cases(folder):
    """Write what PyTorch makes of each case: image, loss, gradients and weights."""
    for name, recipe in CASES.items():
        arrays = problem(name)
        net = Network(recipe, seed=1)
        with torch.no_grad():  # away from steps of 1 and zeros, where terms vanish
            for parameter in net.parameters():
                if parameter.ndim == 0 or not parameter.any():
                    parameter += 0.05
        save(net, folder / f"{name}.safetensors")
        given = [
            torch.from_numpy(arrays[k]) for k in ("y", "mask", "maps") if k in arrays
        ]
        extra = 0.0
        if recipe.has_penalty:
            image, penalty = net(*given, penalty=True)
            extra, arrays["penalised"] = 0.5 * penalty, np.ones(())
        else:
            image = net(*given)
        error = image - torch.from_numpy(arrays["truth"])
        loss = error.abs().square().mean() + extra
        loss.backward()
        arrays |= {"image": image.detach().numpy(), "loss": loss.detach().numpy()}
        arrays |= {f"gradient {k}": p.grad.numpy() for k, p in net.named_parameters()}
        np.savez(folder / f"{name}.npz", **arrays)
    counts(folder, "counts", EMNet(cells=2, features=3))
    counts(folder, "frames", EMNet(cells=2, features=3, components=2))


def counts(folder, name, recipe):
    """The same of counts, whose operator is given and whose background is measured."""
    rng = np.random.default_rng(0)
    parts = [ParallelBeam((6, 5), np.arange(k, 180, 60.0)) for k in (0, 30)]
    A = Stack(parts, axis=-2)
    truth = rng.random((2, 2, 6, 5)).astype(np.float32) * 9
    background = np.full((2, 2, *A(truth).shape[-2:]), 0.5, np.float32)
    y = rng.poisson(A(truth) + background).astype(np.float32)
    net = Network(recipe, seed=1)
    save(net, folder / f"{name}.safetensors")
    given = [torch.from_numpy(x) for x in (y, background)]
    image = net(Problem(given[0], A, PoissonKL(given[1])))
    (image - torch.from_numpy(truth)).square().mean().backward()
    gradients = {f"gradient {k}": p.grad.numpy() for k, p in net.named_parameters()}
    arrays = {"y": y, "background": background, "truth": truth}
    with open(folder / f"{name}.data", "wb") as file:
        np.savez(file, image=image.detach().numpy(), **arrays, **gradients)
