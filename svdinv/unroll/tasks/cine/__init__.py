"""Dynamic MRI: series of the heart from undersampled k-space."""

from svdinv.unroll.formats.table import SUFFIXES
from svdinv.unroll.tasks.registry import TaskEntry

HEARTS = {
    "short-axis": "slice 10 of the short axis: both ventricles in their middle",
    "base": "slice 19 of the short axis: the great vessels at the base",
    "long-axis": "slice 7 of the long axis: atria and ventricles",
    "edge": "slice 13 of the long axis, the outermost: the wall of a ventricle",
}
"""Built-in series and their descriptions. The weights that come with the package were
not trained on these slices, but on other slices of the same heart."""

PHANTOMS = {
    "cine": "a beating heart, 20 frames a second, blood bright",
    "perfusion": "the first pass of a contrast agent, one frame a beat",
}
"""Phantoms and their descriptions."""

CINE = TaskEntry(
    kind="cine",
    location="svdinv.unroll.tasks.cine.task:Cine",
    axes="B T H W",
    images="series",
    inputs=f"a series ({', '.join(SUFFIXES)}, a folder of DICOM files)",
    dataset="kspace",
    companions=("mask",),
    names={**HEARTS, **PHANTOMS},
    pictures=("radial", "variable-density", "vista", "equispaced"),
    suffixes=SUFFIXES,
    contents={"": "svdinv.unroll.formats.dicom:holds_dicom"},
    options=(
        "mask",
        "acceleration",
        "coils",
        "noise",
        "key",
        "slice",
        "holds",
        "frames",
        "size",
        "time_axis",
    ),
    plurals={"mask": "masks"},
)

TASKS = (CINE,)
