"""What the study writes: a CSV file, a table and a plot."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from derivative_study.plans import METHODS, Study
from derivative_study.study import Row
from svdinv.unroll.display import comma_separated, markdown
from svdinv.unroll.display.pictures import new_figure
from svdinv.unroll.formats.atomic import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["CSV", "PLOT", "TABLE", "command", "summary", "table", "write_report"]

CSV, TABLE, PLOT = "study.csv", "study.md", "study.png"

_NONE = "–"
_PROGRAM = "python -m derivative_study"
# For reading, in inches and colours.
_WIDTH, _ROW, _SCATTER = 5.6, 0.34, 2.3
_INK, _MUTED, _FAINT = "#1a1a1a", "#6b6b6b", "#d8d8d8"
_RED = "#a50f15"


def write_report(study: Study, rows: Sequence[Row], output: Path) -> None:
    """Write `CSV`, `TABLE` and `PLOT` into an existing folder."""
    with replacing(output / CSV) as stream:
        stream.write(_csv(rows))
    with replacing(output / TABLE) as stream:
        stream.write(table(study, rows).encode())
    _plot(study, rows, output / PLOT)


def command(study: Study) -> str:
    """Return the command of a study: what differs from the defaults, but the folder."""
    words = [_PROGRAM]
    default = Study()
    if study == default.quick():
        return f"{_PROGRAM} --quick"
    if study.crop == default.quick().crop:
        default = default.quick()
        words.append("--quick")
    for field in dataclasses.fields(Study):
        value = getattr(study, field.name)
        if value != getattr(default, field.name):
            several = value if isinstance(value, tuple) else (value,)
            words += [f"--{field.name}", *(_word(x) for x in several)]
    return " ".join(words)


def summary(study: Study, rows: Sequence[Row]) -> str:
    """Report breakdowns, a line for each method and kind of data."""
    lines = [_line("data", "method", "broken", "PSNR - svt's", "time, svt 1")]
    for data in study.data:
        for method in study.methods:
            runs = _select(rows, data=data, method=method)
            if runs:
                broken, _ = _breaks(runs)
                _, relative = _times(runs)
                apart = _apart(rows, runs)
                lines.append(_line(data, method, broken, apart, relative))
    return "\n".join(lines)


def table(study: Study, rows: Sequence[Row]) -> str:
    """Make the tables in Markdown, without headings, after how the runs were made."""
    done, planned = len(rows), len(study.plans())
    machines = sorted({row.machine for row in rows})
    head = [
        f"- Command: `{command(study)}`",
        f"- {done} runs{'' if done == planned else f' of {planned}: not all'}; seeds "
        + ", ".join(map(str, range(study.seeds))),
        f"- Each: {study.steps} steps of {study.batch} patches of {study.patch} × "
        f"{study.patch}; TLR-Net with {study.cells} cells",
        *(
            f"- {name}, {study.threads} thread{'s' * (study.threads > 1)}"
            for name in machines
        ),
    ]
    breaks, times = ("broken", "median step"), ("ms a step", "of svt's")
    overall = markdown(
        ("data", "method", *breaks, "PSNR - svt's / dB", *times),
        [
            (data, f"`{method}`", *_breaks(runs), _apart(rows, runs), *_times(runs))
            for data in study.data
            for method in study.methods
            if (runs := _select(rows, data=data, method=method))
        ],
        left=2,
    )
    single = markdown(
        ("data", "rate", "method", *breaks, "PSNR / dB", "SSIM", *times),
        [
            (data, f"{rate:g}", f"`{method}`", *_single(runs))
            for data in study.data
            for rate in study.rates
            for method in study.methods
            if (runs := _select(rows, data=data, rate=rate, method=method))
        ],
        left=3,
    )
    together = ["", "All rates together:", "", *overall]
    return "\n".join([*head, *together, "", "Each rate:", "", *single, ""])


def _line(data: str, method: str, broken: str, apart: str, time: str) -> str:
    return f"{data:<10}{method:<18}{broken:>10}{apart:>15}{time:>13}"


def _select(rows: Iterable[Row], **wanted: Any) -> list[Row]:
    return [row for row in rows if all(getattr(row, k) == v for k, v in wanted.items())]


def _single(runs: Sequence[Row]) -> tuple[str, ...]:
    """Summarise runs that differ in their seeds."""
    quality = (
        _spread([row.psnr for row in runs if row.psnr is not None], ".2f"),
        _number([row.ssim for row in runs], statistics.fmean, ".3f"),
    )
    return (*_breaks(runs), *quality, *_times(runs))


def _breaks(runs: Sequence[Row]) -> tuple[str, str]:
    """How many broke, and when."""
    steps = [row.step for row in runs if row.broken and row.step is not None]
    count = f"{sum(row.broken for row in runs)} of {len(runs)}"
    return count, _number(steps, statistics.median, "g")


def _times(runs: Sequence[Row]) -> tuple[str, str]:
    """Milliseconds of a step, and how many times those of the first method."""
    return (
        _number([row.milliseconds for row in runs], statistics.median, ".0f"),
        _number([row.relative for row in runs], statistics.median, ".2f"),
    )


def _apart(rows: Sequence[Row], runs: Sequence[Row]) -> str:
    """How far the PSNR is from that of the first method at the same rate and seed.

    Means over the runs that did not break would favour a method that breaks where the
    task is hard.
    """
    if runs[0].method == METHODS[0]:
        return _NONE
    return _spread(list(_differences(rows, runs)), "+.2f")


def _spread(values: Sequence[float], format: str) -> str:
    """Mean and standard deviation."""
    if len(values) < 2:
        return _number(values, statistics.fmean, format)
    mean, deviation = statistics.fmean(values), statistics.stdev(values)
    return f"{mean:{format}} ± {deviation:.2f}"


def _number(
    values: Iterable[float | None], mean: Callable[[list[float]], float], format: str
) -> str:
    known = [value for value in values if value is not None]
    return f"{mean(known):{format}}" if known else _NONE


def _csv(rows: Sequence[Row]) -> bytes:
    names = [field.name for field in dataclasses.fields(Row)]
    names.insert(names.index("seed") + 1, "broken")
    lines = [[_cell(getattr(row, name)) for name in names] for row in rows]
    return comma_separated(names, lines)


def _cell(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(f"{x:.7g}" for x in value)
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)


def _word(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return f"'{text}'" if " " in text else text


def _plot(study: Study, rows: Sequence[Row], path: Path) -> None:
    """Draw which runs broke, and how far the others are from `svt`, for each data."""
    tall = _ROW * len(study.methods)
    size = (1.8 + _WIDTH * len(study.data), tall + _SCATTER + 2.2)
    figure = new_figure(size, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    heading: dict[str, Any] = {"fontweight": "bold", "color": _INK}
    title = "Ways to differentiate the low-rank step"
    figure.suptitle(title, x=0.01, ha="left", fontsize=14, **heading)
    heading |= {"loc": "left", "fontsize": 11.5}
    grid = figure.subplots(
        2, len(study.data), squeeze=False, sharey="row", height_ratios=(tall, _SCATTER)
    )
    for (above, below), data in zip(grid.T, study.data, strict=True):
        above.set_title(f"{data} patches: runs that broke down", **heading)
        _draw_broken(above, study, data, rows)
        below.set_title(
            "PSNR of the others relative to svt's of the same seed", **heading
        )
        _draw_differences(below, study, data, rows)
        below.label_outer()
    limit = _limit(rows)
    grid[1, 0].set_ylim(-limit, limit)
    handles, labels = grid[1, 0].get_legend_handles_labels()
    if handles:
        figure.legend(
            handles, labels, title="rate", loc="outside right lower", frameon=False,
            fontsize=8.5, title_fontsize=9,
        )  # fmt: skip
    with replacing(path) as stream:
        figure.savefig(stream, format="png", dpi=110)


def _draw_broken(axes: Axes, study: Study, data: str, rows: Sequence[Row]) -> None:
    """Draw a cell for each method and rate, dark as far as runs broke."""
    shares = []
    for i, method in enumerate(study.methods):
        line = []
        for j, rate in enumerate(study.rates):
            runs = _select(rows, data=data, rate=rate, method=method)
            broken = sum(row.broken for row in runs)
            share = broken / len(runs) if runs else math.nan
            line.append(share)
            axes.text(
                j,
                i,
                f"{broken} of {len(runs)}" if runs else _NONE,
                ha="center",
                va="center",
                fontsize=9,
                color="white" if share > 0.5 else _INK if share else _MUTED,
            )
        shares.append(line)
    axes.imshow(shares, vmin=0, vmax=1.25, cmap="Reds", aspect="auto")
    axes.set_xticks(range(len(study.rates)), [f"{rate:g}" for rate in study.rates])
    axes.set_yticks(range(len(study.methods)), study.methods)
    axes.set_xlabel("sampling rate", fontsize=9.5, color=_MUTED)
    # White lines between the cells.
    axes.set_xticks([j + 0.5 for j in range(len(study.rates) - 1)], minor=True)
    axes.set_yticks([i + 0.5 for i in range(len(study.methods) - 1)], minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    _style(axes)


def _draw_differences(axes: Axes, study: Study, data: str, rows: Sequence[Row]) -> None:
    """Draw a dot for each run that did not break."""
    from matplotlib import colormaps

    colours = colormaps["viridis_r"]
    last = max(1, len(study.rates) - 1)
    axes.axhline(0, color=_FAINT, linewidth=1, zorder=0)
    for j, rate in enumerate(study.rates):
        shift = 0.5 * (j - (len(study.rates) - 1) / 2) / (last + 1)
        points = [
            (i + shift, difference)
            for i, method in enumerate(study.methods)
            for difference in _differences(
                rows, _select(rows, data=data, rate=rate, method=method)
            )
        ]
        axes.scatter(
            [x for x, _ in points],
            [y for _, y in points],
            s=20,
            color=colours(0.1 + 0.8 * j / last),
            edgecolors="white",
            linewidths=0.4,
            label=f"{rate:g}",
        )
    spread = _seeds(study, data, rows)
    if spread:
        axes.axhspan(-spread, spread, color=_FAINT, alpha=0.45, linewidth=0, zorder=0)
    for i, method in enumerate(study.methods):
        runs = _select(rows, data=data, method=method)
        if runs and all(row.broken for row in runs):
            axes.text(
                i,
                0,
                "all broke",
                ha="center",
                va="bottom",
                fontsize=8.5,
                color=_RED,
            )
    axes.set_xlim(-0.6, len(study.methods) - 0.4)
    axes.set_xticks(range(len(study.methods)), study.methods, rotation=35, ha="right")
    _style(axes)
    axes.tick_params(axis="both", length=3)
    axes.set_ylabel("dB", fontsize=9.5, color=_MUTED)


def _seeds(study: Study, data: str, rows: Sequence[Row]) -> float:
    """Root mean square, over the rates, of what seeds alone change in the first."""
    deviations = []
    for rate in study.rates:
        runs = _select(rows, data=data, rate=rate, method=METHODS[0])
        known = [row.psnr for row in runs if row.psnr is not None]
        if len(known) > 1:
            deviations.append(statistics.stdev(known) ** 2)
    return math.sqrt(statistics.fmean(deviations)) if deviations else 0.0


def _differences(rows: Iterable[Row], runs: Iterable[Row]) -> Iterator[float]:
    """PSNR of runs less that of the first method with the same data, rate and seed."""
    reference = {
        (row.data, row.rate, row.seed): row.psnr
        for row in rows
        if row.method == METHODS[0]
    }
    for run in runs:
        base = reference.get((run.data, run.rate, run.seed))
        if run.psnr is not None and base is not None:
            yield run.psnr - base


def _limit(rows: Sequence[Row]) -> float:
    """Largest difference of all, for one scale, and at least a tenth of a decibel."""
    differences = map(abs, _differences(rows, rows))
    return max(0.1, 1.15 * max(differences, default=0.0))


def _style(axes: Axes) -> None:
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(which="both", length=0, labelsize=9, colors=_INK)
