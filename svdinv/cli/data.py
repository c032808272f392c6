"""``svdinv data``: what the other commands can use, shown and written to files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svdinv.cli.arguments import (
    Parser,
    Subparsers,
    natural,
    need,
    noise,
    positive,
    rate,
    same_file,
    writable_folder,
)

if TYPE_CHECKING:
    import numpy as np

    from svdinv.unroll.training.batches import Case

__all__ = ["add", "run"]

_PHOTOGRAPHS = ("numpy", "skimage", "sklearn")
_PICTURES = ("numpy", "PIL")
_FILES = ("numpy", "h5py")

_PHANTOMS = {
    "cine": "a beating heart, 20 frames a second, blood bright",
    "perfusion": "the first pass of a contrast agent, one frame a beat",
}
_UNIFORM = "uniform"
_FRAMES, _SIZE = 18, 128  # of phantoms
_MOST_FRAMES = 1000  # of 1024 x 1024 pixels they take 8 GB

_EPILOG = """\
examples:
  svdinv data list
  svdinv data show chelsea --output chelsea.png
  svdinv data show cine --output heart.gif
  svdinv data write cine --coils 4 --mask vista --output heart.h5
  svdinv data write cine --series scan.mat --time-axis 2 --output scan.h5
  svdinv data write colour --photograph coffee --rate 0.1 --output coffee.h5

