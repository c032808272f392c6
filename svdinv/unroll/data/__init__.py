"""Pictures, photographs, sampling masks and noise that several tasks use."""

from svdinv.unroll.data.pictures import (
    HELD_OUT,
    PHOTOS,
    SUFFIXES,
    TEST,
    Image,
    centre_crop,
    patches,
    photograph,
    read_picture,
    split,
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
