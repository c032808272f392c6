"""Commands in processes of their own, without seconds of imports for each.

One process imports all that a training does, computes nothing, and forks for every
command: what is killed, or talks to others, is a real process.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from small_trainings import environment

PATIENCE = 600  # seconds; machines may be busy


class Fork:
    """A command that runs, or ran."""

    def __init__(self, ask, pid, folder):
        self._ask, self.pid, self._folder = ask, pid, folder
        self._code = None

    def poll(self):
        """Give the exit code, or minus the signal; None while it runs."""
        if self._code is None:
            self._code = self._ask(wait=self.pid)
        return self._code

    def send_signal(self, number):
        os.kill(self.pid, number)

    def until(self, condition):
        """Wait for something to come true while it runs."""
        end = time.monotonic() + PATIENCE
        while not condition():
            assert self.poll() is None, self.err
            assert time.monotonic() < end
            time.sleep(0.01)

    def wait(self):
        end = time.monotonic() + PATIENCE
        while self.poll() is None:
            if time.monotonic() > end:
                self.send_signal(signal.SIGKILL)
                raise TimeoutError(self.err)
            time.sleep(0.01)
        return self.poll()

    @property
    def out(self):
        return (self._folder / f"{self.pid}.out").read_text()

    @property
    def err(self):
        return (self._folder / f"{self.pid}.err").read_text()


@contextlib.contextmanager
def heeding_ctrl_c():
    """Let processes that are started within not inherit that it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def forking(folder):
    """Give what starts ``svdinv train`` with arguments, or some code, in a process."""
    with heeding_ctrl_c():
        server = subprocess.Popen(
            [sys.executable, "-W", "error", __file__, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        )
    started = []

    def ask(**order):
        server.stdin.write(json.dumps(order) + "\n")
        server.stdin.flush()
        return json.loads(server.stdout.readline())

    def start(*arguments, code=None, **variables):
        order = {"arguments": [*map(str, arguments)], "code": code}
        started.append(Fork(ask, ask(**order, variables=variables), folder))
        return started[-1]

    try:
        yield start
    finally:
        for process in started:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.wait()
        server.communicate()
        assert server.returncode == 0


# What a training imports when it first needs it, PyTorch's optimisers the first.
IMPORTED = (
    "torch._dynamo",
    "torch.distributed.nn",
    "safetensors.numpy",
    "skimage.io",
    "skimage.restoration",
    "tensorboardX",
    "tomlkit",
    "svdinv.cli.train",
    "svdinv.unroll.training.command",
    "svdinv.unroll.training.run",
    "svdinv.unroll.tasks.cine.task",
    "svdinv.unroll.tasks.colour.task",
)


def serve(folder):
    from svdinv.cli import main

    for name in IMPORTED:
        importlib.import_module(name)
    replies = os.dup(1)

    def run(order):
        for number, ending in ((1, "out"), (2, "err")):
            name = folder / f"{os.getpid()}.{ending}"
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ.update(order["variables"])
        if order["code"] is None:
            return main(["train", *order["arguments"]])
        sys.argv = ["code", *order["arguments"]]
        exec(order["code"], {"__name__": "__main__"})
        return 0

    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            pid, status = os.waitpid(order["wait"], os.WNOHANG)
            reply = os.waitstatus_to_exitcode(status) if pid else None
        else:
            reply = os.fork()
            if reply == 0:
                code = 70
                try:
                    code = run(order)
                except SystemExit as stop:
                    code = stop.code
                except BaseException:
                    sys.excepthook(*sys.exc_info())
                finally:
                    sys.stdout.flush()
                    sys.stderr.flush()
                    os._exit(code)
        os.write(replies, f"{json.dumps(reply)}\n".encode())


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