'svdinv data write cine --help' says what is in the files.
"""

_CINE = """\
In the file (HDF5; the zero frequency is at H // 2, W // 2):
  kspace   complex64 (T, H, W), or (T, C, H, W) with --coils; 0 where not sampled
  mask     bool (T, H, W), true where sampled
  maps     complex64 (C, H, W), sensitivities of the coils, with --coils
  truth    complex64 (T, H, W), the series itself, without --no-truth
and as attributes kind = "cine", the options and the version of svdinv.

examples:
  svdinv data write cine --output heart.h5
  svdinv data write cine --contrast perfusion --coils 8 --noise 0.01 --output p.h5
  svdinv data write cine --series scan.npy --mask radial --output scan.h5
"""

_COLOUR = """\
In the file (HDF5):
  samples  float32 (C, H, W), values in [0, 1]; 0 where not sampled
  mask     bool (C, H, W), true where sampled
  truth    float32 (C, H, W), the picture itself, without --no-truth
and as attributes kind = "colour", the options and the version of svdinv.

examples:
  svdinv data write colour --photograph chelsea --rate 0.3 --output cat.h5
  svdinv data write colour --photograph holiday.jpg --crop 256 --output holiday.h5
"""


def add(commands: Subparsers) -> None:
    """Declare the command."""
    data = commands.add_parser(
        "data",
        help="list, show and write photographs, phantoms and sampling masks",
        description=(
            "What the other commands can use: photographs that come with\n"
            "scikit-image and scikit-learn, phantoms of a beating heart, and sampling\n"
            "masks. Lists them, shows them as pictures, and writes undersampled data\n"
            "to files."
        ),
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    data.set_defaults(parser=data, run=run, perform=None)
    actions = data.add_subparsers(
        dest="action", title="subcommands", metavar="subcommand", parser_class=Parser
    )
    _add_list(actions)
    _add_show(actions)
    write = actions.add_parser(
        "write",
        help="write undersampled data to an HDF5 file",
        description="Write undersampled data to an HDF5 file.",
    )
    write.set_defaults(parser=write, perform=None)
    kinds = write.add_subparsers(
        dest="kind", title="kinds", metavar="kind", parser_class=Parser
    )
    _add_cine(kinds)
    _add_colour(kinds)


def run(arguments: argparse.Namespace) -> int:
    """Do what the subcommand says."""
    if arguments.perform is None:
        arguments.parser.print_help()
        return 0
    try:
        arguments.perform(arguments)
    except ValueError as error:
        arguments.parser.error(str(error))
    return 0


def _add_list(actions: Subparsers) -> None:
    listing = actions.add_parser(
        "list",
        help="list all there is",
        description="List photographs with their sizes, phantoms and sampling masks.",
    )
    listing.set_defaults(parser=listing, perform=_list)


def _add_show(actions: Subparsers) -> None:
    show = actions.add_parser(
        "show",
        help="write a picture of one of them",
        description=(
            "Write a photograph, a phantom or a mask as a picture: a series as an "
            "animation if the file ends in .gif, as a sheet of its frames if it ends "
            "in .png. Masks are white where they sample."
        ),
    )
    show.set_defaults(parser=show, perform=_show)
    show.add_argument("name", metavar="NAME", help="a name of 'svdinv data list'")
    show.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help="a .png or .gif file"
    )
    _add_series(show)
    show.add_argument(
        "--rate",
        type=rate,
        default=0.4,
        help="sampling rate of the mask 'uniform' (default: 0.4)",
    )


def _add_cine(kinds: Subparsers) -> None:
    cine = kinds.add_parser(
        "cine",
        help="k-space of a series of images of the heart",
        description=(
            "Write undersampled k-space of a phantom of the beating heart, or of a\n"
            "series of your own, with the mask and the truth."
        ),
        epilog=_CINE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    cine.set_defaults(parser=cine, perform=_write_cine)
    _add_output(cine)
    cine.add_argument(
        "--mask",
        default="vista",
        metavar="NAME",
        help="a mask of 'svdinv data list' (default: vista)",
    )
    cine.add_argument(
        "--coils",
        type=positive,
        metavar="N",
        help="simulate this many receive coils (default: none, one image channel)",
    )
    _add_series(cine)
    cine.add_argument(
        "--contrast",
        choices=tuple(_PHANTOMS),
        help="of the phantom: cine or perfusion (default: cine)",
    )
    cine.add_argument(
        "--series",
        type=Path,
        metavar="FILE",
        help="sample this series instead of a phantom: .npy, .npz, .mat or .h5",
    )
    cine.add_argument(
        "--key", metavar="NAME", help="which array of that file, if it has several"
    )
    cine.add_argument(
        "--time-axis",
        type=int,
        metavar="AXIS",
        help="which axis of that array is time, from 0; MATLAB's (H, W, T) has 2 "
        "(default: the one in front of the last two)",
    )


def _add_colour(kinds: Subparsers) -> None:
    colour = kinds.add_parser(
        "colour",
        help="samples of a photograph",
        description=(
            "Write a part of the values of a photograph, drawn with the same chance\n"
            "in each channel and pixel, with the mask and the truth."
        ),
        epilog=_COLOUR,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    colour.set_defaults(parser=colour, perform=_write_colour)
    _add_output(colour)
    colour.add_argument(
        "--photograph",
        default="chelsea",
        metavar="NAME_OR_FILE",
        help="a photograph of 'svdinv data list', or a picture file (default: chelsea)",
    )
    colour.add_argument(
        "--rate",
        type=rate,
        default=0.4,
        help="sampling rate, the part of the values that is sampled, from 0.01 to "
        "0.99 (default: 0.4)",
    )
    colour.add_argument(
        "--crop",
        type=positive,
        metavar="N",
        help="take the N x N pixels in the middle (default: all)",
    )
    colour.add_argument(
        "--seed", type=natural, default=0, help="draws mask and noise (default: 0)"
    )


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FILE.h5", help="file to write"
    )
    parser.add_argument(
        "--noise",
        type=noise,
        default=0.0,
        metavar="SIGMA",
        help="standard deviation of white noise in the samples, relative to the "
        "largest magnitude of a series, and to 1 for a photograph (default: 0)",
    )
    parser.add_argument(
        "--no-truth", action="store_true", help="leave the truth out of the file"
    )


def _add_series(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seed",
        type=natural,
        default=0,
        help="draws the phantom, the mask and the noise (default: 0)",
    )
    parser.add_argument(
        "--frames",
        type=positive,
        metavar="T",
        help=f"frames of a phantom (default: {_FRAMES})",
    )
    parser.add_argument(
        "--size",
        type=positive,
        metavar="N",
        help=f"rows and columns of a phantom in pixels (default: {_SIZE})",
    )


def _list(arguments: argparse.Namespace) -> None:
    need(arguments.parser, _PHOTOGRAPHS, "train")

    from svdinv.unroll.data import PHOTOS, TEST, photograph, split
    from svdinv.unroll.tasks.cine import MASKS

    training = split(*TEST)
    print("photographs, rows x columns:")
    for name in PHOTOS:
        height, width, _ = photograph(name).shape
        use = "training" if name in training else "other view of a test photograph"
        if name in TEST:
            use = "test: never seen by the weights in svdinv"
        print(f"  {name:<22} {f'{height} x {width}':<12} {use}")
    print("\nphantoms, series of any size and number of frames:")
    for name, what in _PHANTOMS.items():
        print(f"  {name:<22} {what}")
    print("\nmasks of series, in k-space:")
    for name, what in MASKS.items():
        print(f"  {name:<22} {what}")
    print("\nmask of photographs:")
    print(f"  {_UNIFORM:<22} each value of each channel with the same chance")


def _show(arguments: argparse.Namespace) -> None:
    parser, name = arguments.parser, arguments.name
    need(parser, _PICTURES, "train")

    from svdinv.unroll.data import PHOTOS
    from svdinv.unroll.display.pictures import (
        contact_sheet,
        save_animation,
        save_picture,
    )
    from svdinv.unroll.tasks.cine import MASKS

    moving = (*_PHANTOMS, *MASKS)
    known = (*PHOTOS, *moving, _UNIFORM)
    if name not in known:
        parser.error(
            f"argument NAME: there is no {name!r}; there are {', '.join(known)}"
        )
    suffix = arguments.output.suffix.lower()
    fitting = (".png", ".gif") if name in moving else (".png",)
    if suffix not in fitting:
        parser.error(
            f"argument --output: {name} is written to {' or '.join(fitting)}, got "
            f"{arguments.output}"
        )
    if name in PHOTOS:
        need(parser, _PHOTOGRAPHS, "train")
    _size_check(arguments)
    writable_folder(parser, "--output", arguments.output.parent)
    if name not in moving:
        save_picture(arguments.output, _still(arguments))
        return
    frames, seconds = _moving(arguments)
    if suffix == ".gif":
        save_animation(arguments.output, frames, seconds=seconds)
    else:
        save_picture(arguments.output, contact_sheet(frames))


def _still(arguments: argparse.Namespace) -> np.ndarray:
    import numpy as np

    from svdinv.unroll.data import photograph
    from svdinv.unroll.data.masks import uniform_mask

    if arguments.name != _UNIFORM:
        return photograph(arguments.name)
    rng = np.random.default_rng(arguments.seed)
    size = arguments.size or _SIZE
    return uniform_mask((size, size, 3), arguments.rate, rng).astype(np.float32)


def _moving(arguments: argparse.Namespace) -> tuple[np.ndarray, float]:
    """Frames in [0, 1], and the seconds of each."""
    import numpy as np

    from svdinv.unroll.data.phantom import heart
    from svdinv.unroll.tasks.cine import sampling

    frames, size = arguments.frames or _FRAMES, arguments.size or _SIZE
    if arguments.name not in _PHANTOMS:
        rng = np.random.default_rng(arguments.seed)
        mask = sampling(arguments.name, (frames, size, size), rng)
        return mask.astype(np.float32), 0.2
    phantom = heart(frames, size, size, seed=arguments.seed, contrast=arguments.name)
    magnitudes = np.abs(phantom.series)
    # A beat is slow to watch.
    seconds = float(phantom.times[1] - phantom.times[0]) if frames > 1 else 0.05
    return magnitudes / magnitudes.max(), min(seconds, 0.2)


def _write_cine(arguments: argparse.Namespace) -> None:
    parser = arguments.parser
    need(parser, _FILES, "mri")

    from svdinv.unroll.tasks.cine import MASKS
    from svdinv.unroll.training.batches import noisy

    if arguments.mask not in MASKS:
        parser.error(
            f"argument --mask: must be one of {', '.join(MASKS)}, got "
            f"{arguments.mask!r}"
        )
    made = ("frames", "size", "contrast")
    given = ("key", "time_axis")
    for name in given if arguments.series is None else made:
        if getattr(arguments, name) is not None:
            parser.error(
                f"argument --{name.replace('_', '-')}: "
                + ("needs --series" if name in given else "has no use with --series")
            )
    _size_check(arguments)
    _output_check(arguments)
    case, options = _cine_case(arguments)
    case = (
        noisy(case, arguments.noise, seed=arguments.seed) if arguments.noise else case
    )
    _write(arguments, case, options)


def _cine_case(arguments: argparse.Namespace) -> tuple[Case, dict[str, Any]]:
    from svdinv.unroll.data import read_series
    from svdinv.unroll.data.phantom import coil_maps, heart
    from svdinv.unroll.tasks.cine import case

    options: dict[str, Any] = {"mask_name": arguments.mask, "coils": arguments.coils}
    if arguments.series is None:
        options |= {
            "frames": arguments.frames or _FRAMES,
            "size": arguments.size or _SIZE,
            "contrast": arguments.contrast or "cine",
        }
        size = options["size"]
        phantom = heart(
            options["frames"],
            size,
            size,
            seed=arguments.seed,
            coils=arguments.coils,
            contrast=options["contrast"],
        )
        name = f"{options['contrast']} {arguments.seed}"
        series, maps = phantom.series, phantom.maps
    else:
        axis = -3 if arguments.time_axis is None else arguments.time_axis
        series = read_series(arguments.series, arguments.key, time_axis=axis)
        if series.ndim != 3:
            raise ValueError(
                f"argument --series: {arguments.series} must hold a series (T, H, W), "
                f"got the shape {series.shape}"
            )
        options["series"] = arguments.series.name
        name, maps = arguments.series.stem, None
        if arguments.coils:
            maps = coil_maps(arguments.coils, *series.shape[1:], seed=arguments.seed)
    return case(name, series, arguments.mask, seed=arguments.seed, maps=maps), options


def _write_colour(arguments: argparse.Namespace) -> None:
    parser = arguments.parser
    need(parser, _FILES, "mri")

    from svdinv.unroll.data import PHOTOS, centre_crop, photograph, read_picture
    from svdinv.unroll.tasks.colour import case
    from svdinv.unroll.training.batches import noisy

    known = arguments.photograph in PHOTOS
    need(parser, _PHOTOGRAPHS if known else _PICTURES, "train")
    _output_check(arguments)
    if known:
        name, image = arguments.photograph, photograph(arguments.photograph)
    else:
        name = Path(arguments.photograph).stem
        try:
            image = read_picture(arguments.photograph, largest=None)
        except ValueError as error:
            parser.error(
                f"argument --photograph: {error}; names are {', '.join(PHOTOS)}"
            )
    if arguments.crop:
        image = centre_crop(image, arguments.crop)
    made = case(name, image, arguments.rate, seed=arguments.seed)
    made = (
        noisy(made, arguments.noise, seed=arguments.seed) if arguments.noise else made
    )
    _write(arguments, made, {"photograph": name, "rate": arguments.rate})


def _size_check(arguments: argparse.Namespace) -> None:
    """Refuse what the phantom and the masks cannot be."""
    if arguments.size is not None and not 32 <= arguments.size <= 1024:
        arguments.parser.error(
            f"argument --size: must lie in [32, 1024], got {arguments.size}"
        )
    if arguments.frames is not None and arguments.frames > _MOST_FRAMES:
        arguments.parser.error(
            f"argument --frames: must be at most {_MOST_FRAMES}, got {arguments.frames}"
        )


def _output_check(arguments: argparse.Namespace) -> None:
    if arguments.output.suffix.lower() not in (".h5", ".hdf5"):
        arguments.parser.error(
            f"argument --output: must end in .h5, got {arguments.output}"
        )
    given = vars(arguments)
    source = given.get("series") or given.get("photograph")
    if source is not None and same_file(arguments.output, source):
        arguments.parser.error(f"argument --output: would replace {source}")
    writable_folder(arguments.parser, "--output", arguments.output.parent)


def _write(arguments: argparse.Namespace, case: Case, options: dict[str, Any]) -> None:
    from svdinv.unroll.data.measurements import write_measurement

    options |= {"seed": arguments.seed, "noise": arguments.noise}
    known = {name: value for name, value in options.items() if value is not None}
    write_measurement(
        arguments.output, case, truth=not arguments.no_truth, options=known
    )
    shape = " x ".join(map(str, case.samples.shape))
    share = case.measurement[0].mean()
    print(f"{arguments.output}: {case.name}, {shape}, {share:.1%} sampled")
