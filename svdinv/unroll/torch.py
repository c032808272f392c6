"""The networks as PyTorch modules."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

from svdinv._missing import needing

with needing("torch", "torch"):
    import torch

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint as recompute

import svdinv.torch
from svdinv.backends.torch_namespace import full_precision
from svdinv.unroll.arrays import to_numpy
from svdinv.unroll.networks import Convolutions, Number, Recipe, State
from svdinv.unroll.networks import weights as files
from svdinv.unroll.networks.recipe import (
    EPSILON,
    choose,
    first_state,
    make_problem,
    next_state,
)
from svdinv.unroll.operators import Operator
from svdinv.unroll.plugins import naming
from svdinv.unroll.problem import Problem

__all__ = ["SVD", "LSNet", "Network", "SLRNet", "T2LRNet", "TLRNet", "load", "save"]

SVD: TypeAlias = Callable[..., tuple[Tensor, Tensor, Tensor]]
"""Called as ``svd(A, full_matrices=False)``, returns U, S and Vh."""


class Network(nn.Module):
    """An unrolled network.

    It is called with the measured values and the arguments of the forward operator:
    ``network(samples, mask)`` for images (B, C, H, W), or ``network(kspace, mask)`` and
    ``network(kspace, mask, maps)`` for series (B, T, H, W).

    Parameters
    ----------
    recipe : Recipe
        Definition of the cells and its options, such as `svdinv.unroll.networks.TLR`.
    svd : callable, optional
        A decomposition to differentiate through instead of `svdinv.torch.svt`, called
        as ``svd(A, full_matrices=False)``, such as `torch.linalg.svd`.
    operator : Operator or callable, optional
        Forward operator to use instead of the recipe's, or a function that makes one
        from the arguments that follow `y`.
    checkpoint : bool
        Whether to recompute each cell in the backward pass instead of storing its
        intermediate results: memory of one cell instead of all, for one more forward
        pass (Chen et al., arXiv 1604.06174).
    seed : int, optional
        Seed of the initial weights, for all frameworks; by default PyTorch's generator.
    initial : bool
        Whether to draw initial weights; False if others are loaded immediately.

    Examples
    --------
    >>> import torch
    >>> from svdinv.unroll.networks import TLR
    >>> from svdinv.unroll.torch import Network
    >>> network = Network(TLR(cells=2, features=8))
    >>> image = torch.rand(1, 3, 48, 40)
    >>> mask = torch.rand_like(image) < 0.4
    >>> network(image * mask, mask).shape
    torch.Size([1, 3, 48, 40])
    """

    recipe_name: ClassVar[str] = ""  # name of the recipe, if fixed by the class

    def __init__(
        self,
        recipe: Recipe | None = None,
        *,
        svd: SVD | None = None,
        operator: Operator | Callable[..., Operator] | None = None,
        checkpoint: bool = False,
        seed: int | None = None,
        initial: bool = True,
        **options: Any,
    ) -> None:
        super().__init__()
        if svd is not None and not callable(svd):
            raise TypeError(f"svd must be a function, got {svd!r}")
        self.recipe = choose(recipe, self.recipe_name, options)
        self.operator = operator
        self.task = ""  # name of the task that it was trained for, if known
        self.checkpoint = checkpoint
        self.cells = nn.ModuleList(
            [Cell(self.recipe, i, svd) for i in range(self.recipe.cells)]
        )
        if initial:
            self.reset_parameters(seed)

    def reset_parameters(self, seed: int | None = None) -> None:
        """Draw new initial weights, from a seed as for the network."""
        if seed is None:
            seed = int(torch.randint(2**62, (), device="cpu"))
        parameters = dict(self.named_parameters())
        drawn = files.initial(self.recipe, np.random.default_rng(seed))
        with torch.no_grad():
            for name, array in drawn.items():
                parameters[name].copy_(torch.from_numpy(array))

    def forward(
        self,
        y: Tensor | Problem,
        *measurement: Any,
        penalty: bool = False,
        return_state: bool = False,
        **named: Any,
    ) -> Tensor | tuple[Tensor, Tensor] | State:
        """Reconstruct images.

        Parameters
        ----------
        y : Tensor or Problem
            Measured data, with a batch axis in front; entries outside the mask are
            ignored. Or a problem of tensors, without further arguments.
        *measurement : Tensor or Operator
            Arguments of the forward operator, such as a mask and coil maps, or an
            operator; none for a network with its own operator.
        penalty : bool
            Whether to return the penalty of the recipe too, as a term of the loss.
        return_state : bool
            Whether to return the state after the last cell, such as the parts
            ``"low_rank"`` and ``"sparse"`` of L+S-Net with the images, ``"x"``.
        **named : Tensor
            Arguments of the forward operator by name: ``mask=``, ``maps=``.

        Returns
        -------
        Tensor
            Images, not clipped, with the axes that ``recipe.axes`` names.
        Tensor, shape ()
            The penalty, if `penalty`.
        dict of str to Tensor
            The state instead, if `return_state`.

        Raises
        ------
        ValueError, TypeError
            If the arguments do not match the network.
        """
        data = y.y if isinstance(y, Problem) else y
        if not isinstance(data, Tensor):
            raise TypeError(f"y must be a torch.Tensor, got {type(data).__name__}")
        arrange = partial(_arrange, y=data)
        measurement = tuple(map(arrange, measurement))
        named = {name: arrange(x) for name, x in named.items()}
        problem = make_problem(self.recipe, self.operator, y, measurement, named)
        problem = problem.replace_arrays(arrange)
        state = first_state(self.recipe, problem)
        real = state["x"].real.dtype  # Dynamo does not trace `dtype.to_real`
        kernel = next((w.dtype for w in self.parameters() if w.ndim), real)
        # Some devices, such as "meta", do not support a query of their autocast.
        if real != kernel and not torch.is_autocast_enabled(data.device.type):
            raise TypeError(
                "y and the network must have the same precision, got images "
                f"{state['x'].dtype} and weights {kernel}"
            )
        if penalty:
            state["penalty"] = self.recipe.no_penalty(state["x"])
        for cell in self.cells:
            if self.checkpoint and torch.is_grad_enabled():
                state = recompute(cell, state, problem, use_reentrant=False)
            else:
                state = cell(state, problem)
        if return_state:
            return state
        return (state["x"], state["penalty"]) if penalty else state["x"]

    def extra_repr(self) -> str:
        """Return the recipe, for print."""
        return repr(self.recipe)


class TLRNet(Network):
    """TLR-Net: `Network` of `svdinv.unroll.networks.TLR`, with its options."""

    recipe_name = "TLR"


class SLRNet(Network):
    """SLR-Net: `Network` of `svdinv.unroll.networks.SLR`, with its options."""

    recipe_name = "SLR"


class LSNet(Network):
    """L+S-Net: `Network` of `svdinv.unroll.networks.LS`, with its options."""

    recipe_name = "LS"


class T2LRNet(Network):
    """T2LR-Net: `Network` of `svdinv.unroll.networks.T2LR`, with its options."""

    recipe_name = "T2LR"


class Cell(nn.Module):
    """One unrolled iteration: the layers of a cell, and the recipe's `cell`."""

    def __init__(self, recipe: Recipe, index: int, svd: SVD | None) -> None:
        super().__init__()
        self.recipe, self.index = recipe, index
        self.svd = svd
        for name, layer in recipe.layers(index == recipe.cells - 1).items():
            if layer is None:
                self.register_parameter(name, None)
            elif isinstance(layer, Number):
                self.register_parameter(name, nn.Parameter(torch.empty(())))
            elif isinstance(layer, Convolutions):
                self.add_module(name, _Chain(layer))
            else:
                self.add_module(name, layer())

    def forward(self, state: State, problem: Problem) -> State:
        """Apply one iteration."""
        return next_state(self.recipe, state, problem, self)

    def svt(
        self, matrices: Tensor, fraction: Tensor, scale: Tensor | None = None
    ) -> Tensor:
        """Soft-threshold singular values, see `Layers.svt`."""
        if self.svd is None:
            # Not by `functional.svt`, whose lookup of the module Dynamo cannot trace.
            tau = fraction if scale is None else fraction * scale
            return svdinv.torch.svt(matrices, tau, relative=scale is None)
        with full_precision(matrices):
            u, s, vh = self.svd(matrices, full_matrices=False)
            unit = s[..., :1] if scale is None else scale.unsqueeze(-1)
            return (u * F.relu(s - fraction * unit).unsqueeze(-2)) @ vh

    def doubled(self, maps: Tensor) -> Tensor:
        """Double the size of maps, see `Layers.doubled`."""
        flat = maps.flatten(1, -3) if maps.ndim > 4 else maps
        wide = F.interpolate(flat, scale_factor=2, mode="bilinear", align_corners=False)
        return wide.reshape(*maps.shape[:-2], *wide.shape[-2:])


