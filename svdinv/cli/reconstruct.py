"""``svdinv reconstruct``: one picture or series, by the weights that come with it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svdinv.cli.arguments import (
    NETWORKS,
    Subparsers,
    add_computing,
    natural,
    need,
    positive,
    rate,
    same_file,
    writable_folder,
)

if TYPE_CHECKING:
    from svdinv.unroll.evaluation.inputs import Input, Sampler

__all__ = ["add", "run"]

_NEEDS = (*NETWORKS, "matplotlib", "PIL", "threadpoolctl")
# Classical methods take minutes on larger pictures.
_MOST_PIXELS = 1_000_000

_EPILOG = """\
examples:
  svdinv reconstruct coffee                      a photograph that comes with svdinv
  svdinv reconstruct cat.jpg --rate 0.1          from a tenth of its values
  svdinv reconstruct cat.jpg --mask known.npy    from those that you choose
  svdinv reconstruct scan.npz --mask vista --coils 8
  svdinv reconstruct scan.mat --key images --time-axis 2
  svdinv reconstruct raw.h5 --output out.npz     k-space, as svdinv data writes it

A picture or a series is sampled first, then reconstructed, so that the result can be
compared with the truth. An .h5 file with kspace, mask and perhaps maps is taken as it
was measured. Nothing is downloaded: the weights come with svdinv.

