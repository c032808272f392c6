"""Methods at work on problems: their scores, the files written of them, evaluations."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from svdinv.unroll.display import cells, comma_separated, line, markdown
from svdinv.unroll.display.panels import Entry
from svdinv.unroll.formats.atomic import replacing
from svdinv.unroll.formats.table import ending
from svdinv.unroll.inference import NAMES, learned
from svdinv.unroll.interrupts import interrupts, progress_bar
from svdinv.unroll.problem import Problem
from svdinv.unroll.tasks.task import Baseline, InputImage, Method, Options, Task
from svdinv.unroll.torch import Network

RESULTS = "results.csv"
TABLE = "results.md"

_FOOTNOTE = (
    "Classical methods take, for every image, the regularisation weight that comes "
    "nearest to the truth; the network never sees the truth."
)

Which: TypeAlias = Literal["first", "quick", "all"]
"""Of the classical methods, those that are compared with."""


@dataclass(frozen=True)
class Row:
    """A method on a problem: names, metrics by name, and seconds of wall-clock time.

    `note` is what the method chose, such as a weight; it may be empty.
    """

    image: str
    setting: str
    method: str
    values: dict[str, float]
    seconds: float
    note: str = ""


def classical(
    task: Task, problem: Problem, *, which: Which = "all", asked: str = ""
) -> dict[str, Method]:
    """Choose the classical methods to compare with, by name: the first always.

    Further "all" that suit a problem and do not take too long for it, or those of them
    that are "quick", and in any case the one that is `asked` for.
    """
    methods = task.baselines()
    names = {next(iter(methods)), asked}
    for name, method in methods.items():
        own = method if isinstance(method, Baseline) else Baseline(method)
        wanted = which == "all" or (which == "quick" and not own.lengthy)
        if wanted and own.applies(problem) and not own.slow(problem):
            names.add(name)
    return {name: method for name, method in methods.items() if name in names}


def applied(
    name: str, method: Method, task: Task, problem: Problem
) -> tuple[Row, Entry]:
    """Apply a method to a problem.

    Returns how well it did, without values where the truth is not known, and the image
    for panels.
    """
    began = time.monotonic()
    estimate = method(problem)
    seconds = time.monotonic() - began
    values = task.judge(problem, estimate.image)
    row = Row(problem.name, problem.setting, name, values, seconds, estimate.note)
    return row, Entry(name, task.for_display(estimate.image), label(values))


def file_stem(name: str) -> str:
    """Make a name a part of that of a file, without spaces, commas and the like."""
    return re.sub(r"[^\w.]+", "-", name).strip("-")


def label(values: Mapping[str, float]) -> str:
    """Format the first metric of an image, and its SSIM."""
    if not values:
        return ""
    name, first = next(iter(values.items()))
    decibels = f"{name.partition(' ')[0]} {first:.2f} dB"
    return f"{decibels}, SSIM {values['SSIM']:.3f}" if "SSIM" in values else decibels


def save_pictures(
    panel: Path,
    animation: Path | None,
    task: Task,
    problem: Problem,
    entries: Sequence[Entry],
) -> None:
    """Write a panel of reconstructions, and perhaps an animation too."""
    title, truth = f"{problem.name}, {problem.setting}", None
    if problem.truth is not None:
        truth = Entry("truth", task.for_display(problem.truth), "")
    task.save_panel(panel, truth, entries, title=title)
    if animation is not None:
        task.save_animation(animation, truth, entries)


class Files(NamedTuple):
    """Where a reconstruction goes, a picture that compares, and a series' animation."""

    image: Path
    panel: Path
    animation: Path | None


def files(
    output: Path, task: Task, problem: Problem, method: str, movie: str = ".gif"
) -> Files:
    """Name what is written, side by side.

    `output` is a folder, or the file of the reconstruction: whatever has a suffix that
    begins with a letter, unlike ``rate0.1``, and is no folder. In a folder the names
    tell the method, so that nothing of another one is replaced. Raises ValueError if
    a reconstruction cannot be written to a file of that suffix.
    """
    endings = task.endings
    if output.suffix[1:2].isalpha() and not output.is_dir():
        suffix = ending(output, endings)
        if not suffix:
            raise ValueError(
                f"argument --output: must be a folder or end in {', '.join(endings)}, "
                f"got {output}"
            )
        base, image = output.with_name(output.name[: -len(suffix)]), output
    else:
        base = output / f"{file_stem(Path(problem.name).name)}-{slug(method)}"
        image = base.with_name(f"{base.name}{endings[0]}")
    panel = base.with_name(f"{base.name}-panel.png")
    animation = base.with_name(f"{base.name}-animation{movie}")
    return Files(image, panel, animation if task.moves(problem) else None)