class _Conv3d(nn.Conv3d):
    """A convolution in three dimensions that is also fast for single series."""

    def forward(self, x: Tensor) -> Tensor:
        # On CPUs PyTorch (2.13) uses oneDNN only for batches and for inputs with large
        # first four axes. With a second item, of zeros, it is several times as fast.
        single = x.shape[0] == 1 and x.device.type == "cpu"
        if single and x.dtype == torch.float32 and x.shape[:4].numel() <= 20480:
            return super().forward(torch.cat([x, torch.zeros_like(x)]))[:1]
        return super().forward(x)


class _Chain(nn.ModuleList):
    """A chain of convolutions, see `Convolutions`."""

    def __init__(self, spec: Convolutions) -> None:
        convolution = nn.Conv2d if spec.axes == 2 else _Conv3d
        # Initialised later: PyTorch's initial weights would advance its generator.
        device = torch.get_default_device()
        super().__init__(
            nn.utils.skip_init(
                convolution,
                *kernel,
                spec.side,
                padding=spec.side // 2,
                bias=False,
                device=device,
            )
            for kernel in spec.kernels
        )
        self.spec = spec
        for name, shape in spec.shapes().items():
            index, _, kind = name.partition(".")
            if kind != "weight":
                parameter = nn.Parameter(torch.empty(shape, device=device))
                self[int(index)].register_parameter(kind, parameter)
        self.to(memory_format=_layout(spec))

    def forward(self, x: Tensor) -> Tensor:
        spec = self.spec
        x = _laid_out(x, _layout(spec))
        for i, convolution in enumerate(self):
            x = convolution(x)
            active = spec.active(i)
            if spec.normalised and active:
                affine = convolution.scale, convolution.shift
                x = torch.group_norm(x, x.shape[1], *affine, EPSILON)
            elif spec.normalised:
                x = x + convolution.shift.reshape(-1, *[1] * spec.axes)
            if active:
                # No derivative needs the input, but a hook may keep it.
                inplace = not _has_hooks(convolution)
                x = (
                    F.leaky_relu(x, spec.slope, inplace)
                    if spec.slope
                    else F.relu(x, inplace)
                )
        return x


