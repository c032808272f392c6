"""Sources of the problems of a training, and their preparation in a thread."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from svdinv.unroll.problem import Problem, batch
from svdinv.unroll.tasks.task import Source


class FromDataset:
    """Shuffled problems of a dataset, such as a `torch.utils.data.Dataset`.

    The dataset has ``len(dataset)`` and ``dataset[i]``: problems of the same size with
    truth and without a batch axis, of NumPy or PyTorch. `validation` are further
    problems for validation. Raises ValueError if the dataset is empty.
    """

    def __init__(self, dataset: Any, validation: Sequence[Problem] = ()) -> None:
        if not len(dataset):
            raise ValueError("dataset must not be empty")
        self.dataset, self._validation = dataset, list(validation)
        self.width = 1  # items in a step, over all processes; set by `Run`

    def batch(self, seed: int, step: int, items: range) -> Problem:
        """Return items of a step; each epoch uses every item once, reshuffled."""
        count = len(self.dataset)
        chosen = []
        # Items are numbered consecutively over all steps.
        for item in items:
            epoch, place = divmod((step - 1) * self.width + item, count)
            order = np.random.default_rng([seed, epoch]).permutation(count)
            chosen.append(self.dataset[int(order[place])])
        return batch(chosen)

    def validation(self) -> list[Problem]:
        """Return the problems for validation."""
        return self._validation


class Prefetcher:
    """Prepares the next batch of a source in a thread, without changing batches."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="svdinv-batches")
        self._next: tuple[Any, Future[Problem]] | None = None

    def batch(self, seed: int, step: int, items: range, last: int) -> Problem:
        """Return a batch, and start the preparation of the next one."""
        key = (seed, step, items)
        if self._next is not None and self._next[0] == key:
            problem = self._next[1].result()
        else:
            problem = self.source.batch(seed, step, items)
        self._next = None
        if step < last:
            next_key = (seed, step + 1, items)
            self._next = next_key, self._pool.submit(self.source.batch, *next_key)
        return problem

    def close(self) -> None:
        """Stop the thread."""
        self._pool.shutdown(wait=True, cancel_futures=True)
