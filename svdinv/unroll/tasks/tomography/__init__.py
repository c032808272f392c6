"""Tomography: CT, spectral CT and PET."""

from svdinv.unroll.tasks.registry import TaskEntry

DENSITIES = {
    "shepp-logan": "the head of Shepp and Logan, with more contrast",
    "head-1": "the same with other proportions",
    "head-2": "the same with other proportions",
    "walnut-1": "a shell with a folded kernel",
    "walnut-2": "a shell with a folded kernel",
    "ellipses": "ellipses as in the training of networks, drawn from --seed",
    "shapes": "ellipses and rectangles, drawn from --seed",
}
"""Phantoms of densities by name."""

ACTIVITIES = {
    "kinetic": "frames of a slice of a head, with time-activity curves from --seed",
    "kinetic-sum": "the same summed over the scan, one image",
    "activity-ellipses": "ellipses as in the training of networks, from --seed",
}
"""Phantoms of activities by name."""

_HERE = "svdinv.unroll.tasks.tomography"
_SCAN = ("angles", "geometry")
_OPTIONS = ("finer", "views", "arc", "beam", "photons", "noise", "size", "crop")

CT = TaskEntry(
    kind="ct",
    location=f"{_HERE}.ct:Ct",
    axes="B C H W",
    channels=1,
    images="densities",
    inputs=f"a phantom of tomography ({', '.join(DENSITIES)}), nor a picture as one "
    "(density:FILE), nor a sinogram of the Helsinki challenge (.mat)",
    dataset="sinogram",
    companions=_SCAN,
    ndim=2,
    names=DENSITIES,
    heading="phantoms of tomography",
    prefixes=("density:",),
    contents={".mat": f"{_HERE}.htc:holds_htc"},
    options=_OPTIONS,
    needs=("scipy",),
)

PET = TaskEntry(
    kind="pet",
    location=f"{_HERE}.pet:Pet",
    axes="B C H W",
    images="activities",
    inputs=f"a phantom of emission tomography ({', '.join(ACTIVITIES)}), nor a picture "
    "or a density as one (activity:NAME)",
    dataset="counts",
    companions=_SCAN,
    names=ACTIVITIES,
    heading="phantoms of emission tomography",
    prefixes=("activity:",),
    options=("finer", "views", "counts", "background", "attenuation", "size", "frames"),
    plurals={"counts": "counts"},
    needs=("scipy",),
)

SPECTRAL = TaskEntry(
    kind="spectral-ct",
    location=f"{_HERE}.spectral:SpectralCt",
    axes="B C H W",
    images="attenuation in bins of energy",
    inputs="a density or a picture as materials in bins of energy (spectral:NAME)",
    dataset="sinogram",
    companions=_SCAN,
    ndim=3,
    names={f"spectral:{name}": what for name, what in DENSITIES.items()},
    heading="phantoms of spectral tomography",
    prefixes=("spectral:",),
    options=(*_OPTIONS, "bins"),
    needs=("scipy",),
)

TASKS = (CT, PET, SPECTRAL)
