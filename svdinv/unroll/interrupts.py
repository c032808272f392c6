"""Long work: its progress bar, and Ctrl-C at points where results are complete."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from svdinv._missing import needing


def progress_bar(total: int, *, shown: bool | None = None, **options: Any) -> Any:
    """Make a bar of tqdm, by default where stderr is a terminal."""
    with needing("tqdm", "unroll"):
        from tqdm import tqdm
    hidden = None if shown is None else not shown
    return tqdm(total=total, file=sys.stderr, disable=hidden, **options)


@contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """Note the first Ctrl-C or SIGTERM; the second ends the program as usual."""
    first: list[float] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # signals reach the main thread only
        return
    handlers = {int(number): signal.getsignal(number) for number in _SIGNALS}
    # Ignored signals stay ignored, and a handler None could not be restored.
    before = {n: h for n, h in handlers.items() if h not in (signal.SIG_IGN, None)}

    def note(number: int, frame: FrameType | None) -> None:
        if not first:
            first.append(time.monotonic())
        # torchrun hands on what the terminal has sent to all: that is no second one.
        elif time.monotonic() - first[0] > _ONE_PRESS:
            signal.signal(number, before[number])
            signal.raise_signal(number)

    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: bool(first)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_ONE_PRESS = 1.0  # seconds
