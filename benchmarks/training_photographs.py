r"""Gather the photographs that the weights for colour were trained on.

They come with four packages, under free licences (see each package's own files), and
are not distributed with svdinv. On Debian 12:

    apt-get download mate-backgrounds lomiri-wallpapers-16.04 \
        plasma-workspace-wallpapers
    pip download --no-deps imgaug==0.4.0
    python benchmarks/training_photographs.py photographs *.deb *.whl

Elsewhere the first three can be had from https://deb.debian.org/debian/pool/main/ or,
once Debian has newer ones, from https://snapshot.debian.org. Needs Pillow.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from PIL import Image

LONGEST = 1024
NATURE = (
    "Blinds Dune FreshFlower Garden GreenMeadow LadyBird RainDrops TwoWings Wood "
    "YellowFlower"
)
PHONE = (
    "Bridge_by_Sander_Klootwijk Dragonfly_by_Bolly Picture_0B_by_freespace "
    "Picture_1A_by_freespace Wine_by_Jakkub_Mede aitzgorri_by_Aitzol_Berasategi "
    "free_by_Peter_Nerlich friends_by_Aitzol_Berasategi greentock_by_Peter_Nerlich "
    "life_by_Aitzol_Berasategi picosdeeuropa_by_Aitzol_Berasategi "
    "seeding_by_Clements_Engelhardt sunset_by_Aitzol_Berasategi"
)
PLASMA = "BytheWater ColorfulCups EveningGlow FallenLeaf Grey OneStandsOut Path"
PICTURES = {
    "7bf4c2209f34b4f61ba6d24c8b58c28b361e82e4b943aae6d42c030169af9e04": {
        f"usr/share/backgrounds/mate/nature/{name}.jpg": name for name in NATURE.split()
    },
    "a99ff6a3bfe451e4cc0682ecb3cc82e71740626d59e4845ae34a0a0e45421eab": {
        f"usr/share/backgrounds/{name}.jpg": name for name in PHONE.split()
    },
    "32cd18b71c8c938a18b3b351f217c02ac590e323caa3cf322fbb875ce8892f8b": {
        f"usr/share/wallpapers/{name}/contents/images/2560x1600.jpg": name
        for name in PLASMA.split()
    },
    "ce61e65b4eb7405fc62c1b0a79d2fa92fd47f763aaecb65152d29243592111f9": {
        "imgaug/quokka.jpg": "quokka"
    },
}
"""Of each package, by its SHA-256, which files, and what they are called here."""

PACKAGES = (
    "mate-backgrounds_1.26.0-1_all.deb",
    "lomiri-wallpapers-16.04_20.04.0-2_all.deb",
    "plasma-workspace-wallpapers_5.27.5-2_all.deb",
    "imgaug-0.4.0-py2.py3-none-any.whl",
)
"""Their names, in the same order."""


def main() -> int:
    """Write the photographs as PNG files, at most `LONGEST` pixels a side."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="folder for the photographs")
    parser.add_argument("packages", type=Path, nargs="+", help="the four packages")
    arguments = parser.parse_args()
    given = {
        hashlib.sha256(path.read_bytes()).hexdigest(): path
        for path in arguments.packages
    }
    for name, digest in zip(PACKAGES, PICTURES, strict=True):
        if digest not in given:
            parser.error(f"{name} is missing, or another version of it was given")
    arguments.output.mkdir(parents=True, exist_ok=True)
    for digest, wanted in PICTURES.items():
        left = dict(wanted)
        for path, content in files(given[digest]):
            if path in left:
                save(content, arguments.output / f"{left.pop(path)}.png")
        if left:
            parser.error(f"{given[digest]} lacks {', '.join(left)}")
    print(f"{sum(map(len, PICTURES.values()))} photographs in {arguments.output}")
    return 0


def files(package: Path) -> Iterator[tuple[str, bytes]]:
    """Read the files of a wheel or of a Debian package, in the order they lie there."""
    if package.suffix == ".whl":
        with zipfile.ZipFile(package) as archive:
            for name in archive.namelist():
                yield name, archive.read(name)
        return
    with tarfile.open(fileobj=io.BytesIO(data_of(package))) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isfile() else None
            if file is not None:
                yield str(PurePosixPath(member.name)), file.read()


def data_of(package: Path) -> bytes:
    """Find the archive of files in a Debian package, which is an ar archive."""
    content = package.read_bytes()
    place = len(b"!<arch>\n")
    while place < len(content):
        header = content[place : place + 60]
        name, size = header[:16].decode().strip(), int(header[48:58])
        if name.startswith("data.tar"):
            return content[place + 60 : place + 60 + size]
        place += 60 + size + size % 2
    raise ValueError(f"{package} is no Debian package")


def save(content: bytes, path: Path) -> None:
    """Scale a picture down and write it."""
    picture = Image.open(io.BytesIO(content)).convert("RGB")
    factor = max(1, max(picture.size) / LONGEST)
    width, height = (round(side / factor) for side in picture.size)
    picture.resize((width, height), Image.Resampling.LANCZOS).save(path)


if __name__ == "__main__":
    sys.exit(main())
