"""Progress bars, and Ctrl-C deferred to points where results are complete."""

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


def progress_bar(total: int, *, visible: bool | None = None, **options: Any) -> Any:
    """Return a tqdm progress bar, by default visible if stderr is a terminal."""
    with needing("tqdm", "unroll"):
        from tqdm import tqdm
    hidden = None if visible is None else not visible
    if sys.stderr is None:  # closed by the shell
        hidden = True
    return tqdm(total=total, file=sys.stderr, disable=hidden, **options)


@contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """Yield a test for a first Ctrl-C or SIGTERM; a second one ends the program."""
    times: list[float] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # only the main thread receives signals
        return
    handlers = {int(number): signal.getsignal(number) for number in _SIGNALS}
    # Ignored signals stay ignored, and a handler None could not be restored.
    previous = {n: h for n, h in handlers.items() if h not in (signal.SIG_IGN, None)}

    def record(number: int, frame: FrameType | None) -> None:
        if not times:
            times.append(time.monotonic())
        # torchrun forwards a signal that the terminal has sent to all its processes.
        elif time.monotonic() - times[0] > _ONE_PRESS:
            signal.signal(number, previous[number])
            signal.raise_signal(number)

    for number in previous:
        signal.signal(number, record)
    try:
        yield lambda: bool(times)
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)


_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_ONE_PRESS = 1.0  # seconds
