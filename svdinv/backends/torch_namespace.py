"""array-api-compat's namespace for PyTorch, with PyTorch's own lazy views.

Its conjugate copies, which costs an array for every adjoint; neither it nor the
transpose works in all of PyTorch's ways of batching gradients.
"""

from array_api_compat.torch import *  # noqa: F403
from array_api_compat.torch import finfo, isdtype, linalg
from torch import Tensor, conj

__all__ = ["conj", "finfo", "isdtype", "linalg", "matrix_transpose"]


def matrix_transpose(x: Tensor) -> Tensor:
    """Transpose the last two axes."""
    return x.mT
