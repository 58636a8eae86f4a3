"""Whether samples given one after the other look like repeats of one part."""

import math
from typing import NamedTuple

import numpy as np
from scipy.special import bdtrc

from .level_means import level_means

# Places before and after a sample, and how much nearer than all others a neighbour there must be.
# Of solar cells of one module, given one after the other, a third are within 0.8; of pictures and
# vectors repeated twice or five times, 38 to 95 %. Of ten repeats, some stand farther off.
_WINDOWS = ((4, 0.8), (16, 0.5))
_LEAST_SHARE = 0.5
_SMALLEST_PROBABILITY = 1e-6
_MOST_COMPARED = 100_000  # samples of a class, the first ones
_QUERIES = 300  # of these, that are looked at
_BLOCK_ENTRIES = 1 << 22  # of a matrix of distances
_ROUNDING = 1e-9  # of the squares, below which samples count as equal


class Repeats(NamedTuple):
    """A class whose samples do not look independent.

    Attributes
    ----------
    code : int
    n_samples : int
    width : int
        Places before and after a sample that are near.
    share : float
        Of the samples, which are much nearer to one in these places than to any other.
    chance : float
        Which this share does not exceed in random order, in mean.
    """

    code: int
    n_samples: int
    width: int
    share: float
    chance: float


def repeats_of(samples):
    """Return `find_repeats` of LabelledSamples; of images, by the means of their smallest level.

    All processes must call at the same time.
    """
    shapes = samples.cache.shapes
    (x,) = level_means(samples, [int(np.argmin([math.prod(shape) for shape in shapes]))])
    return find_repeats(x, samples.of_pictures(samples.codes))


def find_repeats(x, codes):
    """Find the classes of which most samples are much nearer to one beside them than to others.

    In random order, the nearest of n samples is one of w places before and after with the
    probability 2 w / (n - 1), and seldom much nearer than all others. The repeats of a part usually
    stand together. A class is found if this is so of half of its samples, and chance gives as many
    with a probability below 1e-6. Two samples are often the nearest of each other, so half as many
    count as independent.

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
        rows = np.flatnonzero(codes == code)
        own = x[rows[:_MOST_COMPARED]]
        counts, n = _counts_beside(own)
        for (width, _), count in zip(_WINDOWS, counts.tolist(), strict=True):
            share, chance = count / max(1, n), min(1.0, 2 * width / max(1, len(own) - 1))
            probability = bdtrc(math.floor(count / 2) - 1, n // 2, chance) if count > 1 else 1.0
            if share >= _LEAST_SHARE and probability < _SMALLEST_PROBABILITY:
                found.append(Repeats(code, len(rows), width, share, chance))
                break
    return found


def _counts_beside(x):
    """Count samples much nearer to one beside them than to others, by `_WINDOWS`; of how many."""
    n, spread, counts = len(x), x.std(axis=0), np.zeros(len(_WINDOWS), dtype=np.int64)
    x = x[:, spread > 1e-10 * spread.max(initial=0)]
    if n <= 2 * _WINDOWS[0][0] + 1 or not x.shape[1] or _is_sorted(x).any():
        return counts, 0
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    rows = np.arange(n)
    if n > _QUERIES:
        rows = np.sort(np.random.RandomState(0).choice(n, _QUERIES, replace=False))
    squares, n_queries = np.square(x).sum(axis=1), 0
    step = max(1, _BLOCK_ENTRIES // n)
    for block in np.split(rows, range(step, len(rows), step)):
        distances = squares[block, None] + squares - 2 * x[block] @ x.T
        places = abs(block[:, None] - np.arange(n))
        distances[places == 0] = np.inf
        is_apart = distances.min(axis=1) > _ROUNDING * squares.mean()
        n_queries += np.count_nonzero(is_apart)
        for index, (width, factor) in enumerate(_WINDOWS):
            beside = distances.min(axis=1, where=places <= width, initial=np.inf)
            others = distances.min(axis=1, where=places > width, initial=np.inf)
            counts[index] += np.count_nonzero(is_apart & (beside < factor**2 * others))
    return counts, n_queries


def _is_sorted(x):
    """Return which features ascend or descend."""
    steps = np.diff(x, axis=0)
    return (steps >= 0).all(axis=0) | (steps <= 0).all(axis=0)
