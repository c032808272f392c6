# Written by `make stubs` (tools/stubs.py): change what that reads.
"""The singular value decomposition and low-rank operators for CuPy.

CuPy has no automatic differentiation. For any function that is composed of these, `vjp`
returns the value and a function that maps the cotangent of the value to those of the
arguments; `jvp` returns the value and its tangent.
"""

import cupy

from svdinv._operators import ArrayFunctions as _ArrayFunctions

_functions: _ArrayFunctions[cupy.ndarray, cupy.ndarray]
bures_distance = _functions.bures_distance
cca = _functions.cca
eigh = _functions.eigh
eigh_generalized = _functions.eigh_generalized
expm = _functions.expm
firm_threshold = _functions.firm_threshold
hermitian_map = _functions.hermitian_map
huber_threshold = _functions.huber_threshold
inv_sqrtm = _functions.inv_sqrtm
jvp = _functions.jvp
kabsch = _functions.kabsch
ky_fan_norm = _functions.ky_fan_norm
linear = _functions.linear
local_low_rank = _functions.local_low_rank
log_sum_threshold = _functions.log_sum_threshold
logm = _functions.logm
low_rank = _functions.low_rank
lstsq = _functions.lstsq
nuclear_norm = _functions.nuclear_norm
null_vector = _functions.null_vector
pinv = _functions.pinv
polar = _functions.polar
powm = _functions.powm
procrustes = _functions.procrustes
psd_project = _functions.psd_project
robust_pca = _functions.robust_pca
schatten_norm = _functions.schatten_norm
schatten_prox = _functions.schatten_prox
spectral_map = _functions.spectral_map
spectral_norm = _functions.spectral_norm
spectral_operator = _functions.spectral_operator
sqrtm = _functions.sqrtm
sure = _functions.sure
svd = _functions.svd
svd_jvp = _functions.svd_jvp
svd_lowrank = _functions.svd_lowrank
svd_residual = _functions.svd_residual
svd_vjp = _functions.svd_vjp
svdvals = _functions.svdvals
svht = _functions.svht
svt = _functions.svt
svt_divergence = _functions.svt_divergence
svt_jvp = _functions.svt_jvp
svt_vjp = _functions.svt_vjp
tsvt = _functions.tsvt
vjp = _functions.vjp
whiten = _functions.whiten
