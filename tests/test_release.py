"""What a release promises: public names, versions, licences."""

from __future__ import annotations

import importlib
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMES = Path(__file__).with_name("public_names.txt")

# Public modules, and what they need. Run this file as a program to print the names.
MODULES = {
    "svdinv": None,
    "svdinv.core": None,
    "svdinv.operators": None,
    "svdinv.numpy": "numpy",
    "svdinv.cupy": "cupy",
    "svdinv.dask": "dask.array",
    "svdinv.jax": "jax",
    "svdinv.mlx": "mlx.core",
    "svdinv.tf": "tensorflow",
    "svdinv.torch": "torch",
    "svdinv.torch.nn": "torch",
    "svdinv.keras": "keras",
    "svdinv.unroll.algorithms": "numpy",
    "svdinv.unroll.data": "numpy",
    "svdinv.unroll.fidelity": "numpy",
    "svdinv.unroll.formats": "numpy",
    "svdinv.unroll.keras": "keras",
    "svdinv.unroll.manual": "numpy",
    "svdinv.unroll.metrics": "numpy",
    "svdinv.unroll.networks": "numpy",
    "svdinv.unroll.operators": "numpy",
    "svdinv.unroll.pretrained": "torch",
    "svdinv.unroll.priors": "numpy",
    "svdinv.unroll.problem": "numpy",
    "svdinv.unroll.torch": "torch",
    "svdinv.unroll.untrained": "torch",
}


def names_of(module):
    return {f"{module}:{name}" for name in importlib.import_module(module).__all__}


@pytest.mark.parametrize("module", MODULES)
def test_public_names_do_not_shrink(module):
    if MODULES[module] is not None:
        pytest.importorskip(MODULES[module])
    listed = {
        line
        for line in NAMES.read_text(encoding="utf-8").split()
        if line.startswith(f"{module}:")
    }
    assert listed
    assert listed <= names_of(module)
    for line in listed:
        getattr(importlib.import_module(module), line.partition(":")[2])


def test_one_version():
    with (ROOT / "pyproject.toml").open("rb") as file:
        version = tomllib.load(file)["project"]["version"]
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: (.*)$", citation, re.M) == [version]


def test_changelog_keeps_its_form():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    releases = re.findall(r"^## (.*)", text, re.M)
    assert releases[0] == "[Unreleased]"
    for release in releases[1:]:
        assert re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", release)
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.*)", text, re.M)) <= kinds


def test_licences_of_all_data_are_listed():
    page = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
    data = [*ROOT.glob("svdinv/**/*.npz"), *ROOT.glob("svdinv/**/*.safetensors")]
    assert data
    for path in data:
        assert f"`{path.relative_to(ROOT).as_posix()}`" in page


def test_pinned_packages_run_on_each_python_3_11():
    """Debian 12 has 3.11.2, which a pin made by a later one may leave out."""
    specifiers = pytest.importorskip("packaging.specifiers")
    pins = (ROOT / "requirements" / "test.txt").read_text()
    refused = []
    for name, version in re.findall(r"^([\w.-]+)==(\S+)", pins, re.MULTILINE):
        try:
            found = metadata.metadata(name)
        except metadata.PackageNotFoundError:
            continue  # of another platform
        due = specifiers.SpecifierSet(found.get("Requires-Python") or "")
        if found["Version"] == version and "3.11.0" not in due:
            refused.append(name)
    assert not refused


if __name__ == "__main__":
    names = sorted(name for module in MODULES for name in names_of(module))
    sys.stdout.write("\n".join(names) + "\n")
