"""Logs of a training: a CSV file, and TensorBoard where it is installed."""

from __future__ import annotations

import csv
import io
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

from svdinv.unroll.files import replacing

__all__ = ["LOG", "VALIDATION", "Logs", "read_log"]

LOG = "log.csv"
VALIDATION = "validation.csv"
_COLUMNS = {
    LOG: ("step", "loss", "learning_rate", "gradient_norm"),
    VALIDATION: ("step", "psnr_db"),
}


class Logs:
    """What is written down while a training runs.

    Parameters
    ----------
    output : Path or None
        Folder of the logs; None writes nothing.
    step : int
        Step from which the training goes on: later rows of a log that is there are
        dropped, for they will come again.
    """

    def __init__(self, output: Path | None, step: int) -> None:
        self._files: dict[str, io.TextIOWrapper] = {}
        self._writers: dict[str, Any] = {}
        self._board: Any = None
        if output is None:
            return
        for name, columns in _COLUMNS.items():
            path = output / name
            kept = [row for row in read_log(path) if row["step"] <= step]
            with replacing(path) as stream:
                text = io.TextIOWrapper(stream, encoding="utf-8", newline="")
                rows = csv.writer(text, lineterminator="\n")
                rows.writerow(columns)
                rows.writerows([_number(row[c]) for c in columns] for row in kept)
                text.flush()
                text.detach()
            file = path.open("a", encoding="utf-8", newline="")
            self._files[name] = file
            self._writers[name] = csv.writer(file, lineterminator="\n")
        if find_spec("tensorboardX"):
            from tensorboardX import SummaryWriter

            self._board = SummaryWriter(str(output), purge_step=step + 1)

    def __enter__(self) -> Logs:
        """Give itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()
        if self._board is not None:
            self._board.close()

    def step(self, step: int, loss: float, rate: float, length: float) -> None:
        """Write down a step: its loss, learning rate and length of the gradient."""
        self._row(LOG, step, loss, rate, length)
        if self._board is not None and step % 10 == 0:
            self._board.add_scalar("training/loss", loss, step)
            self._board.add_scalar("training/learning_rate", rate, step)
            self._board.add_scalar("training/gradient_norm", length, step)

    def validation(self, step: int, decibels: float) -> None:
        """Write down the PSNR of a validation, in dB."""
        self._row(VALIDATION, step, decibels)
        if self._board is not None:
            self._board.add_scalar("validation/psnr_db", decibels, step)

    def flush(self) -> None:
        """Bring to the disk what was written."""
        for file in self._files.values():
            file.flush()
        if self._board is not None:
            self._board.flush()

    def _row(self, name: str, step: int, *values: float) -> None:
        if name in self._writers:
            self._writers[name].writerow([step, *map(_number, values)])


def read_log(path: Path) -> list[dict[str, float]]:
    """Read a log.

    Parameters
    ----------
    path : Path
        A CSV file that `Logs` wrote.

    Returns
    -------
    list of dict of str to float
        Its complete rows, by column; none where there is no such file.
    """
    if not path.exists():
        return []
    with open(path, encoding="utf-8", newline="") as file:
        rows = []
        for row in csv.DictReader(file):
            try:  # the last row of a killed run may be cut off
                rows.append({name: float(value) for name, value in row.items()})
            except (TypeError, ValueError):
                break
        return rows


def _number(value: float) -> str:
    """Write whole numbers without a point, others in full."""
    return repr(int(value)) if value == int(value) else repr(float(value))
