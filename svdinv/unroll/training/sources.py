"""Where the problems of a training come from, and how they are made ahead of time."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from svdinv.unroll.problem import Problem, batch
from svdinv.unroll.tasks.task import Source


class FromDataset:
    """Problems of a dataset, such as a `torch.utils.data.Dataset`, shuffled.

    Of ``len(dataset)`` and ``dataset[i]``, each with its truth, without a batch axis,
    of one size; of NumPy or PyTorch. With others to watch the training by. Raises
    ValueError if the dataset is empty.
    """

    def __init__(self, dataset: Any, validation: Sequence[Problem] = ()) -> None:
        if not len(dataset):
            raise ValueError("dataset must not be empty")
        self.dataset, self._validation = dataset, list(validation)
        self.width = 1  # items in a step, over all processes: `Run` sets it

    def batch(self, seed: int, step: int, items: range) -> Problem:
        """Return items of a step; each epoch uses every item once, reshuffled."""
        count = len(self.dataset)
        chosen = []
        # Items of a step are counted on from those of the steps before.
        for item in items:
            epoch, place = divmod((step - 1) * self.width + item, count)
            order = np.random.default_rng([seed, epoch]).permutation(count)
            chosen.append(self.dataset[int(order[place])])
        return batch(chosen)

    def validation(self) -> list[Problem]:
        """Return the problems for validation."""
        return self._validation


class Prefetcher:
    """Make the next batch of a source in a thread while the last is trained on.

    The batches are those of the source, bit by bit.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="svdinv-batches")
        self._next: tuple[Any, Future[Problem]] | None = None

    def batch(self, seed: int, step: int, items: range, last: int) -> Problem:
        """Return a batch, and start loading that of the next step."""
        key = (seed, step, items)
        if self._next is not None and self._next[0] == key:
            made = self._next[1].result()
        else:
            made = self.source.batch(seed, step, items)
        self._next = None
        if step < last:
            following = (seed, step + 1, items)
            self._next = following, self._pool.submit(self.source.batch, *following)
        return made

    def close(self) -> None:
        """Stop the thread."""
        self._pool.shutdown(wait=True, cancel_futures=True)
