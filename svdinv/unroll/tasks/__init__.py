"""What is reconstructed, from what: one folder for each kind of data."""

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
    "Estimate",
    "Given",
    "Options",
    "Task",
    "option",
    "register",
    "task_of",
    "tasks",
]
