"""Evaluation: a network and the classical methods on the same problems."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from svdinv.unroll.display import cells, comma_separated, line, markdown
from svdinv.unroll.display.panels import Entry
from svdinv.unroll.evaluation.methods import (
    Row,
    Which,
    applied,
    classical,
    file_stem,
    save_pictures,
)
from svdinv.unroll.formats.atomic import replacing
from svdinv.unroll.inference import learned
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
