"""Low-rank imputation as a transformer of scikit-learn."""

from __future__ import annotations

import math
import numbers
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from svdinv.unroll.algorithms import FISTA, solve
from svdinv.unroll.algorithms.solver import check_units
from svdinv.unroll.operators import Sampling
from svdinv.unroll.priors import Nuclear
from svdinv.unroll.problem import Problem

__all__ = ["LowRankImputer"]

Floats = NDArray[np.floating]

_MATRICES = 2**20  # elements of the matrices of the rows that are solved for at once
_PATH = 2.0 ** -np.arange(0.5, 8)  # thresholds to try, relative to the norm of X


class LowRankImputer(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Fill in missing values of a table by a matrix of low rank.

    Soft-impute [1]_: after subtracting the mean of each column, it minimises ::

        |mask * (X - Z)|_F^2 / 2 + tau |Z|_*

    over Z. With Z = A B^T, where B consists of the singular vectors and values that
    `fit` computes, this is a ridge regression for each row of A. `transform` solves it
    for rows of any table; for the rows of `fit` it returns Z, as far as the iterations
    have converged.

    Parameters
    ----------
    tau : {"cv", "sure"} or float, optional
        Threshold of the singular values, in units of X. ``"cv"`` selects the one that
        best predicts values that were left out, ``"sure"`` the one with the least error
        estimated by Stein's formula, with the divergence from one random probe [2]_; it
        needs `noise`.
    noise : float, optional
        Standard deviation of the noise in X, for ``tau="sure"``.
    folds : int, optional
        Parts of the cross-validation, each left out once.
    iterations : int, optional
        Maximum number of iterations for each threshold.
    rtol : float, optional
        Stop when the relative change of Z in an iteration is less than this.
    random_state : int or RandomState, optional
        Random generator of the parts and of the probe, or its seed.

    Attributes
    ----------
    tau_ : float
        The threshold.
    components_ : ndarray, shape (rank, n_features)
        Right singular vectors of Z.
    singular_values_ : ndarray, shape (rank,)
        Singular values of Z.
    mean_ : ndarray, shape (n_features,)
        Mean of the values that are not missing, 0 for a column without any.
    n_features_in_ : int
        Number of columns.

    References
    ----------
    .. [1] R. Mazumder, T. Hastie and R. Tibshirani, "Spectral regularization
       algorithms for learning large incomplete matrices", JMLR 11, 2010.
    .. [2] S. Ramani, T. Blu and M. Unser, "Monte-Carlo SURE", IEEE Trans. Image
       Process. 17(9), 2008.

    Examples
    --------
    >>> import numpy as np
    >>> from svdinv.adapters.sklearn import LowRankImputer
    >>> X = np.outer([1.0, 2, 3, 4], [1.0, 2, 3])
    >>> X[1, 2] = np.nan
    >>> LowRankImputer(0.01).fit_transform(X)[1].round(1)
    array([2., 4., 6.])
    """

    def __init__(
        self,
        tau: float | str = "cv",
        *,
        noise: float | None = None,
        folds: int = 5,
        iterations: int = 500,
        rtol: float = 1e-5,
        random_state: Any = None,
    ) -> None:
        self.tau = tau
        self.noise = noise
        self.folds = folds
        self.iterations = iterations
        self.rtol = rtol
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: Any = None) -> LowRankImputer:
        """Learn the means, the threshold and the row space.

        Parameters
        ----------
        X : array, shape (n_samples, n_features)
            Table; NaN where a value is missing.
        y : optional
            Ignored.

        Returns
        -------
        LowRankImputer
            The fitted imputer.

        Raises
        ------
        ValueError
            If X has infinite values, or so large or small ones that their squares
            overflow or underflow, or an option is out of range.
        """
        values = self._checked(X, reset=True)
        mask = ~np.isnan(values)
        count = mask.sum(axis=0)
        zero = np.zeros((), values.dtype)
        total = np.where(mask, values, zero).sum(axis=0, dtype=np.float64)
        self.mean_ = (total / np.maximum(count, 1)).astype(values.dtype)
        samples = np.where(mask, values - self.mean_, zero)
        if samples.size:
            check_units("X", samples)
        self.tau_ = self._threshold(samples, mask)
        _, S, Vh = np.linalg.svd(
            self._completed(samples, mask, self.tau_), full_matrices=False
        )
        rank = int((S.max(initial=0) * 1e-7 < S).sum())
        self.singular_values_, self.components_ = S[:rank], Vh[:rank]
        return self

    def transform(self, X: ArrayLike) -> Floats:
        """Fill in missing values; other values are unchanged.

        Parameters
        ----------
        X : array, shape (n_samples, n_features)
            Table; NaN where a value is missing.

        Returns
        -------
        ndarray, shape (n_samples, n_features)
            The table without NaN.
        """
        check_is_fitted(self)
        values = self._checked(X, reset=False).copy()
        mask = ~np.isnan(values)
        rows = np.flatnonzero(~mask.all(axis=1))
        B = self.components_.T * np.sqrt(self.singular_values_)
        size = max(1, _MATRICES // max(1, B.shape[1] ** 2))
        for i in range(0, len(rows), size):
            part = rows[i : i + size]
            found = self._predicted(values[part], mask[part], B)
            values[part] = np.where(mask[part], values[part], found)
        return values

    def _predicted(self, values: Floats, mask: NDArray[np.bool_], B: Floats) -> Floats:
        """Solve the ridge regression of each row."""
        here, given = mask.astype(B.dtype), np.where(mask, values - self.mean_, 0)
        normal = np.einsum("in,nr,ns->irs", here, B, B, optimize=True)
        normal += self.tau_ * np.eye(B.shape[1], dtype=B.dtype)
        right = (given @ B)[..., None]
        # The eigenvalues are between tau and s_1 + tau.
        least = np.finfo(B.dtype).eps ** 0.5 * self.singular_values_.max(initial=0)
        if self.tau_ > least:
            A = np.linalg.solve(normal, right)
        else:  # for a threshold of about 0, the solution of least norm
            rounding = 10 * max(B.shape) * np.finfo(B.dtype).eps
            A = np.linalg.pinv(normal, rounding, hermitian=True) @ right
        return A[..., 0] @ B.T + self.mean_

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _checked(self, X: ArrayLike, *, reset: bool) -> Floats:
        return validate_data(
            self, X, reset=reset, dtype=[np.float64, np.float32],
            ensure_all_finite="allow-nan",
        )  # fmt: skip

    def _completed(
        self, samples: Floats, mask: NDArray[np.bool_], tau: float, start: Any = None
    ) -> Floats:
        measured = np.where(mask, samples, np.zeros((), samples.dtype))
        return solve(
            Problem(measured, Sampling(mask)),
            Nuclear(tau),
            algorithm=FISTA(restart=True),
            iterations=self.iterations,
            rtol=self.rtol,
            x0=np.zeros_like(measured) if start is None else start,
            parameters={"step": 1.0},
            objective=False,
        ).image

    def _threshold(self, samples: Floats, mask: NDArray[np.bool_]) -> float:
        tau: Any = self.tau
        if isinstance(tau, numbers.Real):
            if not 0 <= float(tau) < math.inf:
                raise ValueError(f"tau must be >= 0 and finite, got {tau}")
            return float(tau)
        if not isinstance(tau, str) or tau not in ("cv", "sure"):
            raise ValueError(f"tau must be 'cv', 'sure' or a number, got {tau!r}")
        rng = check_random_state(self.random_state)
        path = _PATH * np.linalg.norm(samples, 2)
        score = self._left_out if tau == "cv" else self._risk
        return float(path[np.argmin(score(samples, mask, path, rng))])

    def _left_out(
        self, samples: Floats, mask: NDArray[np.bool_], path: Floats, rng: Any
    ) -> Floats:
        """Return the squared error of left-out values for each threshold."""
        folds: Any = self.folds
        if not (isinstance(folds, numbers.Integral) and int(folds) >= 2):
            raise ValueError(f"folds must be at least 2, and whole, got {folds}")
        part = rng.randint(folds, size=mask.shape)
        errors = np.zeros(len(path))
        for fold in range(folds):
            kept, out = mask & (part != fold), mask & (part == fold)
            z = np.zeros_like(samples)
            for i, tau in enumerate(path):
                z = self._completed(samples, kept, tau, z)
                errors[i] += np.sum((z - samples)[out] ** 2)
        return errors

    def _risk(
        self, samples: Floats, mask: NDArray[np.bool_], path: Floats, rng: Any
    ) -> Floats:
        """Return Stein's estimate of the squared error, without missing values."""
        if self.noise is None or not self.noise > 0:
            raise ValueError(
                f"noise must be positive for tau='sure', got {self.noise!r}"
            )
        probe = np.where(mask, rng.standard_normal(mask.shape), 0)
        shift = 0.1 * self.noise  # far above the error of the iterations
        moved = samples + (shift * probe).astype(samples.dtype)
        z, w = np.zeros_like(samples), np.zeros_like(samples)
        risks = np.zeros(len(path))
        for i, tau in enumerate(path):
            z = self._completed(samples, mask, tau, z)
            w = self._completed(moved, mask, tau, w)
            divergence = np.sum(probe * (w - z)) / shift
            residual = np.sum(np.where(mask, z - samples, 0) ** 2)
            risks[i] = residual + 2 * self.noise**2 * divergence
        return risks
