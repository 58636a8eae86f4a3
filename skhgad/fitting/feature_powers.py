"""Which features of vectors are skewed, and by what power they become symmetric."""

import torch

from ..model.feature_powers import FeaturePowers
from .class_mixtures import drawn_rows
from .covariance import residuals_within, whitening_matrix
from .gaussian_shrinkage import is_clearly_better
from .mixture_choice import ClassVectors, likelihoods_of_choice
from .modes import find_modes
from .ties import capped_ties, tie_variances

_EXPONENTS = (0.0, 0.25, 0.5)
_SHIFTS = (0.03, 0.1, 0.3, 1.0, 3.0)  # of the origin from the outermost vector
_FEWEST = 20  # vectors
_FEWEST_PER_FEATURE = 2
_MOST = 600  # vectors that decide
_MOST_TIES = 1e-5  # of the variance after the power: steps of 1/90 standard deviation add it
_CLEAR_ERRORS = 3.0  # standard errors; fifteen powers of each feature have been tried


def choose_powers(x, seed):
    """Choose the FeaturePowers of the vectors (n, n_features) of one class; None: as they are.

    Each feature is measured from its outermost vector on the side of the short tail. It takes the
    power, or the logarithm, under which a Gaussian makes its values most likely, if this is better
    by two standard errors than the feature as it is. Features of which vectors share values, after
    the power, stay: a power makes such values as likely as it is steep there.

    Then the choice of a mixture is made on both, as they are and with the powers. The powers stay
    if they make vectors left out likelier, by three standard errors: skewed features are also those
    of a class of several blobs, which need no power.

    `x` is float64; the result does not depend on the order of the vectors.
    """
    n, n_features = x.shape
    if n < max(_FEWEST, _FEWEST_PER_FEATURE * n_features):
        return None
    x = _in_random_order(x, seed)
    drawn = x[:_MOST]
    powers = _of_features(drawn)
    powered = torch.nonzero(powers.exponents < 1)[:, 0]
    if len(powered):
        moved = powers(x)[:, powered]
        has_ties = tie_variances(moved) > _MOST_TIES * moved.var(0, correction=0)
        powers.exponents[powered[has_ties]] = 1
    if (powers.exponents == 1).all():
        return None
    judged, likelihoods = _likelihoods(powers(drawn), seed)
    likelihoods = likelihoods + powers.log_slopes(drawn[judged]).sum(1)
    is_better = is_clearly_better(likelihoods, _likelihoods(drawn, seed)[1], _CLEAR_ERRORS)
    return powers if is_better else None


def _in_random_order(x, seed):
    """Return at most 20,000 of the vectors, in an order that does not depend on the order given."""
    spread = x.std(0, correction=0)
    scaled = (x - x.mean(0)) / spread.where(spread > 0, 1)
    return x[drawn_rows(scaled, torch.arange(len(x)), seed)]


def _likelihoods(x, seed):
    """Numbers and left-out log-likelihoods (n_judged,) under the mixture that they choose."""
    modes = find_modes(x, torch.zeros(len(x), dtype=torch.int64), 1, seed)
    residuals = residuals_within(x, modes)
    root = whitening_matrix(residuals.T @ residuals / len(x))
    z = (x - x.mean(0)) @ root
    ties, gaps = capped_ties(x, z, lambda variances: root.T @ variances.diag() @ root)
    judged, likelihoods = likelihoods_of_choice(ClassVectors(z, modes, seed, ties=ties, gaps=gaps))
    return judged, likelihoods + torch.linalg.slogdet(root)[1]


def _of_features(x):
    """Return the FeaturePowers of what is skewed, each feature by itself."""
    powers = FeaturePowers.identity(x.shape[1])
    spread = x.std(0, correction=0)
    rounding = 100 * torch.finfo(x.dtype).eps * x.abs().amax(0)  # of a constant feature
    for j in torch.nonzero(spread > rounding)[:, 0].tolist():
        column = x[:, j]
        third = ((column - column.mean()) ** 3).mean()
        sign = -1.0 if third < 0 else 1.0
        best = _best_power(sign * column, spread[j])
        if best is not None:
            powers.signs[j], powers.units[j] = sign, spread[j]
            powers.origins[j] = (sign * column).min()
            powers.shifts[j], powers.exponents[j] = best
    return powers


def _best_power(column, unit):
    """Shift and exponent of a column (n,) that is skewed to the right, None: it stays."""
    grid = [(shift, exponent) for exponent in _EXPONENTS for shift in _SHIFTS]
    shifts, exponents = torch.tensor(grid, dtype=column.dtype).T
    one = torch.ones_like(shifts)
    powers = FeaturePowers(one, column.min() * one, unit * one, shifts, exponents)
    values = column[:, None].expand(-1, len(grid))
    likelihoods = _gaussian(powers(values)) + powers.log_slopes(values)
    best = int(likelihoods.mean(0).argmax())
    if not is_clearly_better(likelihoods[:, best], _gaussian(column[:, None])[:, 0]):
        return None
    return grid[best]


def _gaussian(values):
    """Log-likelihoods of values (n, m) under a Gaussian of each column."""
    residuals = values - values.mean(0)
    variances = residuals.square().mean(0).clamp_min(torch.finfo(values.dtype).tiny)
    return -0.5 * (residuals.square() / variances + variances.log())
