"""Checkpoints of a training: all that it needs to go on as if nothing had happened."""

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
    """What a training was when the file was written."""

    step: int  # steps that were done
    config: str  # as TOML
    tensors: dict[str, Tensor]  # weights, means, what the optimiser keeps, by name
    origin: dict[str, str]  # what else the bits depend on, such as versions

    def restore(
        self, network: nn.Module, mean: nn.Module, optimiser: torch.optim.Optimizer
    ) -> None:
        """Put a training back to where it was."""
        expected = dict(_weights(network, mean))
        shapes = {name: tuple(x.shape) for name, x in expected.items()}
        trained = (p for p in network.named_parameters() if p[1].requires_grad)
        parameters = dict(trained)
        moments: dict[str, dict[str, Tensor]] = {name: {} for name in parameters}
        for name, x in self.tensors.items():
            kind, _, own = name.partition("/")
            if name in shapes:
                fits = tuple(x.shape) == shapes[name]
            else:
                fits = own in parameters and x.shape == parameters[own].shape
                moments.setdefault(own, {})[kind] = x
            if not fits:
                raise ValueError("the checkpoint is of another network")
            if not bool(x.isfinite().all()):
                raise ValueError(f"the checkpoint is damaged: {name} is not finite")
        kinds = {frozenset(own) for own in moments.values()}
        if len(kinds) > 1 or not shapes.keys() <= self.tensors.keys():
            raise ValueError("the checkpoint is of another network")
        step = torch.tensor(float(self.step))
        with torch.no_grad():
            for name, x in expected.items():
                x.copy_(self.tensors[name])
            for name, parameter in parameters.items():
                # Where the optimiser would have put them: on the device and in the
                # layout of the parameter.
                found = {
                    kind: torch.empty_like(parameter).copy_(x)
                    for kind, x in moments[name].items()
                }
                optimiser.state.pop(parameter, None)
                if found:
                    optimiser.state[parameter] = {"step": step.clone(), **found}


def write_checkpoint(
    path: Path,
    step: int,
    config: str,
    network: nn.Module,
    mean: nn.Module,
    optimiser: torch.optim.Optimizer,
    origin: Mapping[str, str] | None = None,
) -> None:
    """Write a checkpoint, as safetensors: complete, or not there at all."""
    tensors = {
        name: x.detach().cpu().contiguous()
        for name, x in (*_weights(network, mean), *_moments(network, optimiser))
    }
    told = {"step": step, "config": config, "origin": dict(origin or {})}
    told["checksum"] = _checksum(told, tensors)
    content = to_bytes(tensors, {_KEY: json.dumps(told)})
    with replacing(path) as stream:
        stream.write(content)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read what `write_checkpoint` wrote."""
    try:
        with safe_open(path, framework="pt") as file:
            note = json.loads((file.metadata() or {})[_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        step, origin = note["step"], note["origin"]
        whole = isinstance(step, int) and not isinstance(step, bool)
        if not whole or step < 0 or not isinstance(origin, dict):
            raise ValueError(f"step {step!r}, origin {origin!r}")
        if note.pop("checksum") != _checksum(note, tensors):
            raise ValueError("it is damaged: its checksum is another")
        return Checkpoint(step, str(note["config"]), tensors, origin)
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
        raise ValueError(f"{path} is no checkpoint: {error}") from error


def _weights(network: nn.Module, mean: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for kind, module in (("network", network), ("mean", mean)):
        for name, x in module.state_dict().items():
            yield f"{kind}/{name}", x


def _moments(
    network: nn.Module, optimiser: torch.optim.Optimizer
) -> Iterator[tuple[str, Tensor]]:
    """Return the state that an optimiser keeps for each parameter."""
    for name, parameter in network.named_parameters():
        for kind, x in optimiser.state.get(parameter, {}).items():
            if isinstance(x, Tensor) and x.shape == parameter.shape and kind != "step":
                yield f"{kind}/{name}", x


def _checksum(told: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    whole = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    for name in sorted(tensors):
        x = tensors[name]
        whole.update(f"{name} {x.dtype} {tuple(x.shape)}".encode())
        whole.update(x.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()
