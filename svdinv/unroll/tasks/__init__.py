"""What is reconstructed, from what: one folder for each kind of data.

`svdinv.unroll.tasks.registry` knows tasks without importing them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from svdinv.unroll.plugins import late_attributes

if TYPE_CHECKING:
    from svdinv.unroll.tasks.registry import TaskEntry, add, entries
    from svdinv.unroll.tasks.task import (
        InputImage,
        Options,
        Reconstruction,
        Task,
        option,
        task_named,
        task_of,
    )

__all__ = [
    "InputImage",
    "Options",
    "Reconstruction",
    "Task",
    "TaskEntry",
    "add",
    "entries",
    "option",
    "task_named",
    "task_of",
]

_NAMES = {
    "registry": ("TaskEntry", "add", "entries"),
    "task": (
        "Reconstruction",
        "InputImage",
        "Options",
        "Task",
        "option",
        "task_named",
        "task_of",
    ),
}

__getattr__ = late_attributes(__name__, _NAMES)
