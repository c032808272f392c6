"""Evaluation: a network and the classical methods on the same problems."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from svdinv.unroll.display.panels import Entry
from svdinv.unroll.display.tables import cells, comma_separated, line, markdown
from svdinv.unroll.evaluation.methods import (
    Row,
    applied,
    file_stem,
    is_quick,
    save_pictures,
)
from svdinv.unroll.formats.atomic import replacing
from svdinv.unroll.inference import NAMES, apply, start
from svdinv.unroll.interrupts import interrupts, progress_bar
from svdinv.unroll.problem import Problem
from svdinv.unroll.tasks.task import InputImage, Method, Options, Task
from svdinv.unroll.torch import Network

RESULTS = "results.csv"
TABLE = "results.md"

_FOOTNOTE = (
    "Classical methods take, for every image, the regularisation weight that comes "
    "nearest to the truth; the network never sees the truth."
)


@dataclass(frozen=True)
class Problems:
    """Problems that are measured one by one: all together may not fit into memory.

    `pairs` holds how, and what, becomes a problem; a problem is one already.
    """

    task: Task
    pairs: list[tuple[Options, InputImage | Problem]]

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[Problem]:
        for options, given in self.pairs:
            if isinstance(given, Problem):
                yield given
            else:
                yield self.task.measure(given, options)


@dataclass
class Evaluation:
    """Methods on problems: a row for each, in the order of the work.

    `complete` tells whether all problems were done.
    """

    task: Task
    title: str
    rows: list[Row] = field(default_factory=list)
    complete: bool = False

    def means(self, setting: str) -> Iterator[tuple[str, int, list[float]]]:
        """Average over the images of a setting.

        Yields the name of each method, in the order of the work, the number of images,
        and the means of each metric and of the seconds.
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
        """Return the means as tables for the terminal."""
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
        """Return the means as tables in Markdown, with the best values in bold."""
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

    def _cells(self, values: Sequence[float]) -> list[str]:
        return cells(dict(zip(self._columns, values, strict=True)))


def sampled(
    task: Task,
    images: Sequence[InputImage | Problem],
    settings: Sequence[Options],
) -> Problems:
    """Measure every image in every way, when it is needed, one way after the other.

    For each image another seed is taken, counted on from that of the way. What is
    measured already is taken as it is, once.
    """
    pairs = [
        (replace(options, seed=options.seed + number), image)
        for place, options in enumerate(settings)
        for number, image in enumerate(images)
        if isinstance(image, InputImage) or place == 0
    ]
    return Problems(task, pairs)


def methods_of(
    network: Network | None,
    task: Task,
    *,
    baselines: bool = True,
    ensemble: bool = True,
    device: str = "cpu",
) -> dict[str, Method]:
    """List what is compared, by name.

    Without a network, which is on `device`, the classical methods alone. With
    `baselines` all of these, else the first. With `ensemble` the network is applied to
    equivalent views of each problem as well, where the task has such.
    """
    methods = dict(task.baselines())
    if not baselines:
        methods = dict([next(iter(methods.items()))])
    if network is None:
        return methods
    methods |= start(network, device)
    for view in (False, True) if ensemble and task.has_views else (False,):
        methods[NAMES[view]] = partial(
            apply, network, task, device=device, ensemble=view
        )
    return methods


def evaluate(
    problems: Collection[Problem] | Problems,
    methods: Mapping[str, Method],
    output: Path,
    *,
    task: Task,
    title: str,
    panels: int = 1,
) -> Evaluation:
    """Apply methods to problems with known truth, and write down how well they did.

    To `RESULTS`, `TABLE` and, for so many images of each setting, pictures, in an
    existing folder; the tables are complete after each problem, whatever ends the work.
    What it gives is not complete after Ctrl-C.
    """
    evaluation = Evaluation(task, title)
    pictured: dict[str, int] = {}
    with (
        interrupts() as interrupted,
        threadpool_limits(torch.get_num_threads(), user_api="blas"),
        # The mean of all so far: the methods differ too much to follow the last.
        progress_bar(len(problems) * len(methods), unit="image", smoothing=0) as bar,
    ):
        for problem in problems:
            entries: list[Entry] = []
            rows = []
            # A network is applied to whatever it is evaluated on.
            known = task.baselines()
            every = {
                name: method
                for name, method in methods.items()
                if name not in known or is_quick(task, name, problem)
            }
            bar.update(len(methods) - len(every))
            for name, method in every.items():
                bar.set_description(f"{problem.name}, {problem.setting}, {name}")
                row, entry = applied(name, method, task, problem)
                rows.append(row)
                entries.append(entry)
                bar.update()
                if interrupted():
                    break
            if len(rows) == len(every):
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


def _over(setting: str, count: int) -> str:
    return f"{setting}, {count} image{'s' if count > 1 else ''}"
