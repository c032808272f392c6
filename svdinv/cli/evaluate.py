"""``svdinv evaluate``: a network and classical methods on images it has not seen."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from svdinv.cli.arguments import (
    NETWORKS,
    Subparsers,
    add_computing,
    natural,
    need,
    rate,
    writable_folder,
)

if TYPE_CHECKING:
    from svdinv.unroll.evaluation.inputs import Input, Sampler

__all__ = ["add", "run"]

_NEEDS = (*NETWORKS, "matplotlib", "PIL", "threadpoolctl")
_RATES = (0.4, 0.3, 0.1)
_CROP = 256

_EPILOG = """\
examples:
  svdinv evaluate colour                         eight built-in photographs
  svdinv evaluate cine --masks radial --coils 4  eight series of the phantom
  svdinv evaluate runs/mine/weights.safetensors  weights that you have trained
  svdinv evaluate colour --images holidays/ cat.png --rates 0.2 --crop 0
  svdinv evaluate cine --images scans/ --no-baselines --no-ensemble

Every image is sampled, reconstructed from the samples, and compared with the original.
In the output folder: results.csv with a row for each image, setting and method,
results.md with the means, and pictures of the first image of each setting.
Classical methods get, for every image, the regularisation weight of a grid that comes
nearest to the truth; networks never see the truth.
Ctrl-C ends the work once the method in hand is done; the tables hold what came before.
"""


def add(commands: Subparsers) -> None:
    """Declare the command."""
    evaluate = commands.add_parser(
        "evaluate",
        help="measure how well a network reconstructs",
        description=(
            "Measure how well a network reconstructs images that it was not trained\n"
            "on, beside classical methods: PSNR and SSIM of photographs; SNR, PSNR\n"
            "and SSIM of series of a beating heart."
        ),
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    evaluate.set_defaults(parser=evaluate, run=run)
    evaluate.add_argument(
        "weights",
        nargs="?",
        default="colour",
        metavar="colour|cine|FILE.safetensors",
        help="weights that come with svdinv (default colour), or a file of others",
    )
    evaluate.add_argument(
        "--images",
        nargs="+",
        metavar="PATH",
        help="pictures, names of built-in photographs, or series (.npy, .npz, .mat, "
        ".h5), and folders of them, instead of the eight that no weights in svdinv "
        "were trained on; give others if yours were",
    )
    evaluate.add_argument(
        "--rates",
        nargs="+",
        type=rate,
        metavar="RATE",
        help="sampling rates of photographs, from 0.01 to 0.99 (default 0.4 0.3 0.1)",
    )
    evaluate.add_argument(
        "--crop",
        type=natural,
        metavar="PIXELS",
        help="crop photographs around their middle to this many pixels a side, at "
        "least 32 (default 256; 0: not at all)",
    )
    evaluate.add_argument(
        "--masks",
        nargs="+",
        metavar="MASK",
        help="sampling patterns of series: radial, variable-density, vista (default "
        "all three)",
    )
    evaluate.add_argument(
        "--coils",
        type=natural,
        help="number of simulated receive coils for series (default 0: none)",
    )
    evaluate.add_argument(
        "--baselines",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="apply classical methods too, which takes most of the time (default yes)",
    )
    evaluate.add_argument(
        "--ensemble",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also average the network over eight mirrored, turned or reversed "
        "versions of each image (default yes)",
    )
    evaluate.add_argument(
        "--panels",
        type=natural,
        default=1,
        metavar="N",
        help="make pictures of the first N images of each setting (default 1)",
    )
    evaluate.add_argument(
        "--output",
        type=Path,
        default=Path("svdinv-evaluation"),
        metavar="DIR",
        help="folder for all that is written (default svdinv-evaluation)",
    )
    add_computing(evaluate)


def run(arguments: argparse.Namespace) -> int:
    """Check all that can be checked, then evaluate."""
    parser = arguments.parser
    need(parser, _NEEDS, "train")

    import torch

    from svdinv.unroll.evaluation.evaluation import (
        RESULTS,
        TABLE,
        evaluate,
        methods_of,
        sampled,
    )
    from svdinv.unroll.evaluation.inference import check_device, kind_of, open_network

    torch.set_num_threads(arguments.threads)
    try:
        check_device(arguments.device)
        network = open_network(arguments.weights, arguments.device)
        kind = kind_of(network)
        samplers = _samplers(arguments, kind)
        images = _images(arguments, kind)
    except (ValueError, FileNotFoundError, ImportError) as error:
        parser.error(str(error))
    output = writable_folder(parser, "--output", arguments.output)
    methods = methods_of(
        network,
        kind,
        baselines=arguments.baselines,
        ensemble=arguments.ensemble,
        device=arguments.device,
    )
    weights = sum(p.numel() for p in network.parameters())
    print(
        f"{arguments.weights}: {type(network.recipe).__name__} with {weights:,} "
        f"weights, on {len(images)} images, seed {arguments.seed}",
        flush=True,
    )
    evaluation = evaluate(
        sampled(images, samplers),
        methods,
        output,
        kind=kind,
        title=f"Evaluation of {arguments.weights}, seed {arguments.seed}",
        panels=arguments.panels,
    )
    if evaluation.rows:
        print(f"\n{evaluation.text()}\n\nWritten: {output / RESULTS}, {output / TABLE}")
    if evaluation.complete:
        return 0
    print("Interrupted: only images that all methods had done are counted.")
    return 130


def _samplers(arguments: argparse.Namespace, kind: str) -> list[Sampler]:
    """Check the options of the sampling, and give one sampler for each setting."""
    from svdinv.unroll.evaluation.inputs import Sampler
    from svdinv.unroll.tasks.cine import MASKS

    alien = ("masks", "coils") if kind == "colour" else ("rates", "crop")
    for name in alien:
        if getattr(arguments, name) is not None:
            kinds = ("series", "photographs")
            what, ours = kinds if kind == "colour" else reversed(kinds)
            raise ValueError(
                f"argument --{name}: is for {what}, and these weights are for {ours}"
            )
    for name in ("rates", "masks"):
        given = getattr(arguments, name) or ()
        if len({str(value) for value in given}) < len(given):
            raise ValueError(f"argument --{name}: names one twice")
    if arguments.crop is not None and 0 < arguments.crop < 32:
        raise ValueError(
            f"argument --crop: must be 0 or at least 32, got {arguments.crop}"
        )
    seed = arguments.seed
    if kind == "colour":
        return [Sampler(rate=value, seed=seed) for value in arguments.rates or _RATES]
    masks = arguments.masks or list(MASKS)
    for mask in masks:
        if mask not in MASKS:
            raise ValueError(
                f"argument --masks: {mask!r} is none of {', '.join(MASKS)}"
            )
    coils = arguments.coils or 0
    return [Sampler(mask=mask, coils=coils, seed=seed) for mask in masks]


def _images(arguments: argparse.Namespace, kind: str) -> list[Input]:
    from svdinv.unroll.evaluation.evaluation import default_images
    from svdinv.unroll.evaluation.inputs import files_of, read_inputs

    crop = _CROP if arguments.crop is None else arguments.crop
    if not arguments.images:
        return default_images(kind, crop)
    images = read_inputs(files_of(arguments.images, kind), crop=crop)
    for image in images:
        if image.kind != kind:
            raise ValueError(
                f"argument --images: {image.name} is of the kind {image.kind}, and the "
                f"weights are for {kind}"
            )
        if image.truth is None:
            raise ValueError(f"argument --images: {image.name} holds no truth")
    return images
