"""Evaluation: a network and the classical methods on the same cases."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from svdinv.unroll.data import TEST
from svdinv.unroll.display.panels import (
    Entry,
    save_panel,
    save_series_animation,
    save_series_panel,
)
from svdinv.unroll.display.tables import cells, comma_separated, line, markdown
from svdinv.unroll.evaluation.baselines import BASELINES, Method, classical
from svdinv.unroll.evaluation.inference import NAMES, apply, judge, start
from svdinv.unroll.evaluation.inputs import Input, Sampler, read_inputs
from svdinv.unroll.files import replacing
from svdinv.unroll.metrics import COLOUR, SERIES
from svdinv.unroll.tasks.cine import unseen_series
from svdinv.unroll.tasks.colour import channels_last
from svdinv.unroll.torch import Network
from svdinv.unroll.training.batches import Case
from svdinv.unroll.training.run import interrupts

__all__ = [
    "RESULTS",
    "TABLE",
    "Cases",
    "Evaluation",
    "Row",
    "applied",
    "default_images",
    "evaluate",
    "label",
    "methods_of",
    "sampled",
    "save_pictures",
    "shown",
]

RESULTS = "results.csv"
TABLE = "results.md"

_SERIES = 8
_FOOTNOTE = (
    "Classical methods take, for every image, the regularisation weight of a grid that "
    "comes nearest to the truth; the network never sees the truth."
)


@dataclass(frozen=True)
class Row:
    """A method on a case.

    Attributes
    ----------
    image, setting, method : str
        Names.
    values : dict of str to float
        Metrics by name.
    seconds : float
        Wall-clock time of the reconstruction.
    note : str
        What the method chose, such as a weight; may be empty.
    """

    image: str
    setting: str
    method: str
    values: dict[str, float]
    seconds: float
    note: str = ""


@dataclass(frozen=True)
class Cases:
    """Cases that are sampled one by one: all together may not fit into memory.

    Attributes
    ----------
    pairs : list of (Sampler, Input)
        What becomes a case, and how.
    """

    pairs: list[tuple[Sampler, Input]]

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[Case]:
        return (sampler.case(image) for sampler, image in self.pairs)


@dataclass
class Evaluation:
    """Methods on cases.

    Attributes
    ----------
    kind : {"colour", "cine"}
        Which metrics there are.
    title : str
        What was evaluated.
    rows : list of Row
        In the order of the work.
    complete : bool
        Whether all cases were done.
    """

    kind: str
    title: str
    rows: list[Row] = field(default_factory=list)
    complete: bool = False

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics."""
        return list(COLOUR if self.kind == "colour" else SERIES)

    def means(self, setting: str) -> Iterator[tuple[str, int, list[float]]]:
        """Average over the images.

        Parameters
        ----------
        setting : str
            Of which rows.

        Yields
        ------
        method : str
            Its name, in the order of the work.
        count : int
            Number of images.
        values : list of float
            Mean of each metric, and of the seconds.
        """
        rows = [row for row in self.rows if row.setting == setting]
        for method in dict.fromkeys(row.method for row in rows):
            own = [[*r.values.values(), r.seconds] for r in rows if r.method == method]
            yield method, len(own), [float(v) for v in np.mean(own, axis=0)]

    @property
    def settings(self) -> list[str]:
        """How the images were sampled, in the order of the work."""
        return list(dict.fromkeys(row.setting for row in self.rows))

    def text(self) -> str:
        """Give the means as tables for the terminal."""
        blocks = []
        width = 2 + max((len(row.method) for row in self.rows), default=0)
        for setting in self.settings:
            means = list(self.means(setting))
            lines = [line(_over(setting, means[0][1]), self._columns, width)]
            lines += [
                line(f"  {method}", self._cells(values), width)
                for method, _, values in means
            ]
            blocks.append("\n".join(lines))
        return "\n\n".join(blocks)

    def markdown(self) -> str:
        """Give the means as tables in Markdown, with the best values in bold."""
        blocks = [f"# {self.title}"]
        for setting in self.settings:
            means = list(self.means(setting))
            best = np.max([values[:-1] for _, _, values in means], axis=0)
            rows = []
            for method, _, values in means:
                cells = self._cells(values)
                for i, top in enumerate(best):
                    cells[i] = f"**{cells[i]}**" if values[i] == top else cells[i]
                rows.append([method, *cells])
            blocks.append(f"## {_over(setting, means[0][1])}")
            blocks.append("\n".join(markdown(["method", *self._columns], rows)))
        methods = {row.method for row in self.rows}
        if methods & {*BASELINES[self.kind]} - {"zero-filled"}:
            blocks.append(_FOOTNOTE)
        return "\n\n".join(blocks) + "\n"

    def write(self, output: Path) -> None:
        """Write the rows, and the table of their means.

        Parameters
        ----------
        output : Path
            Existing folder, for `RESULTS` and `TABLE`.

        Raises
        ------
        OSError
            If a file cannot be written.
        """
        columns = [name.lower().replace(" / ", "_") for name in self._columns]
        header = ["image", "setting", "method", *columns, "note"]
        rows = [
            (
                *(row.image, row.setting, row.method),
                *(f"{row.values[name]:.6g}" for name in self.metrics),
                *(f"{row.seconds:.3f}", row.note),
            )
            for row in self.rows
        ]
        for name, content in (
            (RESULTS, comma_separated(header, rows)),
            (TABLE, self.markdown().encode()),
        ):
            with replacing(output / name) as stream:
                stream.write(content)

    @property
    def _columns(self) -> list[str]:
        return [*self.metrics, "seconds"]

    def _cells(self, values: Sequence[float]) -> list[str]:
        return cells(dict(zip(self._columns, values, strict=True)))


