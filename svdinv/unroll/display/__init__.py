"""Tables of results: for the terminal, in Markdown and in CSV files.

The modules have pictures, panels and animations.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def cells(values: Mapping[str, float]) -> list[str]:
    """Write numbers with the digits that count: four decimals for SSIM, else two."""
    return [f"{v:.4f}" if name == "SSIM" else f"{v:.2f}" for name, v in values.items()]


def line(first: str, others: Iterable[str], width: int) -> str:
    """Format a table row: a first cell of the given width, then 11 characters each."""
    return f"{first:<{width}}" + "".join(f"{cell:>11}" for cell in others)


def markdown(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1
) -> list[str]:
    """Make the lines of a table in Markdown, its first `left` columns flush left."""
    rule = ["---"] * left + ["---:"] * (len(header) - left)
    return [f"| {' | '.join(row)} |" for row in (header, rule, *rows)]


def comma_separated(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    """Make the content of a CSV file, in UTF-8."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()
