"""What is reconstructed, from what: one file for each task."""

from svdinv.unroll.tasks.cine import Cine
from svdinv.unroll.tasks.colour import Colour
from svdinv.unroll.tasks.ct import Ct
from svdinv.unroll.tasks.task import (
    Estimate,
    Given,
    Options,
    Task,
    option,
    register,
    task_of,
    tasks,
)

__all__ = [
    "Cine",
    "Colour",
    "Ct",
    "Estimate",
    "Given",
    "Options",
    "Task",
    "option",
    "register",
    "task_of",
    "tasks",
]
