"""Comparison and evaluation of methods on problems, with their scores and files."""

from __future__ import annotations

import contextlib
import re
import sys
import time
from collections import Counter
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
"""Selection of classical methods to compare with."""


@dataclass(frozen=True)
class Row:
    """Result of a method: names, metrics by name, and wall-clock time in seconds.

    `note` describes what the method selected, such as a weight; it may be empty.
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
    """Return the classical methods to compare with, by name, always with the first.

    With "all", these include all that apply to the problem and are not slow for it,
    with "quick" only those of them that are not lengthy; `asked` is always included.
    """
    methods = task.baselines()
    names = {next(iter(methods)), asked}
    for name, method in methods.items():
        baseline = method if isinstance(method, Baseline) else Baseline(method)
        selected = which == "all" or (which == "quick" and not baseline.lengthy)
        if selected and baseline.applies(problem) and not baseline.slow(problem):
            names.add(name)
    return {name: method for name, method in methods.items() if name in names}


def run_method(
    name: str, method: Method, task: Task, problem: Problem
) -> tuple[Row, Entry]:
    """Return the scores of a method (`Task.score`), and its image for panels."""
    start = time.monotonic()
    estimate = method(problem)
    seconds = time.monotonic() - start
    if not hasattr(estimate, "image"):
        kind = type(estimate).__name__
        raise TypeError(f"{name} must return a Reconstruction, got {kind}")
    values = task.score(problem, estimate.image)
    row = Row(problem.name, problem.setting, name, values, seconds, estimate.note)
    return row, Entry(name, task.for_display(estimate.image), label(values))


def file_stem(name: str) -> str:
    """Convert a name to part of a file name, without spaces, commas and the like."""
    return re.sub(r"[^\w.]+", "-", name).strip("-")


def label(values: Mapping[str, float]) -> str:
    """Format the first metric of an image and its SSIM."""
    if not values:
        return ""
    metric, first = next(iter(values.items()))
    name, _, unit = metric.partition(" / ")
    text = f"{name} {first:.2f} {unit}" if unit else f"{name} {first:.3f}"
    other = "SSIM" in values and metric != "SSIM"
    return f"{text}, SSIM {values['SSIM']:.3f}" if other else text


def save_pictures(
    panel: Path,
    animation: Path | None,
    task: Task,
    problem: Problem,
    entries: Sequence[Entry],
) -> None:
    """Write a panel of reconstructions, and an animation if `animation` is a path."""
    title, truth = f"{problem.name}, {problem.setting}", None
    if problem.truth is not None:
        truth = Entry("truth", task.for_display(problem.truth), "")
    task.save_panel(panel, truth, entries, title=title)
    if animation is not None:
        task.save_animation(animation, truth, entries)


class Files(NamedTuple):
    """Paths of a reconstruction, of the panel, and of the animation of a series."""

    image: Path
    panel: Path
    animation: Path | None


def files(
    output: Path, task: Task, problem: Problem, method: str, movie: str = ".gif"
) -> Files:
    """Return the paths of the files of a reconstruction.

    `output` is a folder, or the file of the reconstruction if it is not an existing
    folder and has a suffix that begins with a letter (unlike ``rate0.1``). File names
    in a folder contain the method, so that results of other methods are not replaced.
    Raises ValueError if a reconstruction cannot be written with that suffix.
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
    """Rows of a comparison, and whether Ctrl-C left some methods out (not `complete`).

    `written`: whether the image of the chosen method was written.
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
    """Return the name of the chosen method in the table.

    `name` is compared without regard to case, and may have hyphens for spaces. By
    default it is the network if it applies to the problem, else the last classical
    method. Raises ValueError if no method of that name applies to the problem.
    """
    names = [
        method
        for method, baseline in task.baselines().items()
        if not isinstance(baseline, Baseline) or baseline.applies(problem)
    ]
    default = names[-1]
    if network is not None:
        names += learned(network, task)
        supported = task.suits_network(problem, network.recipe)
        default = NAMES[False] if supported else default
    slugs = {slug(method): method for method in names}
    chosen = slug(default if name is None else name)
    if chosen not in slugs:
        raise ValueError(
            f"must be one of {', '.join(slugs)} for {problem.name}, got {name!r}"
        )
    selected = slugs[chosen]
    return NAMES[ensemble] if selected == NAMES[False] else selected


def slug(name: str) -> str:
    """Return the name of a method as written on the command line."""
    return re.sub(r"[^a-z0-9+]+", "-", name.lower().replace("'", "")).strip("-")


def compare(
    task: Task,
    problem: Problem,
    methods: Mapping[str, Method],
    written: Files,
    chosen: str,
    stopped: Callable[[], bool] = lambda: False,
) -> Compared:
    """Apply methods, print their scores, and write the image of the one `chosen`.

    The chosen method is applied second and its image is written immediately: Ctrl-C
    after that only shortens the comparison. `stopped` returns whether it was pressed.
    """
    width = 2 + max(18, *map(len, task.baselines()))
    rows: list[Row] = []
    entries: dict[str, Entry] = {}
    saved = late = False
    with (
        threadpool_limits(torch.get_num_threads(), user_api="blas"),
        # A bar in percent would contradict that of a fit.
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
                row, entries[name] = run_method(name, methods[name], task, problem)
                rows.append(row)
                if name == chosen:  # before the others, which may fail
                    with interrupts() as interrupted:  # minutes of work are in it
                        task.save(written.image, entries[name].image, problem)
                        saved, late = True, interrupted()
                first = len(rows) == 1
                head = line("", [*row.values, "seconds"], width) + "\n" if first else ""
                numbers = cells({**row.values, "seconds": row.seconds})
                text = f"{line(f'  {name}', numbers, width)}   {row.note}".rstrip()
                with contextlib.suppress(BrokenPipeError):  # the reader has ended
                    bar.write(head + text, file=sys.stdout)
                bar.update()
                if late or stopped():
                    break
        except KeyboardInterrupt:
            if not saved:
                return Compared(rows, False, False)
    # The chosen image is the last one in the picture.
    pictured = [entries[n] for n in methods if n in entries and n != chosen]
    pictured.append(entries[chosen])
    save_pictures(written.panel, written.animation, task, problem, pictured)
    return Compared(rows, True, len(rows) == len(methods) and not late)


@dataclass
class Evaluation:
    """Scores of methods on problems, in the order of computation.

    `complete`: whether all problems were processed.
    """

    task: Task
    title: str
    rows: list[Row] = field(default_factory=list)
    complete: bool = False

    def means(self) -> Iterator[tuple[str, dict[str, dict[str, float]]]]:
        """Yield means over the images of each setting, in the order of computation.

        Yields the setting with its number of images, and means by method and metric;
        the name of a method that applies to fewer images includes their number.
        """
        for setting in dict.fromkeys(row.setting for row in self.rows):
            rows = [row for row in self.rows if row.setting == setting]
            counts = Counter(row.method for row in rows)
            count = max(counts.values())
            means: dict[str, dict[str, float]] = {}
            for method, some in counts.items():
                scores = [
                    [*r.values.values(), r.seconds] for r in rows if r.method == method
                ]
                mean = map(float, np.mean(scores, axis=0))
                name = method if some == count else f"{method} ({_images(some)})"
                means[name] = dict(zip(self._columns, mean, strict=True))
            yield f"{setting}, {_images(count)}", means

    def text(self) -> str:
        """Return the means as tables for a terminal."""
        blocks = []
        for heading, means in self.means():
            width = max(len(heading), 2 + max(map(len, means)))
            lines = [line(heading, self._columns, width)]
            lines += [line(f"  {m}", cells(mean), width) for m, mean in means.items()]
            blocks.append("\n".join(lines))
        return "\n\n".join(blocks)

    def markdown(self) -> str:
        """Return the means as Markdown tables, with the best values in bold."""
        blocks = [f"# {self.title}"]
        for heading, means in self.means():
            best = {n: max(row[n] for row in means.values()) for n in self.task.metrics}
            rows = []
            for method, mean in means.items():
                pairs = zip(cells(mean), mean.items(), strict=True)
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
        """Write the rows to `RESULTS` and the tables of means to `TABLE`."""
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


def _images(count: int) -> str:
    return f"{count} image{'s' if count > 1 else ''}"


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
    """Reconstruct images with known truth, and write tables of the scores.

    Methods are the classical ones, all or only the first, and a network on `device`,
    with `ensemble` also as the mean over equivalent versions. Each of the `settings` is
    applied to all images, with increasing seeds; measured problems are used once.

    Files in the existing folder `output` are `RESULTS`, `TABLE`, and pictures of the
    first `panels` images of each setting. Tables are complete after each problem. After
    Ctrl-C the returned evaluation is not complete.
    """
    pairs = [
        (replace(options, seed=(options.seed + number) % 2**63), image)
        for index, options in enumerate(settings)
        for number, image in enumerate(images)
        if isinstance(image, InputImage) or index == 0
    ]
    networks: dict[str, Method] = {}
    for view in (False, True) if ensemble and task.has_views else (False,):
        if network is not None:
            networks |= learned(network, task, ensemble=view, device=device)
    evaluation = Evaluation(task, title)
    picture_counts: dict[str, int] = {}
    with (
        interrupts() as interrupted,
        threadpool_limits(torch.get_num_threads(), user_api="blas"),
        progress_bar(len(pairs), unit="image", smoothing=0) as bar,
    ):
        for options, source in pairs:
            # Measured when needed, because all may not fit into memory.
            if isinstance(source, Problem):
                problem = source
            else:
                problem = task.measure(source, options)
            which: Which = "all" if baselines else "first"
            methods = classical(task, problem, which=which) | networks
            entries: list[Entry] = []
            rows = []
            for name, method in methods.items():
                bar.set_description(f"{problem.name}, {problem.setting}, {name}")
                row, entry = run_method(name, method, task, problem)
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
            if picture_counts.setdefault(problem.setting, 0) < panels:
                stem = file_stem(f"{problem.setting} {problem.name}")
                gif = output / f"animation-{stem}.gif" if task.moves(problem) else None
                panel = output / f"panel-{stem}.png"
                save_pictures(panel, gif, task, problem, entries)
                picture_counts[problem.setting] += 1
    evaluation.complete = True
    return evaluation