def _has_hooks(module: nn.Module) -> bool:
    hooks = module._forward_hooks, module._backward_hooks, module._backward_pre_hooks
    return any(map(len, hooks)) or nn.modules.module._has_any_global_hook()


def _layout(spec: Convolutions) -> torch.memory_format:
    # With channels last CPU convolutions of few channels are faster, norms slower.
    last = torch.channels_last if spec.axes == 2 else torch.channels_last_3d
    return torch.contiguous_format if spec.normalised else last


def _laid_out(x: Tensor, layout: torch.memory_format) -> Tensor:
    """Return `x` in a memory format, except in `torch.vmap`, which supports none."""
    compiled = torch.compiler.is_compiling()
    if not compiled and torch._C._functorch.peek_interpreter_stack() is not None:
        return x
    return x.contiguous(memory_format=layout)


def _arrange(x: Any, y: Tensor) -> Any:
    """Move arrays to the device of y, and real images to channels-last layout."""
    if isinstance(x, np.ndarray):
        x = torch.as_tensor(x, device=y.device)
    if isinstance(x, Tensor) and x.ndim == 4 and not y.is_complex():
        return _laid_out(x, torch.channels_last)
    return x


def tensor(x: Any, device: torch.device) -> Tensor:
    """Return an array of NumPy or PyTorch as a tensor on a device."""
    if isinstance(x, np.ndarray):
        # A flipped axis of length 1 has a negative stride but counts as contiguous.
        x = torch.from_numpy(x.copy() if min(x.strides, default=0) < 0 else x)
    return x.to(device)


def save(network: Network, path: str | Path) -> None:
    """Write the weights and the recipe of a network to a safetensors file.

    A compiled network is saved as the one that was compiled. An existing file is
    replaced atomically. Raises TypeError if it is no `Network` or the recipe is not
    registered (`svdinv.unroll.networks.register`), ValueError if the weights are not
    those of the recipe or not finite, OSError if the file cannot be written.
    """
    compiled: Any = network
    network = getattr(compiled, "_orig_mod", compiled)
    if not isinstance(network, Network):
        raise TypeError(
            f"network must be a Network, got {type(network).__name__}; of a wrapper "
            "around one, pass its `module`"
        )
    arrays = {name: to_numpy(x) for name, x in network.state_dict().items()}
    missing = files.shapes(network.recipe, foreign=True).keys() - arrays.keys()
    if missing:  # such as those of parametrised layers
        raise ValueError(f"network has no weights named {', '.join(sorted(missing))}")
    files.write(path, network.recipe, arrays, network.task)


def load(
    path: str | Path, *, dtype: torch.dtype | None = None, **options: Any
) -> Network:
    """Load a network from a file that `save` wrote in any framework.

    It is on the CPU, in evaluation mode, in the precision of the file or in `dtype`;
    `options` are `svd`, `operator` and `checkpoint` of `svdinv.unroll.torch.Network`.
    Raises FileNotFoundError if the file does not exist, ValueError if it is damaged or
    does not contain the weights of a network.
    """
    recipe, arrays, task = files.read(path)
    network = Network(recipe, initial=False, **options)
    expected = {name: tuple(p.shape) for name, p in network.state_dict().items()}
    with naming(path, TypeError):
        files.check(arrays, expected)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    if tensors:
        network.to(dtype or next(iter(tensors.values())).dtype)
    network.task = task
    network.load_state_dict(tensors)
    return network.eval()
