"""Colour photographs from incomplete samples."""

from svdinv.unroll.data.pictures import PHOTOS, SUFFIXES
from svdinv.unroll.tasks.registry import TaskEntry

COLOUR_TASK = TaskEntry(
    kind="colour",
    location="svdinv.unroll.tasks.colour.task:Colour",
    axes="B C H W",
    channels=3,
    images="photographs",
    inputs=f"a picture ({', '.join(SUFFIXES)}), nor a photograph that comes with "
    f"svdinv ({', '.join(PHOTOS)})",
    dataset="samples",
    companions=("mask",),
    names=dict.fromkeys(PHOTOS, "photograph"),
    heading="photographs, rows x columns",
    pictures=("uniform",),
    suffixes=SUFFIXES,
    options=("rate", "mask", "noise", "crop"),
    plurals={"rate": "rates", "mask": "masks"},
    needs=("skimage", "sklearn"),
)

TASKS = (COLOUR_TASK,)
