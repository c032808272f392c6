"""Reconstruction of one picture or series, for the command line."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from svdinv.unroll.data import save_series
from svdinv.unroll.display.panels import Entry
from svdinv.unroll.display.pictures import save_picture
from svdinv.unroll.display.tables import cells, line
from svdinv.unroll.evaluation.baselines import BASELINES, classical
from svdinv.unroll.evaluation.evaluation import Row, applied, save_pictures
from svdinv.unroll.evaluation.inference import NAMES, apply, parts, start
from svdinv.unroll.evaluation.inputs import Input
from svdinv.unroll.torch import Network
from svdinv.unroll.training.batches import Case
from svdinv.unroll.training.run import interrupts

__all__ = ["Files", "files", "reconstruct"]

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
        Folder, or the file of the reconstruction: whatever has a suffix that begins
        with a letter, unlike ``rate0.1``, and is no folder.
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
    if output.suffix[1:2].isalpha() and not output.is_dir():
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
        As for `svdinv.unroll.evaluation.inference.apply`.
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
    methods = classical(given.kind, slow=baselines)
    if baselines:
        methods |= start(network, device)
    steps = len(methods) + parts(network, case, ensemble=ensemble)
    width = 2 + max(18, *map(len, BASELINES[given.kind]))
    entries: list[Entry] = []
    with (
        interrupts() as interrupted,
        threadpool_limits(torch.get_num_threads(), user_api="blas"),
        tqdm(total=steps, leave=False, smoothing=0, file=sys.stderr) as bar,
    ):

        def advance() -> None:
            bar.update()
            if interrupted():
                raise KeyboardInterrupt

        last = NAMES[ensemble]
        methods[last] = partial(
            apply, network, ensemble=ensemble, device=device, on_part=advance
        )
        try:
            for name, method in methods.items():
                bar.set_description(name)
                row, entry = applied(name, method, case)
                if not entries:
                    head = line("", [*row.values, "seconds"], width)
                    bar.write(head, file=sys.stdout)
                bar.write(_told(row, width), file=sys.stdout)
                entries.append(entry)
                if name != last:
                    advance()
        except KeyboardInterrupt:
            return False
    _write(given, case, entries, written)
    return True


def _write(given: Input, case: Case, entries: list[Entry], written: Files) -> None:
    found = entries[-1].image
    if given.kind == "colour":
        save_picture(written.image, found)
    else:
        save_series(written.image, found * np.float32(given.scale))
    save_pictures(written.panel, written.animation, case, entries)


def _told(row: Row, width: int) -> str:
    numbers = cells({**row.values, "seconds": row.seconds})
    return f"{line(f'  {row.method}', numbers, width)}   {row.note}".rstrip()
