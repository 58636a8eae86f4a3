"""Whether samples given one after the other look like repeats of one part."""

import math
from typing import NamedTuple

import numpy as np
from scipy.special import bdtrc

from .level_means import level_means

_QUERIES = 500  # samples of a class that are looked at
_LEAST_SHARE = 0.3
_SMALLEST_PROBABILITY = 1e-6
_BLOCK_ENTRIES = 1 << 22  # of a matrix of distances


class Repeats(NamedTuple):
    """A class whose samples do not look independent.

    Attributes
    ----------
    code : int
    n_samples : int
    share : float
        Of the samples, whose nearest neighbour stands next to them.
    chance : float
        What this share is expected to be in random order.
    """

    code: int
    n_samples: int
    share: float
    chance: float


def repeats_of(samples):
    """Return `find_repeats` of LabelledSamples; of images, by the means of their smallest level.

    All processes must call at the same time.
    """
    shapes = samples.cache.shapes
    (x,) = level_means(samples, [int(np.argmin([math.prod(shape) for shape in shapes]))])
    codes = samples.of_pictures(samples.codes)
    return find_repeats(x, codes)


def find_repeats(x, codes):
    """Find the classes whose samples mostly have their nearest neighbour next to them.

    In random order, the nearest of n samples stands next to a given one with the probability
    2 / (n - 1). The repeats of a part usually stand together. A class is found if the share is at
    least 30 %, and chance gives as much with a probability below 1e-6. Two samples are often the
    nearest of each other, so half as many count as independent.

    Samples with an equal one do not count: rows of few distinct values may be sorted. Nor does a
    class in which a feature ascends or descends, because it is sorted by this feature.

    Parameters
    ----------
    x : ndarray of shape (n_samples, n_features), float64
        In the order given.
    codes : ndarray of shape (n_samples,), int64

    Returns
    -------
    list of Repeats
    """
    found = []
    for code in np.unique(codes).tolist():
        own = x[codes == code]
        share, n_queries = _share_beside(own)
        if share < _LEAST_SHARE:
            continue
        chance = 2 / (len(own) - 1)
        n_independent = n_queries // 2
        n_beside = np.floor(share * n_independent)
        if bdtrc(n_beside - 1, n_independent, chance) < _SMALLEST_PROBABILITY:
            found.append(Repeats(code, len(own), share, chance))
    return found


def _share_beside(x):
    """Return the share of some samples whose nearest other one is next to them; how many count."""
    n, spread = len(x), x.std(axis=0)
    x = x[:, spread > 1e-10 * spread.max(initial=0)]
    if n < 3 or not x.shape[1] or _is_sorted(x).any():
        return 0.0, 0
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    rows = np.arange(n)
    if n > _QUERIES:
        rows = np.sort(np.random.RandomState(0).choice(n, _QUERIES, replace=False))
    squares = np.square(x).sum(axis=1)
    n_beside = n_queries = 0
    step = max(1, _BLOCK_ENTRIES // n)
    for block in np.split(rows, range(step, len(rows), step)):
        distances = squares[block, None] + squares - 2 * x[block] @ x.T
        places = np.arange(len(block))
        distances[places, block] = np.inf
        nearest = distances.argmin(axis=1)
        # Equal samples, but for rounding.
        is_apart = distances[places, nearest] > 1e-9 * squares.mean()
        n_queries += np.count_nonzero(is_apart)
        n_beside += np.count_nonzero(is_apart & (abs(nearest - block) == 1))
    return n_beside / max(1, n_queries), n_queries


def _is_sorted(x):
    """Return which features ascend or descend."""
    steps = np.diff(x, axis=0)
    return (steps >= 0).all(axis=0) | (steps <= 0).all(axis=0)
