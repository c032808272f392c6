"""Pictures, photographs, sampling masks and noise: what the tasks share."""

from svdinv.unroll.data.photographs import (
    HELD_OUT,
    PHOTOS,
    TEST,
    photograph,
    split,
)
from svdinv.unroll.data.pictures import (
    SUFFIXES,
    Image,
    centre_crop,
    patches,
    read_picture,
)

__all__ = [
    "HELD_OUT",
    "PHOTOS",
    "SUFFIXES",
    "TEST",
    "Image",
    "centre_crop",
    "patches",
    "photograph",
    "read_picture",
    "split",
]
