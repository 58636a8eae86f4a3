"""Modes of a class: clusters of its feature vectors that one Gaussian cannot describe."""

import math

import numpy as np
import torch

from .covariance import coordinates_in_span, residuals_within
from .gaussian_shrinkage import (
    inflation_of,
    is_clearly_better,
    left_out_log_likelihoods,
    likeliest_pseudo_count,
)
from .kmeans import fit_kmeans
from .parts import first_of_parts

_SIZES = (2, 4, 8)
_VECTORS_PER_MODE = 10
_MOST_VECTORS = 2000  # of a class, that decide how many modes it has


@torch.no_grad()
def find_modes(x, codes, n_classes, seed, parts=None):
    """Split every class into modes where that makes its vectors clearly more likely.

    The candidates are clusters of k-means, on features of equal variance, that share a covariance.
    They are compared by the likelihood of vectors left out, one at a time.

    Parameters
    ----------
    x : Tensor of shape (n, n_features), float64
    codes : Tensor of shape (n,), int64
    n_classes, seed : int
    parts : Tensor of shape (n,), int64, default=None
        The part of each vector. The first vector of a part tells the mode of all, because repeats
        look like a cluster. None = each is its own part.

    Returns
    -------
    Tensor of shape (n,), int64
        Mode of each vector, numbered within its class from 0.
    """
    if parts is not None:
        _, place = torch.unique(parts, return_inverse=True)
        rows = torch.from_numpy(first_of_parts(parts.numpy()))
        found = torch.zeros(int(place.max()) + 1, dtype=codes.dtype)
        found[place[rows]] = find_modes(x[rows], codes[rows], n_classes, seed)
        return found[place]
    modes = torch.zeros_like(codes)
    for code in range(n_classes):
        rows = torch.nonzero(codes == code)[:, 0]
        modes[rows] = _modes_of(x[rows], seed)
    return modes


def numbered(codes, modes):
    """Return numbers (n,), int64, from 0, of the modes of all classes together."""
    pairs = codes * (modes.max() + 1) + modes
    return torch.unique(pairs, return_inverse=True)[1]


def _modes_of(x, seed):
    best = torch.zeros(len(x), dtype=torch.int64)
    if len(x) < _SIZES[0] * _VECTORS_PER_MODE:
        return best
    spread = x.std(0, correction=0)
    varies = spread > 1e-10 * spread.max()
    if not varies.any():
        return best
    spread = spread[varies]
    x = x[:, varies]
    x = (x - x.mean(0)) / spread
    step, n_features = -(-len(x) // _MOST_VECTORS), x.shape[1]
    n_distinct = len(torch.unique(x[::step], dim=0))
    if n_features > len(x):
        x = coordinates_in_span(x)
    drawn = x[::step]
    likelihoods = _likelihoods(drawn, torch.zeros(len(drawn), dtype=torch.int64), n_features)
    chosen = None
    for size in _SIZES:
        if len(drawn) < size * _VECTORS_PER_MODE or n_distinct < size:
            break
        kmeans = fit_kmeans(drawn, size, seed)
        found = _likelihoods(drawn, _nearest(kmeans, drawn), n_features)
        if not is_clearly_better(found, likelihoods):
            break
        chosen, likelihoods = kmeans, found
    return best if chosen is None else _nearest(chosen, x)


def _nearest(kmeans, x):
    """Nearest center of each vector, numbered from 0 among those that are nearest to any."""
    labels = torch.from_numpy(kmeans.predict(x.numpy()).astype(np.int64))
    return torch.unique(labels, return_inverse=True)[1]


def _likelihoods(x, modes, n_features):
    """Left-out log-likelihoods of vectors under the Gaussians of their modes, of one covariance.

    The vectors may leave out those of `n_features` features in which they do not vary.
    """
    residuals = residuals_within(x, modes)
    scale = float(residuals.square().sum()) / len(x) / n_features
    if not scale > 1e-20:
        return torch.full((len(x),), -math.inf, dtype=x.dtype)
    inflation = inflation_of(modes)
    pseudo = likeliest_pseudo_count(residuals, inflation, scale, n_features, n_features=n_features)
    weights = (torch.bincount(modes)[modes] / len(x)).log()
    return weights + left_out_log_likelihoods(residuals, inflation, pseudo, scale, n_features)
