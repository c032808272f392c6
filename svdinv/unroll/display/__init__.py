"""Tables of results for the terminal, Markdown and CSV files.

Pictures, panels and animations are in the modules `pictures` and `panels`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def cells(values: Mapping[str, float]) -> list[str]:
    """Format metrics, with four decimals for SSIM and two for others."""
    return [f"{v:.4f}" if name == "SSIM" else f"{v:.2f}" for name, v in values.items()]


def line(first: str, others: Iterable[str], width: int) -> str:
    """Format a table row: a first cell of the given width, others of 11 characters."""
    return f"{first:<{width}}" + "".join(f"{cell:>11}" for cell in others)


def markdown(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1
) -> list[str]:
    """Return the lines of a Markdown table, with `left` left-aligned columns."""
    rule = ["---"] * left + ["---:"] * (len(header) - left)
    return [f"| {' | '.join(row)} |" for row in (header, rule, *rows)]


def comma_separated(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    """Return the content of a CSV file, in UTF-8."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()
