"""Values that many vectors share: how little they tell of spreads and densities."""

import numpy as np
import torch

from .gaussian_shrinkage import SMALLEST_SCATTER, principal_axes

# Times its variance: what a feature of two values is smoothed by, so that it hardly decides.
_OF_TWO_VALUES = 16.0


def tie_variances(x):
    """Variance (n_features,) that a Gaussian needs so as not to stand on equal values alone.

    A Gaussian around vectors that have a feature in common could be as narrow as it likes, and
    would win likelihood that says nothing of other values. A value that c vectors share counts as
    known no better than to the distance within which as many others lie. The result is the mean of
    the square of this distance over 12, the variance of rounding, and at most the variance of the
    feature. It is 0 where no two vectors are equal.

    `x` has shape (n, n_features), float64.
    """
    return _variances(x, _to_as_many)


def gap_variances(x):
    """Variance (n_features,) of what rounding may have hidden in values that many vectors share.

    A value that several vectors share stands for all that are nearer to it than to the next value:
    the square of the gap over 12. The result is the mean over all vectors, at most the variance of
    the feature, 0 where no two vectors are equal. It is less than `tie_variances` where most
    vectors share a value.

    A feature of two values, such as a column that says yes or no, has no shape between them. A
    density with a center at each of them is likelier than one Gaussian, and finds no more
    anomalies. Its result is 16 times its variance, with which it hardly takes part. Where the
    vectors are of few kinds, at most half as many as there are vectors, what lies between the kinds
    is anomalous, and such a feature counts as others do.

    `x` has shape (n, n_features), float64.
    """
    found = _variances(x, _to_next)
    low, high = x.amin(0), x.amax(0)
    has_two = (low < high) & ((x == low) | (x == high)).all(0)
    if not has_two.any() or len(torch.unique(x, dim=0)) <= len(x) / 2:
        return found
    return torch.where(has_two, _OF_TWO_VALUES * x.var(0, correction=0), found)


def _variances(x, width_of):
    """Return the variance of each column from the widths of its shared values."""
    columns = [_variance(column, width_of) for column in x.numpy().T]
    return torch.tensor(columns, dtype=x.dtype)


def _variance(column, width_of):
    values, counts = np.unique(column, return_counts=True)
    if len(values) in (1, len(column)):
        return 0.0
    widths = width_of(values, counts)
    widths[counts == 1] = 0
    return min(float((counts * widths**2).sum()) / len(column) / 12, float(column.var()))


def _to_as_many(values, counts):
    """Return the distance from each value within which as many others lie as share it."""
    ordered = np.repeat(values, counts)
    ends = counts.cumsum()
    left, right = ends - counts - counts, ends - 1 + counts
    to_left = np.where(left >= 0, values - ordered[left.clip(0)], np.inf)
    to_right = np.where(
        right < len(ordered), ordered[right.clip(max=len(ordered) - 1)] - values, np.inf
    )
    width = np.minimum(to_left, to_right)
    farthest = np.maximum(values - values[0], values[-1] - values)
    return np.where(np.isinf(width), farthest, width)


def _to_next(values, counts):
    """Return the distance from each value to the nearest other one."""
    gaps = np.diff(values, prepend=-np.inf, append=np.inf)
    return np.minimum(gaps[:-1], gaps[1:])


def tie_covariances(level, x, z):
    """Return the matrices that `tie_variances` and `gap_variances` become in the latent space.

    `x` holds raw vectors (n, n_features), `z` where they are in the latent space; each matrix is a
    float64 Tensor (n_axes, n_axes), None where there are more features than axes. A trained flow is
    taken to be linear around their mean. In no direction is the first wider than the vectors are,
    see `capped`.
    """
    if level.start.has_rest or not len(x):
        return None, None
    return capped_ties(x, z, lambda variances: _in_latent_space(level, x, variances))


def capped_ties(x, z, in_latent_space):
    """Return `capped` ties and gaps of vectors x, which are z in the latent space.

    `in_latent_space` turns variances (n_features,) into a covariance (n_axes, n_axes) there.
    """
    return (
        capped(in_latent_space(tie_variances(x)), z),
        capped(in_latent_space(gap_variances(x)), z, most=_OF_TWO_VALUES),
    )


def capped(ties, z, most=1.0):
    """Return tie covariances that are in no direction wider than the vectors z (n, n_features).

    There they are at most `most` times the variance of z. Each feature by itself is capped by its
    variance. But columns of 0 and 1 of which one is always 1 vary together: their sum does not vary
    at all, and has no ties. If all vectors are equal, the ties stay as they are, because nothing
    else gives the vectors a width.
    """
    if not ties.any():
        return ties
    scatter, axes = principal_axes(z - z.mean(0))
    varies = scatter > SMALLEST_SCATTER * scatter.max()
    if not varies.any():
        return ties
    axes, spreads = axes[:, varies], (scatter[varies] / len(z)).sqrt()
    shares, turns = torch.linalg.eigh((axes.T @ ties @ axes) / torch.outer(spreads, spreads))
    if len(spreads) == len(ties) and shares[-1] <= most:
        return ties
    columns = (axes * spreads) @ (turns * shares.clamp(0, most).sqrt())
    return columns @ columns.T


def _in_latent_space(level, x, variances):
    start = level.start
    has_ties = variances > 0
    n_axes = start.n_axes
    if not has_ties.any():
        return x.new_zeros(n_axes, n_axes)
    steps = variances[has_ties].sqrt()[:, None] * torch.eye(len(variances), dtype=x.dtype)[has_ties]
    points = torch.cat((x.mean(0)[None], x.mean(0) + steps)).to(start.mean)
    z = level.latent(points[:, None])[0][:, 0].double().cpu()
    moves = z[1:] - z[0]
    return moves.T @ moves
