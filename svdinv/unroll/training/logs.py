"""Logs of a training: CSV files, and TensorBoard events with tensorboardX."""

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
from svdinv.unroll.formats.atomic import naming_file, replacing

LOG = "log.csv"
VALIDATION = "validation.csv"
EVENTS = "events.out.tfevents.*"
"""Names of the files that TensorBoard reads."""

_PATIENCE = 5.0  # maximum age of unflushed rows in seconds

_COLUMNS = {
    LOG: ("step", "loss", "learning_rate", "gradient_norm"),
    VALIDATION: ("step", "psnr_db"),
}


class Logs:
    """Log files of a running training; none without an output folder.

    `step` is the step from which the training continues: later rows of existing logs
    are dropped, because they will be written again.
    """

    def __init__(self, output: Path | None, step: int) -> None:
        self._files: dict[str, io.TextIOWrapper] = {}
        self._writers: dict[str, Any] = {}
        self._events: _EventWriter | None = None
        self._opened = ExitStack()
        self._flushed = time.monotonic()
        if output is None:
            return
        with self._opened:  # closes open files if an error follows
            for name in _COLUMNS:
                _cut(output / name, _COLUMNS[name], step)
                file = (output / name).open("a", encoding="utf-8", newline="")
                self._opened.callback(_close, file)
                self._files[name] = file
                self._writers[name] = csv.writer(file, lineterminator="\n")
            if find_spec("tensorboardX"):
                self._events = _EventWriter(output, step)
                self._opened.callback(self._events.close)
            self._opened = self._opened.pop_all()

    def close(self) -> None:
        """Close all files, even if writing to one of them fails."""
        self._opened.close()

    def step(self, step: int, loss: float, rate: float, length: float) -> None:
        """Log a step: its loss, learning rate and norm of the gradient."""
        self._row(LOG, step, loss, rate, length)
        if self._events is not None and step % 10 == 0:
            self._events.add("training/loss", loss, step)
            self._events.add("training/learning_rate", rate, step)
            self._events.add("training/gradient_norm", length, step)
        if time.monotonic() - self._flushed > _PATIENCE:
            self.flush()

    def validation(self, step: int, decibels: float) -> None:
        """Log the PSNR of a validation, in dB."""
        self._row(VALIDATION, step, decibels)
        if self._events is not None:
            self._events.add("validation/psnr_db", decibels, step)
        self.flush()

    def flush(self) -> None:
        """Flush the files, so that other programs can read the rows."""
        for file in self._files.values():
            with naming_file(file.name):
                file.flush()
        if self._events is not None:
            self._events.flush()
        self._flushed = time.monotonic()

    def sync(self) -> None:
        """Write rows to disk, which must happen before the checkpoint is written."""
        self.flush()
        for file in self._files.values():
            with naming_file(file.name):
                os.fsync(file.fileno())

    def _row(self, name: str, step: int, *values: float) -> None:
        if name in self._writers:
            with naming_file(self._files[name].name):
                self._writers[name].writerow([step, *map(_number, values)])


def _close(file: io.TextIOWrapper) -> None:
    with naming_file(file.name):
        file.close()


class _EventWriter:
    """Writer of TensorBoard events.

    It writes immediately and in the calling thread. `tensorboardX.SummaryWriter` has a
    thread, which dies when the disk is full; calls that pass it events then block.
    """

    def __init__(self, output: Path, step: int) -> None:
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.proto.summary_pb2 import Summary
        from tensorboardX.record_writer import RecordWriter

        self._event, self._summary = Event, Summary
        if step == 0:
            for old in output.glob(EVENTS):
                old.unlink()
        # TensorBoard reads files in order of their names, also within one second.
        ending = f"{int(time.time())}.{socket.gethostname()}.{step:09d}"
        self._records = RecordWriter(str(output / EVENTS.replace("*", ending)))
        self._write(file_version="brain.Event:2")
        # TensorBoard discards later steps of earlier files from here on.
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
    """Read the complete rows of a log of `Logs`; none if the file does not exist."""
    if not path.exists():
        return []
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a training log: {error}") from error
    lines = csv.DictReader(io.StringIO(text, newline=""))
    columns = _COLUMNS[path.name]
    if lines.fieldnames is None or tuple(lines.fieldnames) != columns:
        raise ValueError(
            f"{path} is not a training log: its first line is not {','.join(columns)}"
        )
    rows = []
    for row in lines:
        try:  # the last row of a killed run may be cut off
            rows.append({name: float(value) for name, value in row.items()})
        except (TypeError, ValueError):
            break
    return rows


def _cut(path: Path, columns: tuple[str, ...], step: int) -> None:
    """Create a log, or drop the rows after a step."""
    try:
        kept = [row for row in read_log(path) if row["step"] <= step] if step else []
    except ValueError:  # a damaged log must not prevent a training
        path.replace(path.with_name(f"{path.name}.damaged"))
        kept = []
    rows = [[_number(row[name]) for name in columns] for row in kept]
    with replacing(path) as stream:
        stream.write(comma_separated(columns, rows))


def _number(value: float) -> str:
    """Format whole numbers without a decimal point, others with all digits."""
    value = float(value)
    return repr(int(value)) if value.is_integer() else repr(value)
