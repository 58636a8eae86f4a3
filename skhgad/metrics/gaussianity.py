"""How Gaussian vectors are: the multivariate skewness and kurtosis of Mardia."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["FEWEST_VECTORS", "Gaussianity", "mardia"]

FEWEST_VECTORS = 20
_VECTORS_PER_AXIS = 10  # with fewer, the statistics are not what their theory says
_BLOCK_ENTRIES = 1 << 22
_SMALLEST_SPREAD = 1e-9  # of the largest, below which an axis holds rounding alone


class Gaussianity(NamedTuple):
    """Mardia's skewness and kurtosis of a set of vectors.

    Attributes
    ----------
    n_vectors : int
    n_axes : int
        Leading principal axes that were judged.
    skewness : float
        0 for a symmetric distribution; of n Gaussian vectors about d (d + 1) (d + 2) / n.
    kurtosis : float
        d (d + 2) for a Gaussian; more where tails are heavier.
    skewness_z, kurtosis_z : float
        The same in standard deviations from what Gaussian vectors have: within -2 and 2 for 95 % of
        them. A Gaussian is contradicted by a large positive `skewness_z` and by a `kurtosis_z` far
        from 0: positive for heavy tails, negative for light ones.
    """

    n_vectors: int
    n_axes: int
    skewness: float
    kurtosis: float
    skewness_z: float
    kurtosis_z: float

    @property
    def kurtosis_ratio(self) -> float:
        """Kurtosis over that of a Gaussian. Unlike `kurtosis_z`, it does not grow with vectors."""
        return self.kurtosis / (self.n_axes * (self.n_axes + 2))


def mardia(X: ArrayLike) -> Gaussianity:
    r"""Measure the skewness and the kurtosis of vectors, as Mardia defined them.

    With :math:`g_{ij} = (x_i - \bar x)^T S^{-1} (x_j - \bar x)`, the skewness is the mean of
    :math:`g_{ij}^3` over all pairs and the kurtosis the mean of :math:`g_{ii}^2`. Neither changes
    under a linear map of the vectors. Where there are fewer than 10 vectors for each feature, only
    as many leading principal axes are judged as there are tens of vectors.

    Parameters
    ----------
    X : array-like of shape (n_vectors, n_features)
        Independent draws: where vectors depend on each other, such as neighbouring positions of an
        image, the standardised statistics are too large.

    Returns
    -------
    Gaussianity

    Raises
    ------
    ValueError
        If there are fewer than 20 vectors, a value is not finite, or all vectors are equal.

    References
    ----------
    .. [1] K. V. Mardia, "Applications of some measures of multivariate skewness and kurtosis in
       testing normality and robustness studies", Sankhya B 36, 1974.

    Examples
    --------
    >>> import numpy as np
    >>> from skhgad.metrics import mardia
    >>> rng = np.random.default_rng(0)
    >>> gaussian, heavy = rng.normal(size=(1000, 3)), rng.standard_t(5, size=(1000, 3))
    >>> abs(mardia(gaussian).kurtosis_z) < 2, mardia(heavy).kurtosis_z > 10
    (True, True)
    """
    vectors = np.asarray(X, dtype=np.float64)
    if vectors.ndim != 2 or len(vectors) < FEWEST_VECTORS:
        raise ValueError(
            f"X must hold at least {FEWEST_VECTORS} vectors, an array of shape (n_vectors, "
            f"n_features); got shape {vectors.shape}."
        )
    if not np.isfinite(vectors).all():
        row = int(np.flatnonzero(~np.isfinite(vectors).all(1))[0])
        raise ValueError(f"X[{row}] holds a value that is not finite: leave such vectors out.")
    whitened = _whitened(vectors)
    n, d = whitened.shape
    skewness, kurtosis = _skewness(whitened), float(np.mean(np.square(whitened).sum(1) ** 2))
    return Gaussianity(
        n, d, skewness, kurtosis, _skewness_z(skewness, n, d), _kurtosis_z(kurtosis, n, d)
    )


def _whitened(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Coordinates in the leading principal axes, with the identity as covariance."""
    centered = vectors - vectors.mean(0)
    axes, spreads, _ = np.linalg.svd(centered, full_matrices=False)
    largest = np.abs(vectors).max() * math.sqrt(vectors.size)
    if not spreads[0] > _SMALLEST_SPREAD * largest:
        raise ValueError("all vectors of X are equal: they have neither skewness nor kurtosis.")
    n_varying = int((spreads > _SMALLEST_SPREAD * spreads[0]).sum())
    n_axes = min(n_varying, len(vectors) // _VECTORS_PER_AXIS)
    return axes[:, :n_axes] * math.sqrt(len(vectors))


def _skewness(whitened: NDArray[np.float64]) -> float:
    """Mean of the cubed inner products of all pairs."""
    n, d = whitened.shape
    if d * d < n:  # by the tensor of third moments, which is smaller than the pairs
        moments = ((whitened * whitened[:, [axis]]).T @ whitened / n for axis in range(d))
        return float(sum(np.square(moment).sum() for moment in moments))
    step = max(1, _BLOCK_ENTRIES // n)
    blocks = (whitened[first : first + step] @ whitened.T for first in range(0, n, step))
    return float(sum((block**3).sum() for block in blocks)) / n**2


def _skewness_z(skewness: float, n: int, d: int) -> float:
    """Standardise the skewness: its chi-squared variable, by the cube root of Wilson, Hilferty."""
    correction = (n + 1) * (n + 3) * (d + 1) / (n * ((n + 1) * (d + 1) - 6))
    freedom = d * (d + 1) * (d + 2) / 6
    ratio = n * skewness / 6 * correction / freedom
    variance = 2 / (9 * freedom)
    return float((ratio ** (1 / 3) - (1 - variance)) / math.sqrt(variance))


def _kurtosis_z(kurtosis: float, n: int, d: int) -> float:
    """Standardise the kurtosis by its exact mean and variance under a Gaussian."""
    mean = d * (d + 2) * (n - 1) / (n + 1)
    variance = 8.0 * d * (d + 2) * (n - 3) * (n - d - 1) * (n - d + 1)
    variance /= (n + 1) ** 2 * (n + 3) * (n + 5)
    return float((kurtosis - mean) / math.sqrt(variance))