class Compared(NamedTuple):
    """How a comparison went: its rows, and whether Ctrl-C left some methods out.

    `written`: whether the image was made before that, and so was written.
    """

    rows: list[Row]
    written: bool
    complete: bool


def method_named(
    task: Task,
    problem: Problem,
    network: Network | None,
    name: str | None = None,
    *,
    ensemble: bool = False,
) -> str:
    """Return the name in the table of the chosen method.

    `name` is that, in whatever case and with hyphens for spaces; by default the network
    is it, or without one that is for such problems the last classical method. Raises
    ValueError if there is no such method for a problem.
    """
    names = [
        each
        for each, own in task.baselines().items()
        if not isinstance(own, Baseline) or own.applies(problem)
    ]
    usual = names[-1]
    if network is not None:
        names += learned(network, task)
        suits = task.suits_network(problem, network.recipe)
        usual = NAMES[False] if suits else usual
    slugs = {slug(each): each for each in names}
    asked = slug(usual if name is None else name)
    if asked not in slugs:
        raise ValueError(
            f"must be one of {', '.join(slugs)} for {problem.name}, got {name!r}"
        )
    found = slugs[asked]
    return NAMES[ensemble] if found == NAMES[False] else found


def slug(name: str) -> str:
    """Write the name of a method as on the command line."""
    return re.sub(r"[^a-z0-9+]+", "-", name.lower().replace("'", "")).strip("-")


def compare(
    task: Task,
    problem: Problem,
    methods: Mapping[str, Method],
    written: Files,
    chosen: str,
    stopped: Callable[[], bool] = lambda: False,
) -> Compared:
    """Apply methods, print how they did, and write the image of the one `chosen`.

    The first is applied first, then the one that is chosen, whose image is
    written at once: Ctrl-C after that leaves some out of the comparison, and no more.
    `stopped`: whether one of them noticed it.
    """
    width = 2 + max(18, *map(len, task.baselines()))
    rows: list[Row] = []
    entries: dict[str, Entry] = {}
    with (
        threadpool_limits(torch.get_num_threads(), user_api="blas"),
        # In percents it would contradict the bar of a fit.
        progress_bar(
            len(methods),
            leave=False,
            bar_format="{desc}{n_fmt} of {total_fmt} done, {elapsed}",
        ) as bar,
    ):
        order = [next(iter(methods)), chosen, *methods]
        try:
            for name in dict.fromkeys(order):
                bar.set_description(name)
                row, entries[name] = applied(name, methods[name], task, problem)
                if not rows:
                    head = line("", [*row.values, "seconds"], width)
                    bar.write(head, file=sys.stdout)
                numbers = cells({**row.values, "seconds": row.seconds})
                told = f"{line(f'  {name}', numbers, width)}   {row.note}".rstrip()
                bar.write(told, file=sys.stdout)
                rows.append(row)
                if name == chosen:  # whatever ends the others
                    task.save(written.image, entries[name].image, problem)
                bar.update()
                if stopped():
                    break
        except KeyboardInterrupt:
            if chosen not in entries:
                return Compared(rows, False, False)
    # In the picture the one to look at is the last.
    shown = [entries[n] for n in methods if n in entries and n != chosen]
    shown.append(entries[chosen])
    save_pictures(written.panel, written.animation, task, problem, shown)
    return Compared(rows, True, len(rows) == len(methods))


