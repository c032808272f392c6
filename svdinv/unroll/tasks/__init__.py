"""Reconstruction tasks, one folder for each kind of data.

`svdinv.unroll.tasks.registry` lists the tasks without importing them.
"""

# ruff: noqa: I001  # one statement for each module
from __future__ import annotations

from typing import TYPE_CHECKING

from svdinv.unroll.plugins import late_attributes

if TYPE_CHECKING:
    from svdinv.unroll.tasks.registry import (
        TaskEntry as TaskEntry,
        add as add,
        entries as entries,
    )
    from svdinv.unroll.tasks.task import (
        Baseline as Baseline,
        InputImage as InputImage,
        Options as Options,
        Reconstruction as Reconstruction,
        Task as Task,
        option as option,
        task_named as task_named,
        task_of as task_of,
    )

__getattr__, __all__ = late_attributes(__name__)
