"""The singular value decomposition and low-rank operators for NumPy.

There is no automatic differentiation: ``name_vjp`` returns the result of ``name`` and
a function from its cotangents to those of the arguments, ``name_jvp`` the result and
its tangent.
"""

from __future__ import annotations

from svdinv._missing import explain_missing

try:
    import numpy as np
except ImportError as error:
    raise explain_missing("numpy", "numpy") from error

from array_api_compat import numpy as xp

from svdinv.backends.manual import Toolbox
from svdinv.backends.manual_operators import ManualOperators

__all__ = [
    "firm_threshold",
    "firm_threshold_jvp",
    "firm_threshold_vjp",
    "kabsch",
    "kabsch_jvp",
    "kabsch_vjp",
    "ky_fan_norm",
    "ky_fan_norm_jvp",
    "ky_fan_norm_vjp",
    "local_low_rank",
    "local_low_rank_jvp",
    "local_low_rank_vjp",
    "log_sum_threshold",
    "log_sum_threshold_jvp",
    "log_sum_threshold_vjp",
    "low_rank",
    "low_rank_jvp",
    "low_rank_vjp",
    "nuclear_norm",
    "nuclear_norm_jvp",
    "nuclear_norm_vjp",
    "polar",
    "polar_jvp",
    "polar_vjp",
    "procrustes",
    "procrustes_jvp",
    "procrustes_vjp",
    "schatten_norm",
    "schatten_norm_jvp",
    "schatten_norm_vjp",
    "schatten_prox",
    "schatten_prox_jvp",
    "schatten_prox_vjp",
    "spectral_map",
    "spectral_map_jvp",
    "spectral_map_vjp",
    "spectral_norm",
    "spectral_norm_jvp",
    "spectral_norm_vjp",
    "spectral_operator",
    "spectral_operator_jvp",
    "spectral_operator_vjp",
    "sure",
    "sure_jvp",
    "sure_vjp",
    "svd",
    "svd_jvp",
    "svd_lowrank",
    "svd_lowrank_jvp",
    "svd_lowrank_vjp",
    "svd_vjp",
    "svdvals",
    "svht",
    "svht_jvp",
    "svht_vjp",
    "svt",
    "svt_divergence",
    "svt_divergence_jvp",
    "svt_divergence_vjp",
    "svt_jvp",
    "svt_vjp",
    "tsvt",
    "tsvt_jvp",
    "tsvt_vjp",
]

_operators = ManualOperators(
    Toolbox(
        xp,
        lambda mask: bool(mask.any()),
        np.linalg.LinAlgError,
        np.random.default_rng,
        lambda: np.errstate(over="ignore", under="ignore", invalid="ignore"),
    ),
    __name__,
)

firm_threshold = _operators.firm_threshold
firm_threshold_jvp = _operators.firm_threshold_jvp
firm_threshold_vjp = _operators.firm_threshold_vjp
kabsch = _operators.kabsch
kabsch_jvp = _operators.kabsch_jvp
kabsch_vjp = _operators.kabsch_vjp
ky_fan_norm = _operators.ky_fan_norm
ky_fan_norm_jvp = _operators.ky_fan_norm_jvp
ky_fan_norm_vjp = _operators.ky_fan_norm_vjp
local_low_rank = _operators.local_low_rank
local_low_rank_jvp = _operators.local_low_rank_jvp
local_low_rank_vjp = _operators.local_low_rank_vjp
log_sum_threshold = _operators.log_sum_threshold
log_sum_threshold_jvp = _operators.log_sum_threshold_jvp
log_sum_threshold_vjp = _operators.log_sum_threshold_vjp
low_rank = _operators.low_rank
low_rank_jvp = _operators.low_rank_jvp
low_rank_vjp = _operators.low_rank_vjp
nuclear_norm = _operators.nuclear_norm
nuclear_norm_jvp = _operators.nuclear_norm_jvp
nuclear_norm_vjp = _operators.nuclear_norm_vjp
polar = _operators.polar
polar_jvp = _operators.polar_jvp
polar_vjp = _operators.polar_vjp
procrustes = _operators.procrustes
procrustes_jvp = _operators.procrustes_jvp
procrustes_vjp = _operators.procrustes_vjp
schatten_norm = _operators.schatten_norm
schatten_norm_jvp = _operators.schatten_norm_jvp
schatten_norm_vjp = _operators.schatten_norm_vjp
schatten_prox = _operators.schatten_prox
schatten_prox_jvp = _operators.schatten_prox_jvp
schatten_prox_vjp = _operators.schatten_prox_vjp
spectral_map = _operators.spectral_map
spectral_map_jvp = _operators.spectral_map_jvp
spectral_map_vjp = _operators.spectral_map_vjp
spectral_norm = _operators.spectral_norm
spectral_norm_jvp = _operators.spectral_norm_jvp
spectral_norm_vjp = _operators.spectral_norm_vjp
spectral_operator = _operators.spectral_operator
spectral_operator_jvp = _operators.spectral_operator_jvp
spectral_operator_vjp = _operators.spectral_operator_vjp
sure = _operators.sure
sure_jvp = _operators.sure_jvp
sure_vjp = _operators.sure_vjp
svd = _operators.svd
svd_jvp = _operators.svd_jvp
svd_vjp = _operators.svd_vjp
svd_lowrank = _operators.svd_lowrank
svd_lowrank_jvp = _operators.svd_lowrank_jvp
svd_lowrank_vjp = _operators.svd_lowrank_vjp
svdvals = _operators.svdvals
svht = _operators.svht
svht_jvp = _operators.svht_jvp
svht_vjp = _operators.svht_vjp
svt = _operators.svt
svt_divergence = _operators.svt_divergence
svt_divergence_jvp = _operators.svt_divergence_jvp
svt_divergence_vjp = _operators.svt_divergence_vjp
svt_jvp = _operators.svt_jvp
svt_vjp = _operators.svt_vjp
tsvt = _operators.tsvt
tsvt_jvp = _operators.tsvt_jvp
tsvt_vjp = _operators.tsvt_vjp