@dataclass
class Evaluation:
    """Methods on problems: a row for each, in the order of the work.

    `complete`: whether all problems were done.
    """

    task: Task
    title: str
    rows: list[Row] = field(default_factory=list)
    complete: bool = False

    def means(self) -> Iterator[tuple[str, dict[str, dict[str, float]]]]:
        """Average over the images of each setting, in the order of the work.

        Yields the setting with the number of its images, and by method the means of
        each metric and of the seconds.
        """
        for setting in dict.fromkeys(row.setting for row in self.rows):
            rows = [row for row in self.rows if row.setting == setting]
            means: dict[str, dict[str, float]] = {}
            for method in dict.fromkeys(row.method for row in rows):
                own = [
                    [*r.values.values(), r.seconds] for r in rows if r.method == method
                ]
                mean = map(float, np.mean(own, axis=0))
                means[method] = dict(zip(self._columns, mean, strict=True))
            count = len(own)
            yield f"{setting}, {count} image{'s' if count > 1 else ''}", means

    def text(self) -> str:
        """Return the means as tables for the terminal."""
        blocks = []
        width = 2 + max((len(row.method) for row in self.rows), default=0)
        for heading, means in self.means():
            lines = [line(heading, self._columns, width)]
            lines += [line(f"  {m}", cells(own), width) for m, own in means.items()]
            blocks.append("\n".join(lines))
        return "\n\n".join(blocks)

    def markdown(self) -> str:
        """Return the means as tables in Markdown, with the best values in bold."""
        blocks = [f"# {self.title}"]
        for heading, means in self.means():
            best = {n: max(own[n] for own in means.values()) for n in self.task.metrics}
            rows = []
            for method, own in means.items():
                pairs = zip(cells(own), own.items(), strict=True)
                bold = (f"**{x}**" if best.get(n) == v else x for x, (n, v) in pairs)
                rows.append([method, *bold])
            blocks.append(f"## {heading}")
            blocks.append("\n".join(markdown(["method", *self._columns], rows)))
        methods = {row.method for row in self.rows}
        _, *slow = self.task.baselines()
        if methods & set(slow):
            blocks.append(_FOOTNOTE)
        return "\n\n".join(blocks) + "\n"

    def write(self, output: Path) -> None:
        """Write the rows, and the table of their means, to `RESULTS` and `TABLE`."""
        columns = [name.lower().replace(" / ", "_") for name in self._columns]
        header = ["image", "setting", "method", *columns, "note"]
        rows = [
            (
                *(row.image, row.setting, row.method),
                *(f"{row.values[name]:.6g}" for name in self.task.metrics),
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
        return [*self.task.metrics, "seconds"]


def evaluate(
    task: Task,
    images: Sequence[InputImage | Problem],
    settings: Sequence[Options],
    output: Path,
    *,
    title: str,
    network: Network | None = None,
    baselines: bool = True,
    ensemble: bool = True,
    device: str = "cpu",
    panels: int = 1,
) -> Evaluation:
    """Reconstruct images with known truth, and write down how well that went.

    By the classical methods, all or the first alone, and by a network, which is on
    `device`; with `ensemble` also as the mean over equivalent versions. Every image is
    measured in every way, one way after the other, and for each another seed is taken,
    counted on from that of the way; what is measured already is taken once.

    Written are `RESULTS`, `TABLE` and, for so many images of each setting, pictures, in
    an existing folder; the tables are complete after each problem, whatever ends the
    work. What it returns is not complete after Ctrl-C.
    """
    pairs = [
        (replace(options, seed=options.seed + number), image)
        for place, options in enumerate(settings)
        for number, image in enumerate(images)
        if isinstance(image, InputImage) or place == 0
    ]
    networks: dict[str, Method] = {}
    for view in (False, True) if ensemble and task.has_views else (False,):
        if network is not None:
            networks |= learned(network, task, ensemble=view, device=device)
    evaluation = Evaluation(task, title)
    pictured: dict[str, int] = {}
    with (
        interrupts() as interrupted,
        threadpool_limits(torch.get_num_threads(), user_api="blas"),
        progress_bar(len(pairs), unit="image", smoothing=0) as bar,
    ):
        for options, given in pairs:
            # Not before it is needed: all of them may not fit into memory.
            if isinstance(given, Problem):
                problem = given
            else:
                problem = task.measure(given, options)
            which: Which = "all" if baselines else "first"
            methods = classical(task, problem, which=which) | networks
            entries: list[Entry] = []
            rows = []
            for name, method in methods.items():
                bar.set_description(f"{problem.name}, {problem.setting}, {name}")
                row, entry = applied(name, method, task, problem)
                rows.append(row)
                entries.append(entry)
                if interrupted():
                    break
            bar.update()
            if len(rows) == len(methods):
                evaluation.rows += rows
                evaluation.write(output)
            if interrupted():
                return evaluation
            if pictured.setdefault(problem.setting, 0) < panels:
                slug = file_stem(f"{problem.setting} {problem.name}")
                gif = output / f"animation-{slug}.gif" if task.moves(problem) else None
                panel = output / f"panel-{slug}.png"
                save_pictures(panel, gif, task, problem, entries)
                pictured[problem.setting] += 1
    evaluation.complete = True
    return evaluation
