"""Tables of results: for the terminal, in Markdown and in CSV files."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = ["cells", "comma_separated", "line", "markdown"]


def cells(values: Mapping[str, float]) -> list[str]:
    """Write numbers with the digits that count.

    Parameters
    ----------
    values : mapping of str to float
        Metrics and times by name.

    Returns
    -------
    list of str
        With four decimals for SSIM, and two for others.
    """
    return [f"{v:.4f}" if name == "SSIM" else f"{v:.2f}" for name, v in values.items()]


def line(first: str, others: Iterable[str], width: int) -> str:
    """Give a line of a table for the terminal.

    Parameters
    ----------
    first : str
        Cell at the left.
    others : iterable of str
        Other cells, each of them flush right in 11 characters.
    width : int
        Characters of the first cell.

    Returns
    -------
    str
        The line.
    """
    return f"{first:<{width}}" + "".join(f"{cell:>11}" for cell in others)


def markdown(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1
) -> list[str]:
    """Make a table in Markdown.

    Parameters
    ----------
    header : sequence of str
        Names of the columns.
    rows : iterable of sequence of str
        Cells.
    left : int
        How many columns are flush left; the others are flush right.

    Returns
    -------
    list of str
        Lines.
    """
    rule = ["---"] * left + ["---:"] * (len(header) - left)
    return [f"| {' | '.join(row)} |" for row in (header, rule, *rows)]


def comma_separated(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    """Make the content of a CSV file.

    Parameters
    ----------
    header : sequence of str
        Names of the columns.
    rows : iterable of sequence of object
        Cells.

    Returns
    -------
    bytes
        The file, in UTF-8.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()
