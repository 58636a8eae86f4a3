"""How known defects differ from normal feature vectors: a logistic regression a class.

It learns from whitened latent vectors. The regression that judges a sample has seen neither it nor
the others of its fold.
"""

import math
from typing import NamedTuple

import numpy as np
import torch

from .covariance import shrink
from .left_out_maps import LEAST_LEFT

MOST_NORMALS = 2000  # of a class that a regression or a direction is learned from
# Inverse strength of the regularisation, as scikit-learn's; both kinds of samples count the same.
_C = 0.03
_SHRINKAGE = 0.3  # of the covariance of the class
_FARTHEST = 5.0  # standard deviations, to which whitened vectors are clipped for the regression


class Odds(NamedTuple):
    """What the regression of a class says of latent vectors z: z @ direction + offset, at least 0.

    Attributes
    ----------
    direction : Tensor of shape (n_axes,)
    offset : float
    of_normals, of_defects : Tensor of shape (n,)
        By regressions that have not seen the sample.
    """

    direction: torch.Tensor
    offset: float
    of_normals: torch.Tensor
    of_defects: torch.Tensor


def learn_odds(teachers, normals, defects, unit, *, shrinkage=None):
    """Learn what tells the known defects of a class from its normals.

    Parameters
    ----------
    teachers : Tensor of shape (n, n_axes), float64
        Latent vectors of normals that do not calibrate; empty where all normals calibrate, which
        then teach the regressions of the other folds.
    normals, defects : pair (Tensor of shape (n, n_axes), float64; ndarray of shape (n,))
        Latent vectors and their folds. The normals calibrate.
    unit : float
        By how much the log-likelihood ratios of normals differ: what the odds are scaled to.
    shrinkage : float, default=None
        Of the covariance by which the latent vectors are whitened. None = they are not, and are
        whitened here.

    Returns
    -------
    Odds
    """
    is_whitened = shrinkage is not None
    shrinkage = shrinkage if is_whitened else _SHRINKAGE
    measured = teachers if len(teachers) else normals[0]
    origin, root = _whitening(measured, 1.0 if is_whitened else shrinkage)
    taught, *sides = (
        torch.linalg.solve_triangular(root, (vectors - origin).T, upper=False).T
        for vectors in (teachers, normals[0], defects[0])
    )
    if not len(taught):
        whitened = normals[0] - origin if is_whitened else sides[0]
        sides[0] = sides[0] * _farther_left_out(whitened, shrinkage)[:, None]
    folds = [fold for _, fold in (normals, defects)]
    odds = [torch.zeros(len(side), dtype=side.dtype) for side in sides]
    for fold in np.unique(np.concatenate(folds)):
        seen = [side[own != fold] for side, own in zip(sides, folds, strict=True)]
        direction = _direction(taught if len(taught) else seen[0], seen[1])
        for values, side, own in zip(odds, sides, folds, strict=True):
            values[own == fold] = side[own == fold] @ direction
    direction = _direction(taught if len(taught) else sides[0], sides[1])
    if len(taught):
        odds[0] = sides[0] @ direction
    median = odds[0].median()
    above = odds[0][odds[0] > median] - median
    factor = unit / above.mean() if len(above) else torch.zeros_like(median)
    direction = torch.linalg.solve_triangular(root.T, direction[:, None], upper=True)[:, 0] * factor
    offset = float(-median * factor - origin @ direction)
    return Odds(direction, offset, *(((values - median) * factor).clamp_min(0) for values in odds))


def _whitening(vectors, shrinkage):
    """Return the mean and a triangular root of the shrunk covariance of vectors (n, n_axes)."""
    origin = vectors.mean(0)
    rest = vectors - origin
    covariance = shrink(rest.T @ rest / len(rest), shrinkage)
    covariance.diagonal().add_(1e-30)  # where all vectors are equal
    return origin, torch.linalg.cholesky(covariance)


def _farther_left_out(whitened, shrinkage):
    """Return by how much farther from the mean whitened vectors (n, n_axes) lie if left out.

    Mean and covariance, shrunk so far, were measured on them, too; see `left_out_distances`.
    """
    others = max(1, len(whitened) - 1)
    left = 1 - (1 - shrinkage) * whitened.square().sum(1) / others
    return (1 + 1 / others) / left.clamp_min(LEAST_LEFT).sqrt()


def _direction(normals, defects):
    """Return the coefficients of a logistic regression, of length 1: Tensor (n_axes,)."""
    from sklearn.linear_model import LogisticRegression  # and what nothing else needs

    if not len(normals) or not len(defects):
        return normals.new_zeros(normals.shape[1])
    normals = normals[:: math.ceil(len(normals) / MOST_NORMALS)]
    X = torch.cat((normals, defects)).clamp(-_FARTHEST, _FARTHEST).numpy()
    y = np.repeat([0, 1], [len(normals), len(defects)])
    found = LogisticRegression(C=_C, class_weight="balanced", max_iter=1000).fit(X, y).coef_[0]
    return torch.from_numpy(found / max(np.linalg.norm(found), 1e-30))
