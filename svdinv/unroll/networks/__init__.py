"""Framework-independent networks; see `svdinv.unroll.networks.recipe`.

Each name is imported at its first use.
"""

# ruff: noqa: I001  # one statement for each module
from __future__ import annotations

from typing import TYPE_CHECKING

from svdinv.unroll.plugins import late_attributes

if TYPE_CHECKING:
    from svdinv.unroll.networks.em import EMNet as EMNet
    from svdinv.unroll.networks.generators import (
        Bilinear as Bilinear,
        Decoder as Decoder,
        Generator as Generator,
        LowRankAndSparse as LowRankAndSparse,
        Skip as Skip,
    )
    from svdinv.unroll.networks.lls import LLS as LLS
    from svdinv.unroll.networks.non_local import NonLocal as NonLocal
    from svdinv.unroll.networks.primal_dual import JointPrimalDual as JointPrimalDual
    from svdinv.unroll.networks.primal_dual import PrimalDual as PrimalDual
    from svdinv.unroll.networks.recipe import (
        Convolutions as Convolutions,
        Layer as Layer,
        Layers as Layers,
        Number as Number,
        Recipe as Recipe,
        State as State,
        from_json as from_json,
        register as register,
        to_json as to_json,
    )
    from svdinv.unroll.networks.refined import Refined as Refined
    from svdinv.unroll.networks.series import LS as LS, SLR as SLR, T2LR as T2LR
    from svdinv.unroll.networks.tlr import TLR as TLR
    from svdinv.unroll.networks.unrolled import (
        Convolved as Convolved,
        LearnedPrior as LearnedPrior,
        LowRank as LowRank,
        Sparse as Sparse,
        Unrolled as Unrolled,
    )

__getattr__, __all__ = late_attributes(__name__)