def default_images(kind: str, crop: int = 256) -> list[Input]:
    """Give images to evaluate on, which no weights in this package were trained on.

    Parameters
    ----------
    kind : {"colour", "cine"}
        The photographs `svdinv.unroll.data.TEST`, or series of the phantom.
    crop : int
        Most pixels a side of a photograph; 0 for all of it.

    Returns
    -------
    list of Input
        Eight of them.
    """
    if kind == "colour":
        return read_inputs(TEST, crop=crop)
    return [Input(f"heart {i}", "cine", unseen_series(i)) for i in range(_SERIES)]


def sampled(images: Sequence[Input], samplers: Sequence[Sampler]) -> Cases:
    """Sample every image in every way, when it is needed.

    Parameters
    ----------
    images : sequence of Input
        Images with their truth. What is sampled already is taken as it is, once.
    samplers : sequence of Sampler
        The settings; of each image another seed is taken, counted on from theirs.

    Returns
    -------
    Cases
        One setting after the other.
    """
    return Cases(
        [
            (replace(sampler, seed=sampler.seed + number), image)
            for place, sampler in enumerate(samplers)
            for number, image in enumerate(images)
            if image.samples is None or place == 0
        ]
    )


def methods_of(
    network: Network,
    kind: str,
    *,
    baselines: bool = True,
    ensemble: bool = True,
    device: str = "cpu",
) -> dict[str, Method]:
    """List what is compared.

    Parameters
    ----------
    network : Network
        The network, on `device`.
    kind : {"colour", "cine"}
        What it reconstructs.
    baselines : bool
        Whether the classical methods are among them; zero-filling always is.
    ensemble : bool
        Whether the network is applied to eight views of each case as well.
    device : str
        Where the network is.

    Returns
    -------
    dict of str to callable
        Methods by name.
    """
    methods = classical(kind, slow=baselines) | start(network, device)
    for view in (False, True) if ensemble else (False,):
        methods[NAMES[view]] = partial(apply, network, device=device, ensemble=view)
    return methods


