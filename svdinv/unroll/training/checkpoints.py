"""Checkpoints of a training: all that it needs to go on as if nothing had happened."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from svdinv.unroll.files import replacing

__all__ = ["Checkpoint", "read_checkpoint", "write_checkpoint"]

_KEY = "svdinv.training"
_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Checkpoint:
    """What a training was when the file was written.

    Attributes
    ----------
    step : int
        Steps that were done.
    config : str
        The configuration, as TOML.
    tensors : dict of str to Tensor
        Weights, their means and the moments of Adam, by name.
    origin : dict of str to str
        What else the bits depend on, such as versions; empty in older files.
    """

    step: int
    config: str
    tensors: dict[str, Tensor]
    origin: dict[str, str] = field(default_factory=dict)

    def restore(
        self, network: nn.Module, mean: nn.Module, optimiser: torch.optim.Adam
    ) -> None:
        """Put a training back to where it was.

        Parameters
        ----------
        network, mean : Module
            The network, and that with the means of its weights.
        optimiser : Adam
            Of the parameters of the network.

        Raises
        ------
        ValueError
            If the tensors are not those of such a training.
        """
        expected = dict(_tensors(network, mean, optimiser, zeros=True))
        shapes = {name: tuple(x.shape) for name, x in expected.items()}
        if shapes != {name: tuple(x.shape) for name, x in self.tensors.items()}:
            raise ValueError("the checkpoint is of another network")
        step = torch.tensor(float(self.step))
        with torch.no_grad():
            for name, x in expected.items():
                if name.startswith(("network/", "mean/")):
                    x.copy_(self.tensors[name])
            for name, parameter in network.named_parameters():
                # Where Adam would have put them: on the device and in the layout of
                # the parameter.
                optimiser.state[parameter] = {"step": step.clone()} | {
                    moment: torch.empty_like(parameter).copy_(
                        self.tensors[f"{moment}/{name}"]
                    )
                    for moment in _MOMENTS
                }


def write_checkpoint(
    path: Path,
    step: int,
    config: str,
    network: nn.Module,
    mean: nn.Module,
    optimiser: torch.optim.Adam,
    origin: Mapping[str, str] | None = None,
) -> None:
    """Write a checkpoint: complete, or not there at all.

    Parameters
    ----------
    path : Path
        The file, in the format of safetensors; an existing one is replaced.
    step : int
        Steps that were done.
    config : str
        The configuration, as TOML.
    network, mean : Module
        The network, and that with the means of its weights.
    optimiser : Adam
        Of the parameters of the network.
    origin : mapping of str to str, optional
        What else the bits depend on.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    tensors = {
        name: x.detach().cpu().contiguous()
        for name, x in _tensors(network, mean, optimiser)
    }
    told = {"step": step, "config": config, "origin": dict(origin or {})}
    content = to_bytes(tensors, {_KEY: json.dumps(told)})
    with replacing(path) as stream:
        stream.write(content)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Parameters
    ----------
    path : Path
        A file that `write_checkpoint` wrote.

    Returns
    -------
    Checkpoint
        What is in it.

    Raises
    ------
    ValueError
        If the file is missing, damaged or something else.
    """
    try:
        with safe_open(path, framework="pt") as file:
            note = json.loads((file.metadata() or {})[_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        step, origin = note["step"], note.get("origin", {})
        if not isinstance(step, int) or step < 0 or not isinstance(origin, dict):
            raise ValueError(f"step {step!r}, origin {origin!r}")
        return Checkpoint(step, str(note["config"]), tensors, origin)
    except FileNotFoundError as error:
        raise ValueError(f"there is no checkpoint {path}") from error
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no checkpoint of a training: {error}") from error


def _tensors(
    network: nn.Module,
    mean: nn.Module,
    optimiser: torch.optim.Adam,
    *,
    zeros: bool = False,
) -> Iterator[tuple[str, Tensor]]:
    for kind, module in (("network", network), ("mean", mean)):
        for name, x in module.state_dict().items():
            yield f"{kind}/{name}", x
    for name, parameter in network.named_parameters():
        state = optimiser.state.get(parameter, {})
        for moment in _MOMENTS:
            if moment in state:
                yield f"{moment}/{name}", state[moment]
            elif zeros or not state:
                yield f"{moment}/{name}", torch.zeros_like(parameter)
