"""The networks, before any framework; see `svdinv.unroll.networks.recipe`.

Each is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from svdinv.unroll.plugins import late_attributes

if TYPE_CHECKING:
    from svdinv.unroll.networks.em import EMNet
    from svdinv.unroll.networks.generators import (
        Bilinear,
        Decoder,
        Generator,
        LowRankAndSparse,
        Skip,
    )
    from svdinv.unroll.networks.lls import LLS
    from svdinv.unroll.networks.ls import LS
    from svdinv.unroll.networks.non_local import NonLocal
    from svdinv.unroll.networks.primal_dual import PrimalDual
    from svdinv.unroll.networks.recipe import (
        Convolutions,
        Layer,
        Layers,
        Number,
        Recipe,
        State,
        from_json,
        register,
        to_json,
    )
    from svdinv.unroll.networks.refined import Refined
    from svdinv.unroll.networks.slr import SLR
    from svdinv.unroll.networks.t2lr import T2LR
    from svdinv.unroll.networks.tlr import TLR
    from svdinv.unroll.networks.unrolled import (
        Convolved,
        LearnedPrior,
        LowRank,
        Sparse,
        Unrolled,
    )

__all__ = [
    "LLS",
    "LS",
    "SLR",
    "T2LR",
    "TLR",
    "Bilinear",
    "Convolutions",
    "Convolved",
    "Decoder",
    "EMNet",
    "Generator",
    "Layer",
    "Layers",
    "LearnedPrior",
    "LowRank",
    "LowRankAndSparse",
    "NonLocal",
    "Number",
    "PrimalDual",
    "Recipe",
    "Refined",
    "Skip",
    "Sparse",
    "State",
    "Unrolled",
    "from_json",
    "register",
    "to_json",
]

_NAMES = {
    "em": ("EMNet",),
    "generators": ("Bilinear", "Decoder", "Generator", "LowRankAndSparse", "Skip"),
    "lls": ("LLS",),
    "ls": ("LS",),
    "non_local": ("NonLocal",),
    "primal_dual": ("PrimalDual",),
    "recipe": (
        "Convolutions",
        "Layer",
        "Layers",
        "Number",
        "Recipe",
        "State",
        "from_json",
        "register",
        "to_json",
    ),
    "refined": ("Refined",),
    "slr": ("SLR",),
    "t2lr": ("T2LR",),
    "tlr": ("TLR",),
    "unrolled": ("Convolved", "LearnedPrior", "LowRank", "Sparse", "Unrolled"),
}

__getattr__ = late_attributes(__name__, _NAMES)
