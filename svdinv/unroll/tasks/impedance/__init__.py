"""Electrical impedance tomography."""

from pathlib import Path

from svdinv.unroll.formats.checks import matlab_names
from svdinv.unroll.tasks.registry import TaskEntry

TANKS = {
    "tank": "resistive and conductive objects in water, drawn from --seed",
    "tank-1": "one resistive and one conductive object",
    "lungs": "two resistive lungs and a conductive heart",
}
"""Phantoms by name."""

_HERE = "svdinv.unroll.tasks.impedance"

EIT = TaskEntry(
    kind="eit",
    location=f"{_HERE}.eit:Eit",
    axes="B C H W",
    channels=1,
    images="conductivities",
    inputs=f"a phantom of impedance tomography ({', '.join(TANKS)}), nor a measurement "
    "of the Kuopio challenge (data1.mat in the folder of a level)",
    dataset="voltages",
    companions=("currents", "nodes", "triangles"),
    names=TANKS,
    heading="phantoms of impedance tomography",
    contents={".mat": f"{_HERE}:holds_tank"},
    options=("noise", "electrodes", "missing", "size"),
    needs=("scipy",),
)

TASKS = (EIT,)


def holds_tank(path: Path) -> bool:
    """Check by its variables whether a file is a measurement of the challenge."""
    number = path.stem.removeprefix("data")
    return number.isdigit() and {"Inj", "Mpat", "Uel"} <= matlab_names(path)
