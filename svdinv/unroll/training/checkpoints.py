"""Checkpoints, which allow a training to be resumed with identical results."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from svdinv.unroll.formats.atomic import replacing

_KEY = "svdinv.training"


@dataclass(frozen=True)
class Checkpoint:
    """The state of a training after a step."""

    step: int  # steps done
    config: str  # as TOML
    tensors: dict[str, Tensor]  # weights, their means, state of the optimiser, by name
    origin: dict[str, str]  # versions and data that rounding depends on

    def restore(
        self, network: nn.Module, mean: nn.Module, optimiser: torch.optim.Optimizer
    ) -> None:
        """Copy the state into networks and optimiser, after checks."""
        expected = dict(_weights(network, mean))
        shapes = {name: tuple(x.shape) for name, x in expected.items()}
        trained = (p for p in network.named_parameters() if p[1].requires_grad)
        parameters = dict(trained)
        moments: dict[str, dict[str, Tensor]] = {name: {} for name in parameters}
        for name, x in self.tensors.items():
            kind, _, key = name.partition("/")
            if name in shapes:
                matches = tuple(x.shape) == shapes[name]
            else:
                matches = key in parameters and x.shape == parameters[key].shape
                moments.setdefault(key, {})[kind] = x
            if not matches:
                raise ValueError("the checkpoint is of another network")
            if not bool(x.isfinite().all()):
                raise ValueError(f"the checkpoint is damaged: {name} is not finite")
        # A weight without a gradient has no moments.
        kinds = {frozenset(moment) for moment in moments.values() if moment}
        if len(kinds) > 1 or not shapes.keys() <= self.tensors.keys():
            raise ValueError("the checkpoint is of another network")
        step = torch.tensor(float(self.step))
        with torch.no_grad():
            for name, x in expected.items():
                x.copy_(self.tensors[name])
            for name, parameter in parameters.items():
                # On the device and in the layout of the parameter, like the optimiser.
                state = {
                    kind: torch.empty_like(parameter).copy_(x)
                    for kind, x in moments[name].items()
                }
                optimiser.state.pop(parameter, None)
                if state:
                    optimiser.state[parameter] = {"step": step.clone(), **state}


def write_checkpoint(
    path: Path,
    step: int,
    config: str,
    network: nn.Module,
    mean: nn.Module,
    optimiser: torch.optim.Optimizer,
    origin: Mapping[str, str] | None = None,
) -> None:
    """Write a checkpoint in safetensors format, atomically."""
    tensors = {
        name: x.detach().cpu().contiguous()
        for name, x in (*_weights(network, mean), *_moments(network, optimiser))
    }
    metadata = {"step": step, "config": config, "origin": dict(origin or {})}
    metadata["checksum"] = _checksum(metadata, tensors)
    content = to_bytes(tensors, {_KEY: json.dumps(metadata)})
    with replacing(path) as stream:
        stream.write(content)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a file of `write_checkpoint`; ValueError if it is missing or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {})[_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        step, origin = metadata["step"], metadata["origin"]
        is_int = isinstance(step, int) and not isinstance(step, bool)
        if not is_int or step < 0 or not isinstance(origin, dict):
            raise ValueError(f"step {step!r}, origin {origin!r}")
        if metadata.pop("checksum") != _checksum(metadata, tensors):
            raise ValueError("it is damaged: its checksum does not match")
        return Checkpoint(step, str(metadata["config"]), tensors, origin)
    except FileNotFoundError as error:
        raise ValueError(f"there is no checkpoint {path}") from error
    except (
        SafetensorError,
        OSError,
        KeyError,
        TypeError,
        ValueError,
        RecursionError,
    ) as error:
        raise ValueError(f"{path} is not a checkpoint: {error}") from error


def _weights(network: nn.Module, mean: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for kind, module in (("network", network), ("mean", mean)):
        for name, x in module.state_dict().items():
            yield f"{kind}/{name}", x


def _moments(
    network: nn.Module, optimiser: torch.optim.Optimizer
) -> Iterator[tuple[str, Tensor]]:
    """Yield the state that an optimiser has for each parameter, with its name."""
    for name, parameter in network.named_parameters():
        for kind, x in optimiser.state.get(parameter, {}).items():
            if isinstance(x, Tensor) and x.shape == parameter.shape and kind != "step":
                yield f"{kind}/{name}", x


def _checksum(metadata: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        x = tensors[name]
        digest.update(f"{name} {x.dtype} {tuple(x.shape)}".encode())
        digest.update(x.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
