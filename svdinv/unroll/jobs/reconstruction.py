"""Reconstruction of one picture or series, for the command line."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from svdinv._missing import explain_missing
from svdinv.unroll.data import save_series
from svdinv.unroll.files import replacing
from svdinv.unroll.jobs.baselines import BASELINES, Estimate, Method
from svdinv.unroll.jobs.data import Case
from svdinv.unroll.jobs.evaluation import label, save_pictures, shown
from svdinv.unroll.jobs.inference import VIEWS, apply, judge, parts
from svdinv.unroll.jobs.inputs import Input
from svdinv.unroll.jobs.panels import Entry
from svdinv.unroll.jobs.training import interrupts
from svdinv.unroll.torch import Network

__all__ = ["Files", "files", "reconstruct", "save_picture"]

_ENDINGS = {"colour": (".png",), "cine": (".npz", ".npy", ".h5", ".hdf5")}


class Files(NamedTuple):
    """Where a reconstruction goes.

    Attributes
    ----------
    image, panel : Path
        The picture or series itself, and the picture that compares.
    animation : Path or None
        Of a series.
    """

    image: Path
    panel: Path
    animation: Path | None


def files(output: Path, given: Input) -> Files:
    """Name what is written.

    Parameters
    ----------
    output : Path
        Folder, or the file of the reconstruction: whatever has a suffix and is no
        folder.
    given : Input
        What is reconstructed.

    Returns
    -------
    Files
        The files, side by side.

    Raises
    ------
    ValueError
        If a reconstruction cannot be written to a file of that suffix.
    """
    endings = _ENDINGS[given.kind]
    if output.suffix and not output.is_dir():
        if output.suffix.lower() not in endings:
            raise ValueError(
                f"{output} must be a folder or end in {', '.join(endings)}"
            )
        base, image = output.with_suffix(""), output
    else:
        base = output / Path(given.name).name
        image = base.with_name(f"{base.name}-reconstruction{endings[0]}")
    panel = base.with_name(f"{base.name}-panel.png")
    series = given.kind == "cine"
    animation = base.with_name(f"{base.name}-animation.gif") if series else None
    return Files(image, panel, animation)


def reconstruct(
    given: Input,
    case: Case,
    network: Network,
    written: Files,
    *,
    baselines: bool = True,
    ensemble: bool = False,
    device: str = "cpu",
) -> bool:
    """Reconstruct a case, compare, print and write.

    Parameters
    ----------
    given : Input
        What was read.
    case : Case
        What was sampled of it.
    network : Network
        Of that kind, on `device`.
    written : Files
        Where to.
    baselines : bool
        Whether to apply the classical methods too.
    ensemble : bool
        As for `svdinv.unroll.jobs.inference.apply`.
    device : str
        Where the network is.

    Returns
    -------
    bool
        False if Ctrl-C ended it; nothing is written then.

    Raises
    ------
    OSError
        If a file cannot be written.
    """
    steps = parts(network, case, ensemble=ensemble)
    known = BASELINES[given.kind]
    methods: dict[str, Method] = (
        dict(known) if baselines else {"zero-filled": known["zero-filled"]}
    )
    entries: list[Entry] = []
    wide = max(18, *map(len, known))
    with (
        interrupts() as interrupted,
        threadpool_limits(torch.get_num_threads(), user_api="blas"),
        tqdm(
            total=len(methods) + steps, leave=False, smoothing=0, file=sys.stderr
        ) as bar,
    ):
        last = f"network, {VIEWS} views" if ensemble else "network"
        methods[last] = partial(
            apply,
            network,
            ensemble=ensemble,
            device=device,
            on_part=lambda: _advance(bar, interrupted()),
        )
        for name, method in methods.items():
            bar.set_description(name)
            began = time.monotonic()
            try:
                estimate = method(case)
            except _InterruptedError:
                return False
            seconds = time.monotonic() - began
            if name != last:
                _advance(bar)
            values = judge(case, estimate.image)
            if not entries:
                bar.write(_head(values, wide), file=sys.stdout)
            bar.write(_line(name, values, seconds, estimate, wide), file=sys.stdout)
            entries.append(Entry(name, shown(estimate), label(values)))
            if interrupted():
                return False
    _write(given, case, entries, written)
    return True


def save_picture(path: str | Path, image: NDArray[np.floating]) -> None:
    """Write a colour image to a PNG file of 8 bits.

    Parameters
    ----------
    path : str or Path
        Where to write; an existing file is replaced, and only by a complete one.
    image : ndarray, shape (H, W, 3)
        In [0, 1].

    Raises
    ------
    ImportError
        If Pillow is missing.
    OSError
        If the file cannot be written.
    """
    try:
        from PIL import Image as pillow
    except ModuleNotFoundError as error:
        raise explain_missing("PIL", "train") from error

    pixels = np.uint8(np.rint(255 * np.clip(image, 0, 1)))
    with replacing(path) as stream:
        pillow.fromarray(pixels).save(stream, format="PNG")


class _InterruptedError(Exception):
    """Ctrl-C, between two parts of the work."""


def _advance(bar: tqdm, interrupted: bool = False) -> None:
    bar.update()
    if interrupted:
        raise _InterruptedError


def _write(given: Input, case: Case, entries: list[Entry], written: Files) -> None:
    found = entries[-1].image
    if given.kind == "colour":
        save_picture(written.image, found)
    else:
        save_series(written.image, found * np.float32(given.scale))
    save_pictures(written.panel, written.animation, case, entries)


def _head(values: Mapping[str, float], wide: int) -> str:
    return " " * (wide + 2) + "".join(f"{name:>11}" for name in [*values, "seconds"])


def _line(
    name: str,
    values: Mapping[str, float],
    seconds: float,
    estimate: Estimate,
    wide: int,
) -> str:
    cells = [format(v, ".4f" if n == "SSIM" else ".2f") for n, v in values.items()]
    cells.append(f"{seconds:.2f}")
    row = f"  {name:<{wide}}" + "".join(f"{cell:>11}" for cell in cells)
    return f"{row}   {estimate.note}".rstrip()