Written are the reconstruction (.png; .npz for series), a picture that compares it with
classical methods and the truth, and an animation (.gif) of series. Ctrl-C ends the
work once the method in hand is done.
"""


def add(commands: Subparsers) -> None:
    """Declare the command."""
    reconstruct = commands.add_parser(
        "reconstruct",
        help="reconstruct a picture or a series of your own",
        description=(
            "Reconstruct a picture from a part of its colour values, or a series of\n"
            "the heart from a part of its k-space, with a trained network."
        ),
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    reconstruct.set_defaults(parser=reconstruct, run=run)
    reconstruct.add_argument(
        "input",
        metavar="INPUT",
        help="picture (.png, .jpg, ...), name of a built-in photograph, series (.npz, "
        ".npy, .mat, .h5; complex or magnitudes), or measured samples (.h5)",
    )
    how = reconstruct.add_mutually_exclusive_group()
    how.add_argument(
        "--rate",
        type=rate,
        help="sampling rate, the part of the values of a picture that is sampled "
        "(default 0.4)",
    )
    how.add_argument(
        "--mask",
        metavar="NAME_OR_FILE",
        help="how the k-space of a series is sampled: radial (default), "
        "variable-density, vista; or a file with a mask, true where sampled, also for "
        "pictures",
    )
    reconstruct.add_argument(
        "--coils",
        type=natural,
        help="number of simulated receive coils for a series (default 0: none)",
    )
    reconstruct.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help="weights.safetensors of svdinv train, instead of those that come with "
        "svdinv",
    )
    reconstruct.add_argument(
        "--ensemble",
        action="store_true",
        help="average over eight mirrored, turned or reversed versions: better, in "
        "eight times the time",
    )
    reconstruct.add_argument(
        "--baselines",
        action=argparse.BooleanOptionalAction,
        help="compare with classical methods (default: yes, unless the picture has "
        f"more than {_MOST_PIXELS / 1e6:g} million pixels)",
    )
    reconstruct.add_argument(
        "--crop",
        type=positive,
        metavar="PIXELS",
        help="crop a picture around its middle to this many pixels a side, at least 32",
    )
    reconstruct.add_argument(
        "--key", help="which array of the file holds the series, if there are several"
    )
    reconstruct.add_argument(
        "--time-axis",
        type=int,
        default=-3,
        metavar="AXIS",
        help="which axis of that array is time (default -3; MATLAB's H x W x T: 2)",
    )
    reconstruct.add_argument(
        "--output",
        type=Path,
        default=Path("svdinv-output"),
        metavar="PATH",
        help="folder, or file of the reconstruction (.png, or .npz, .npy, .h5); the "
        "others lie beside it (default svdinv-output)",
    )
    add_computing(reconstruct)


def run(arguments: argparse.Namespace) -> int:
    """Check all that can be checked, then reconstruct."""
    parser = arguments.parser
    need(parser, _NEEDS, "train")

    import torch

    from svdinv.unroll.evaluation.inference import check_device, kind_of, open_network
    from svdinv.unroll.evaluation.inputs import read_input
    from svdinv.unroll.evaluation.reconstruction import files, reconstruct

    torch.set_num_threads(arguments.threads)
    try:
        check_device(arguments.device)
        if arguments.crop is not None and arguments.crop < 32:
            raise ValueError(
                f"argument --crop: must be at least 32, got {arguments.crop}"
            )
        given = read_input(
            arguments.input,
            crop=arguments.crop or 0,
            key=arguments.key,
            time_axis=arguments.time_axis,
        )
        case = _sampler(arguments, given).case(given)
        network = open_network(arguments.weights or given.kind, arguments.device)
        if kind_of(network) != given.kind:
            raise ValueError(
                f"argument --weights: these are for {kind_of(network)}, but "
                f"{arguments.input} is of the kind {given.kind}"
            )
        written = files(arguments.output, given)
        for path in written:
            if path is not None and same_file(path, arguments.input):
                raise ValueError(f"argument --output: would replace {path}")
    except (ValueError, FileNotFoundError, ImportError) as error:
        parser.error(str(error))
    if written.image.suffix.lower() in (".h5", ".hdf5"):
        need(parser, ("h5py",), "mri")
    writable_folder(parser, "--output", written.image.parent)
    baselines = arguments.baselines
    if baselines is None:
        height, width = given.shape[-2:]
        baselines = given.kind == "cine" or height * width <= _MOST_PIXELS
    size = "x".join(map(str, given.shape[-2:]))
    frames = f"{given.shape[0]} frames of " if given.kind == "cine" else ""
    print(
        f"{given.name}: {frames}{size} pixels, {case.setting}, seed {arguments.seed}\n",
        flush=True,
    )
    done = reconstruct(
        given,
        case,
        network,
        written,
        baselines=baselines,
        ensemble=arguments.ensemble,
        device=arguments.device,
    )
    if not done:
        print("Interrupted: nothing was written.")
        return 130
    print("\n" + "\n".join(f"Written: {path}" for path in written if path))
    return 0


def _sampler(arguments: argparse.Namespace, given: Input) -> Sampler:
    """Check the options of the sampling against what is to be sampled."""
    from svdinv.unroll.evaluation.inputs import Sampler, read_mask
    from svdinv.unroll.tasks.cine import MASKS

    options: dict[str, Any] = {
        name: getattr(arguments, name)
        for name in ("rate", "mask", "coils")
        if getattr(arguments, name) is not None
    }
    alien, what = ["coils"], "is a picture"
    if given.kind == "cine":
        alien, what = ["rate"], "is a series"
    if given.samples is not None:
        alien, what = ["rate", "mask", "coils"], "is sampled already"
    for name in alien:
        if name in options:
            raise ValueError(
                f"argument --{name}: has no use, for {arguments.input} {what}"
            )
    mask = options.get("mask")
    if mask is not None and (mask not in MASKS or given.kind == "colour"):
        if mask in MASKS:
            raise ValueError(
                f"argument --mask: {mask} samples k-space, and {arguments.input} is a "
                "picture: choose a --rate, or a file with a mask"
            )
        if not Path(mask).suffix:
            raise ValueError(
                f"argument --mask: {mask!r} is none of {', '.join(MASKS)}, nor a file"
            )
        options["mask"] = read_mask(mask, time_axis=arguments.time_axis)
    return Sampler(**options, seed=arguments.seed)
