"""Trainings of a second: their configurations and data, and what they leave behind."""

from __future__ import annotations

import contextlib
import os
import resource
import struct
from pathlib import Path

import numpy as np
from PIL import Image

from svdinv.unroll.networks import LS, TLR
from svdinv.unroll.networks.weights import WEIGHTS
from svdinv.unroll.operators import MRI, Sampling
from svdinv.unroll.problem import Problem
from svdinv.unroll.tasks.cine.task import Cine
from svdinv.unroll.tasks.colour.task import Colour
from svdinv.unroll.training.config import CHECKPOINT, CONFIG, Config, Training
from svdinv.unroll.training.logs import EVENTS, LOG, VALIDATION

ROOT = Path(__file__).parents[2]
NETWORK = TLR(cells=2, features=4, block=8, start="fill", side="samples")
TRAINING = Training(steps=20, batch=4, checkpoint_every=6, validate_every=8)
RESULTS = (WEIGHTS, CHECKPOINT, CONFIG, LOG, VALIDATION)


def pictures(folder, count=4, size=40, seed=5):
    """Write smooth pictures, and give their folder."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:size, 0:size] / size
    for i in range(count):
        phases = rng.uniform(0, 6, 3)
        waves = [np.sin(5 * x + p) * np.cos(7 * y - p) for p in phases]
        pixels = 127 * (1 + np.stack(waves, -1))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    return folder


def colour(folder=None, *, training=TRAINING, network=NETWORK, **options):
    task = Colour(
        photographs=() if folder is None else (str(folder),),
        patch=16,
        validation=1,
        **options,
    )
    return Config(task=task, network=network, training=training)


def cine(*, training=None, **options):
    settings = {"series": 2, "frames": 4, "size": 32, "validation": 1} | options
    training = training or Training(
        steps=4, batch=2, checkpoint_every=3, validate_every=4
    )
    return Config(
        task=Cine(**settings), network=LS(cells=2, features=4), training=training
    )


class Given:
    """Data of one's own: the same images at each step, with all pixels known but few.

    Items are numbered through the steps, so that processes can share them.
    """

    def __init__(self, images, bad_step=None):
        self.images, self.bad_step = images, bad_step

    def batch(self, seed, step, items):
        drawn = [self.images[i % len(self.images)] for i in items]
        truth = np.stack(drawn).astype(np.float32)
        if step == self.bad_step:
            truth[0, 0, 0, 0] = np.nan
        rng = np.random.default_rng((seed, step))
        mask = rng.random(truth.shape) < 0.5
        return batch_of(np.where(mask, truth, np.float32(0)), (mask,), truth)

    def validation(self):
        return []


def batch_of(y, measurement, truth):
    """A batch: of images if the truth is real, else of series."""
    mask, *maps = measurement
    series = np.iscomplexobj(truth)
    own = maps[0][:, None] if maps else None
    A = MRI(mask, own) if series else Sampling(mask)
    return Problem(y, A, truth=truth)


def measurement_of(batch):
    """Mask and, with coils, maps of a batch."""
    maps = getattr(batch.A, "maps", None)
    return (batch.A.mask,) if maps is None else (batch.A.mask, maps[:, 0])


def noise(count=4, size=16, seed=3):
    return np.random.default_rng(seed).random((count, 3, size, size))


def results(folder):
    """What a training left, to compare with that of another."""
    return {name: (folder / name).read_bytes() for name in RESULTS}


def environment(**more):
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | more


@contextlib.contextmanager
def largest_file(size):
    """Let writes behind so many bytes of a file fail, as where the disk is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def events(folder):
    """Scalars as TensorBoard would show them: {tag: {step: value}}.

    Files in the order of their names; a start of a session drops what is not before
    its step.
    """
    from tensorboardX.crc32c import crc32c
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    def masked(data):
        x = crc32c(data)
        return ((x >> 15 | x << 17) + 0xA282EAD8) & 0xFFFFFFFF

    shown, versions = {}, []
    for path in sorted(folder.glob(EVENTS)):
        data = path.read_bytes()
        while len(data) >= 12:
            (length,) = struct.unpack("<Q", data[:8])
            if len(data) < length + 16:
                break  # the end of a file whose writer was killed
            body = data[12 : 12 + length]
            assert struct.unpack("<I", data[8:12])[0] == masked(data[:8])
            assert struct.unpack("<I", data[12 + length : 16 + length])[0] == masked(
                body
            )
            data = data[16 + length :]
            event = Event.FromString(body)
            if event.HasField("file_version"):
                versions.append(event.file_version)
            if event.session_log.status == SessionLog.START:
                shown = {
                    tag: {s: v for s, v in values.items() if s < event.step}
                    for tag, values in shown.items()
                }
            for value in event.summary.value:
                of_tag = shown.setdefault(value.tag, {})
                assert event.step not in of_tag
                of_tag[event.step] = value.simple_value
    assert set(versions) <= {"brain.Event:2"}
    return shown