def evaluate(
    cases: Collection[Case] | Cases,
    methods: Mapping[str, Method],
    output: Path,
    *,
    kind: str,
    title: str,
    panels: int = 1,
) -> Evaluation:
    """Apply methods to cases, and write down how well they did.

    Parameters
    ----------
    cases : Cases or collection of Case
        All with their truth.
    methods : mapping of str to callable
        Methods by name.
    output : Path
        Existing folder for `RESULTS`, `TABLE` and pictures. The tables are complete
        after each case, whatever ends the work.
    kind : {"colour", "cine"}
        Of the cases.
    title : str
        Of the table.
    panels : int
        For how many images of each setting to make pictures.

    Returns
    -------
    Evaluation
        The results; not complete after Ctrl-C.

    Raises
    ------
    OSError
        If a file cannot be written.
    """
    evaluation = Evaluation(kind, title)
    pictured: dict[str, int] = {}
    with (
        interrupts() as interrupted,
        threadpool_limits(torch.get_num_threads(), user_api="blas"),
        # The mean of all so far: the methods differ too much to follow the last.
        tqdm(
            total=len(cases) * len(methods), unit="image", smoothing=0, file=sys.stderr
        ) as bar,
    ):
        for case in cases:
            entries: list[Entry] = []
            rows = []
            for name, method in methods.items():
                bar.set_description(f"{case.name}, {case.setting}, {name}")
                row, entry = applied(name, method, case)
                rows.append(row)
                entries.append(entry)
                bar.update()
                if interrupted():
                    break
            if len(rows) == len(methods):
                evaluation.rows += rows
                evaluation.write(output)
            if interrupted():
                return evaluation
            if pictured.setdefault(case.setting, 0) < panels:
                slug = re.sub(r"[^\w.]+", "-", f"{case.setting} {case.name}").strip("-")
                gif = output / f"animation-{slug}.gif" if kind == "cine" else None
                save_pictures(output / f"panel-{slug}.png", gif, case, entries)
                pictured[case.setting] += 1
    evaluation.complete = True
    return evaluation


def applied(name: str, method: Method, case: Case) -> tuple[Row, Entry]:
    """Apply a method to a case.

    Parameters
    ----------
    name : str
        What the method is called.
    method : callable
        The method.
    case : Case
        What to reconstruct.

    Returns
    -------
    Row
        How well it did, in what time; without values where the truth is not known.
    Entry
        The image, for panels.
    """
    began = time.monotonic()
    estimate = method(case)
    seconds = time.monotonic() - began
    values = judge(case, estimate.image)
    row = Row(case.name, case.setting, name, values, seconds, estimate.note)
    return row, Entry(name, shown(estimate.image), label(values))


def label(values: Mapping[str, float]) -> str:
    """Say in a few words how good an image is.

    Parameters
    ----------
    values : mapping of str to float
        Its metrics.

    Returns
    -------
    str
        The first of them, and SSIM.
    """
    if not values:
        return ""
    name, first = next(iter(values.items()))
    decibels = f"{name.partition(' ')[0]} {first:.2f} dB"
    return f"{decibels}, SSIM {values['SSIM']:.3f}"


def save_pictures(
    panel: Path, animation: Path | None, case: Case, entries: Sequence[Entry]
) -> None:
    """Write a panel of reconstructions, and of series an animation too.

    Parameters
    ----------
    panel, animation : Path
        Where to; the animation is of series.
    case : Case
        What was reconstructed.
    entries : sequence of Entry
        The reconstructions: pictures (H, W, 3), or series.

    Raises
    ------
    OSError
        If a file cannot be written.
    """
    title, truth = f"{case.name}, {case.setting}", None
    if case.truth is not None:
        truth = Entry("truth", shown(case.truth), "")
    if animation is None:
        save_panel(panel, truth, entries, title=title)
    else:
        save_series_panel(panel, truth, entries, title=title)
        save_series_animation(animation, truth, entries)


def shown(image: NDArray[Any]) -> NDArray[Any]:
    """Give an image as panels take it.

    Parameters
    ----------
    image : ndarray
        Colour image (C, H, W), or complex series (T, H, W).

    Returns
    -------
    ndarray
        (H, W, C), or the series as it is.
    """
    return image if np.iscomplexobj(image) else channels_last(image)


def _over(setting: str, count: int) -> str:
    return f"{setting}, {count} image{'s' if count > 1 else ''}"
