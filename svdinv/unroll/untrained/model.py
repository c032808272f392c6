"""Modules of a fit: the generator with its weights, and averages and the best image."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

import svdinv.torch
from svdinv.unroll.networks import Recipe
from svdinv.unroll.problem import Problem
from svdinv.unroll.torch import Network
from svdinv.unroll.untrained.options import Options
from svdinv.unroll.untrained.stopping import Rule


class Kept(nn.Module):
    """State of a fit besides the weights: averages, best image, arrays of the rule.

    `earlier` are three copies of the models: the weights to return to if the fit
    diverges, and Adam's first and second moments for these weights.
    """

    average: Tensor
    measured: Tensor
    best: Tensor

    def __init__(self, models: nn.ModuleList, x: Tensor, y: Tensor, rule: Rule) -> None:
        super().__init__()
        self.earlier = nn.ModuleList(copy.deepcopy(models) for _ in range(3))
        count = len(models)
        zero, data = torch.zeros_like(x), torch.zeros_like(y)
        self.register_buffer("average", torch.cat([zero] * count))
        self.register_buffer("measured", torch.cat([data] * count))
        self.register_buffer("best", torch.zeros_like(x[0]))
        rule_arrays = rule.buffers(x)
        self._names = list(rule_arrays)
        for name, buffer in rule_arrays.items():
            self.register_buffer(f"rule_{name}", buffer)

    @property
    def rule(self) -> Mapping[str, Tensor]:
        """Arrays of the rule, by name."""
        return {name: getattr(self, f"rule_{name}") for name in self._names}


class Model(nn.Module):
    """A generator with the weights that are fitted."""

    def __init__(
        self, recipe: Recipe, options: Options, weights: Network | None, state: Any
    ) -> None:
        super().__init__()
        self.network = Network(recipe, seed=options.seed)
        if weights is not None:
            initial, current = weights.state_dict(), self.network.state_dict()
            if _shapes(initial) != _shapes(current):
                raise ValueError(
                    "weights: must be of the generator's recipe, got those of "
                    f"{weights.recipe!r}"
                )
            self.network.load_state_dict(initial)
        self.network.to(state["x"].real.dtype)
        self.values = nn.ParameterDict()
        if options.trained == "decoder":
            for index, cell in enumerate(self.network.cells):
                for name, parameter in cell.named_parameters():
                    frozen = name.startswith("encoder_") or index < recipe.cells // 2
                    parameter.requires_grad_(not frozen)
        elif options.trained == "singular values":
            self._factorise()

    def forward(self, state: Any, problem: Problem, noise: Any) -> Any:
        """Return the image and the state."""
        current = {**state, "z": state["z"] + noise} if "z" in state else state
        kernels = self._kernels()
        for index, cell in enumerate(self.network.cells):
            current = functional_call(cell, kernels[index], (current, problem))
        return current["x"], current

    def weights(self) -> Network:
        """Return the network with the current weights."""
        with torch.no_grad():
            for cell, kernels in zip(self.network.cells, self._kernels(), strict=True):
                for name, kernel in kernels.items():
                    cell.get_parameter(name).copy_(kernel)
        return self.network

    def _factorise(self) -> None:
        for name, parameter in self.network.cells.named_parameters():
            parameter.requires_grad_(False)
            if parameter.ndim < 2:
                continue
            # Names of parameters must not contain dots.
            label = name.replace(".", "/")
            U, S, Vh = svdinv.torch.svd(parameter.detach().flatten(1))
            self.register_buffer(f"left/{label}", U.contiguous())
            self.register_buffer(f"right/{label}", Vh.contiguous())
            self.values[label] = nn.Parameter(S.clone())
        if not self.values:
            raise ValueError(
                f"trained: {type(self.network.recipe).__name__} has no convolutions"
            )

    def _kernels(self) -> list[dict[str, Tensor]]:
        """Return the kernels of each cell that are composed of singular values."""
        kernels: list[dict[str, Tensor]] = [{} for _ in self.network.cells]
        for label, S in self.values.items():
            index, name = label.replace("/", ".").split(".", 1)
            shape = self.network.cells[int(index)].get_parameter(name).shape
            left, right = (getattr(self, f"{k}/{label}") for k in ("left", "right"))
            kernels[int(index)][name] = ((left * S) @ right).reshape(shape)
        return kernels


def has_encoder(recipe: Recipe) -> bool:
    """Return whether a network has an encoder, which can be frozen."""
    named = any(name.startswith("encoder_") for name in recipe.layers(True))
    return named or recipe.cells > 1


def _shapes(arrays: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(array.shape) for name, array in arrays.items()}
