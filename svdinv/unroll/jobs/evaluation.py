"""Evaluation: a network and the classical methods on the same cases."""

from __future__ import annotations

import csv
import io
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

from svdinv.unroll.data import TEST, centre_crop, photograph
from svdinv.unroll.files import replacing
from svdinv.unroll.jobs.baselines import BASELINES, Estimate, Method
from svdinv.unroll.jobs.cine import unseen_series
from svdinv.unroll.jobs.colour import channels_first, channels_last
from svdinv.unroll.jobs.data import Case
from svdinv.unroll.jobs.inference import VIEWS, apply, judge
from svdinv.unroll.jobs.inputs import Input, Sampler
from svdinv.unroll.jobs.panels import (
    Entry,
    save_animation,
    save_panel,
    save_series_panel,
)
from svdinv.unroll.jobs.training import interrupts
from svdinv.unroll.metrics import COLOUR, SERIES
from svdinv.unroll.torch import Network

__all__ = [
    "RESULTS",
    "TABLE",
    "Cases",
    "Evaluation",
    "Row",
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
    "Classical methods take, for every image, the weights that come nearest to the "
    "truth; the network does without it."
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
        What the method chose.
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
            Images.
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
        width = max((len(row.method) for row in self.rows), default=0)
        for setting in self.settings:
            means = list(self.means(setting))
            head = f"{_over(setting, means[0][1]):<{width + 2}}"
            lines = [head + "".join(f"{m:>11}" for m in [*self.metrics, "seconds"])]
            lines += [
                f"  {method:<{width}}"
                + "".join(f"{c:>11}" for c in self._cells(values))
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
            lines = [
                f"## {_over(setting, means[0][1])}\n",
                "| method | " + " | ".join([*self.metrics, "seconds"]) + " |",
                "|---|" + "---:|" * (len(self.metrics) + 1),
            ]
            for method, _, values in means:
                cells = self._cells(values)
                for i, top in enumerate(best):
                    cells[i] = f"**{cells[i]}**" if values[i] == top else cells[i]
                lines.append(f"| {method} | {' | '.join(cells)} |")
            blocks.append("\n".join(lines))
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
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        columns = [name.lower().replace(" / ", "_") for name in self.metrics]
        rows.writerow(["image", "setting", "method", *columns, "seconds", "note"])
        for row in self.rows:
            values = [f"{row.values[name]:.6g}" for name in self.metrics]
            names = (row.image, row.setting, row.method)
            rows.writerow([*names, *values, f"{row.seconds:.3f}", row.note])
        for name, content in ((RESULTS, text.getvalue()), (TABLE, self.markdown())):
            with replacing(output / name) as stream:
                stream.write(content.encode())

    def _cells(self, values: Sequence[float]) -> list[str]:
        formats = [".4f" if name == "SSIM" else ".2f" for name in self.metrics]
        pairs = zip(values, [*formats, ".2f"], strict=True)
        return [format(value, how) for value, how in pairs]


def default_images(kind: str, crop: int = 256) -> list[Input]:
    """Give the images that no network in this package was trained on.

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
        photos = {name: photograph(name) for name in TEST}
        if crop:
            photos = {name: centre_crop(photo, crop) for name, photo in photos.items()}
        return [
            Input(n, "colour", channels_first(photo)) for n, photo in photos.items()
        ]
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
    known = BASELINES[kind]
    methods = dict(known) if baselines else {"zero-filled": known["zero-filled"]}
    methods["network"] = partial(apply, network, device=device)
    if ensemble:
        name = f"network, {VIEWS} views"
        methods[name] = partial(apply, network, device=device, ensemble=True)
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
                began = time.monotonic()
                estimate = method(case)
                seconds = time.monotonic() - began
                values = judge(case, estimate.image)
                row = Row(case.name, case.setting, name, values, seconds, estimate.note)
                rows.append(row)
                entries.append(Entry(name, shown(estimate), label(values)))
                bar.update()
                if interrupted():
                    break
            if len(rows) == len(methods):
                evaluation.rows += rows
            if interrupted():
                return evaluation
            evaluation.write(output)
            if pictured.setdefault(case.setting, 0) < panels:
                slug = re.sub(r"[^\w.]+", "-", f"{case.setting} {case.name}").strip("-")
                gif = output / f"animation-{slug}.gif" if kind == "cine" else None
                save_pictures(output / f"panel-{slug}.png", gif, case, entries)
                pictured[case.setting] += 1
    evaluation.complete = True
    return evaluation


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
        truth = Entry("truth", shown(Estimate(case.truth)), "")
    if animation is None:
        save_panel(panel, truth, entries, title=title)
    else:
        save_series_panel(panel, truth, entries, title=title)
        save_animation(animation, truth, entries)


def shown(estimate: Estimate) -> NDArray[Any]:
    """Give an image as pictures show it: colour with channels last, series as it is.

    Parameters
    ----------
    estimate : Estimate
        With the image.

    Returns
    -------
    ndarray
        (H, W, 3) or (T, H, W).
    """
    image = estimate.image
    return image if np.iscomplexobj(image) else channels_last(image)


def _over(setting: str, count: int) -> str:
    return f"{setting}, {count} image{'s' if count > 1 else ''}"
