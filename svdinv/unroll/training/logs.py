"""Logs of a training: CSV files, and TensorBoard's events where it is installed."""

from __future__ import annotations

import csv
import io
import os
import socket
import time
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from svdinv.unroll.display import comma_separated
from svdinv.unroll.formats.atomic import replacing

LOG = "log.csv"
VALIDATION = "validation.csv"
EVENTS = "events.out.tfevents.*"
"""Names of the files that TensorBoard reads."""

_PATIENCE = 5.0  # seconds until who looks at the files sees what was written

_COLUMNS = {
    LOG: ("step", "loss", "learning_rate", "gradient_norm"),
    VALIDATION: ("step", "psnr_db"),
}


class Logs:
    """What is written down in a folder, if there is one, while a training runs.

    `step` is that from which the training goes on: later rows of a log that is there
    are dropped, for they will come again.
    """

    def __init__(self, output: Path | None, step: int) -> None:
        self._files: dict[str, io.TextIOWrapper] = {}
        self._writers: dict[str, Any] = {}
        self._board: _Board | None = None
        self._opened = ExitStack()
        self._flushed = time.monotonic()
        if output is None:
            return
        with self._opened:  # closes what was opened if something after it fails
            for name in _COLUMNS:
                _cut(output / name, _COLUMNS[name], step)
                file = (output / name).open("a", encoding="utf-8", newline="")
                self._opened.callback(file.close)
                self._files[name] = file
                self._writers[name] = csv.writer(file, lineterminator="\n")
            if find_spec("tensorboardX"):
                self._board = _Board(output, step)
                self._opened.callback(self._board.close)
            self._opened = self._opened.pop_all()

    def close(self) -> None:
        """Close the files, all of them even if one cannot be written to the end."""
        self._opened.close()

    def step(self, step: int, loss: float, rate: float, length: float) -> None:
        """Write down a step: its loss, learning rate and length of the gradient."""
        self._row(LOG, step, loss, rate, length)
        if self._board is not None and step % 10 == 0:
            self._board.add("training/loss", loss, step)
            self._board.add("training/learning_rate", rate, step)
            self._board.add("training/gradient_norm", length, step)
        if time.monotonic() - self._flushed > _PATIENCE:
            self.flush()

    def validation(self, step: int, decibels: float) -> None:
        """Write down the PSNR of a validation, in dB."""
        self._row(VALIDATION, step, decibels)
        if self._board is not None:
            self._board.add("validation/psnr_db", decibels, step)
        self.flush()

    def flush(self) -> None:
        """Flush the files, so that other programs can read them."""
        for file in self._files.values():
            file.flush()
        if self._board is not None:
            self._board.flush()
        self._flushed = time.monotonic()

    def sync(self) -> None:
        """Bring rows to the disk: a checkpoint must not be there without its own."""
        self.flush()
        for file in self._files.values():
            os.fsync(file.fileno())

    def _row(self, name: str, step: int, *values: float) -> None:
        if name in self._writers:
            self._writers[name].writerow([step, *map(_number, values)])


class _Board:
    """Events for TensorBoard.

    Written at once and in this thread, unlike by `tensorboardX.SummaryWriter`: its own
    thread dies where the disk is full, and whoever hands it an event then waits for
    ever.
    """

    def __init__(self, output: Path, step: int) -> None:
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.proto.summary_pb2 import Summary
        from tensorboardX.record_writer import RecordWriter

        self._event, self._summary = Event, Summary
        if step == 0:
            for old in output.glob(EVENTS):
                old.unlink()
        # In the order in which TensorBoard is to read them, also within one second.
        ending = f"{int(time.time())}.{socket.gethostname()}.{step:09d}"
        self._records = RecordWriter(str(output / EVENTS.replace("*", ending)))
        self._write(file_version="brain.Event:2")
        # From here on TensorBoard forgets what it read in earlier files.
        start = SessionLog(status=SessionLog.START)
        self._write(step=step + 1, session_log=start)

    def add(self, name: str, value: float, step: int) -> None:
        scalar = self._summary.Value(tag=name, simple_value=value)
        self._write(step=step, summary=self._summary(value=[scalar]))

    def flush(self) -> None:
        self._records.flush()

    def close(self) -> None:
        self._records.close()

    def _write(self, **fields: Any) -> None:
        event = self._event(wall_time=time.time(), **fields)
        self._records.write(event.SerializeToString())


def read_log(path: Path) -> list[dict[str, float]]:
    """Read the complete rows of a log of `Logs`; none where there is no such file."""
    if not path.exists():
        return []
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no log of a training: {error}") from error
    lines = csv.DictReader(io.StringIO(text, newline=""))
    columns = _COLUMNS[path.name]
    if lines.fieldnames is None or tuple(lines.fieldnames) != columns:
        raise ValueError(
            f"{path} is no log of a training: its first line is not {','.join(columns)}"
        )
    rows = []
    for row in lines:
        try:  # the last row of a killed run may be cut off
            rows.append({name: float(value) for name, value in row.items()})
        except (TypeError, ValueError):
            break
    return rows


def _cut(path: Path, columns: tuple[str, ...], step: int) -> None:
    """Begin a log, or drop the rows behind a step."""
    try:
        kept = [row for row in read_log(path) if row["step"] <= step] if step else []
    except ValueError:  # it must not stand in the way of the weights
        path.replace(path.with_name(f"{path.name}.damaged"))
        kept = []
    rows = [[_number(row[name]) for name in columns] for row in kept]
    with replacing(path) as stream:
        stream.write(comma_separated(columns, rows))


def _number(value: float) -> str:
    """Write whole numbers without a point, others in full."""
    value = float(value)
    return repr(int(value)) if value.is_integer() else repr(value)
