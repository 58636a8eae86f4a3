"""Rows of a table with a cell so far off that it is no measurement, such as -9999 or 1e30.

One such cell makes means, covariances and the scale of scores meaningless. Its row takes no part in
the fit, but it counts among the normals that calibrate: it is scored as it is.
"""

from typing import NamedTuple

import numpy as np
import torch

from .calibrate import calibration_of

# How many times farther from the median than all other cells of the class. Of samples with the
# tails of Student's t with 3 degrees of freedom, one feature in 100,000 has such a cell.
_FARTHER = 50.0
_MOST_ROWS = 0.01  # of a class, for one feature; one row at least
_SMALLEST_TABLE = 1e-150  # the squares of smaller values are 0, or have few digits
_LARGEST_VALUE = 1e150  # the squares of larger values are infinite
_FEWEST = 7  # vectors of a class, below which nothing is far


class FarCell(NamedTuple):
    """A cell of X, by its position."""

    row: int
    column: int


def far_cells(X, codes, rounding=0.0):
    """Find the cells of normal samples that are far from all others of their class and feature.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), float64
    codes : ndarray of shape (n_samples,), int64
        Classes; -1 marks known anomalies, which are left alone.
    rounding : float or ndarray of shape (n_features,), default=0.0
        Values that differ by no more count as equal; see `rounding_of`.

    Returns
    -------
    list of FarCell
        By row. None of a feature of which half the values are equal: others may be rare there.
    """
    cells = []
    for code in np.unique(codes[codes >= 0]):
        rows = np.flatnonzero(codes == code)
        if len(rows) >= _FEWEST:
            found = _far_in_class(X[rows], rounding)
            cells += [FarCell(int(rows[i]), int(j)) for i, j in found]
    return sorted(cells)


def check_largest(X, names=None):
    """Raise ValueError if X has values of which float64 cannot hold the squares.

    `names` are those of the features.
    """
    if X.size and np.abs(X).max() > _LARGEST_VALUE:
        row, column = np.unravel_index(np.abs(X).argmax(), X.shape)
        feature = f"feature {column}" if names is None else repr(str(names[column]))
        raise ValueError(
            f"X has {X[row, column]:.3g} in {feature}, and float64 cannot hold its square: scale X "
            "first, e.g. make_pipeline(MaxAbsScaler(), HGADDetector())."
        )


def check_magnitude(X, names=None):
    """Raise ValueError if all values of X are too small, or some too large, to be squared.

    For `names` see `check_largest`.
    """
    check_largest(X, names)
    extent = np.abs(X).max(initial=0)
    if 0 < extent < _SMALLEST_TABLE:
        raise ValueError(
            f"all values of X lie within {extent:.3g} of 0, and their squares are 0 in float64: "
            f"multiply X by {2.0 ** -np.round(np.log2(extent) / 2):.3g} twice, here and before "
            "scoring, which puts it near 1."
        )


def _far_in_class(vectors, rounding):
    n, most = len(vectors), max(1, int(_MOST_ROWS * len(vectors)))
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        distances = np.abs(vectors - np.median(vectors, axis=0))
        ordered = np.sort(distances, axis=0)
        is_gap = ordered[n - most :] > _FARTHER * ordered[n - most - 1 : -1]
    is_gap &= ordered[n // 2] > rounding
    # The lowest gap counts: what lies above it is far.
    limits = np.where(is_gap, ordered[n - most :], np.inf).min(axis=0)
    far = (distances >= limits) & is_gap.any(axis=0)
    return np.argwhere(far)


@torch.inference_mode()
def with_rows(calibration, share, model, X, codes, device):
    """Return a calibration with more normal samples, which the model did not see.

    Parameters
    ----------
    calibration : Calibration
    share : float in [0, 1]
        Of the samples that calibrate.
    model : ScoringModel
        On `device`.
    X : ndarray of shape (n, n_features), float64
    codes : ndarray of shape (n,), int64, or None
        None: each belongs to the class inferred.
    device : torch.device
    """
    n_chosen = round(share * len(X))
    if not n_chosen:
        return calibration
    X, codes = X[:n_chosen], None if codes is None else codes[:n_chosen]
    features = [torch.from_numpy(X)[:, None].to(device)]
    inferred = given = model.evidence(features)
    if codes is not None:
        given = model.evidence(features, torch.from_numpy(codes).to(device))
    return calibration.joined(calibration_of(model, inferred, given))
