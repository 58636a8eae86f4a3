"""Samples that are copies of others: a table exported twice, a class that was oversampled."""

import numpy as np

from ..images.appearance import ObservedSource

_FEWEST_VALUES = 50  # or half of the distinct rows: what a feature has that was measured finely
_LEAST_SHARE = 0.05  # of the samples of a class; fewer copies do no harm
_UNSEEN = 3  # pairs: so many are expected at most, with 95 % confidence, where none was seen
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def find_copies(X, codes):
    """Return `copies_of_vectors`, or `copies_of_pictures` of an ObservedSource, which are read."""
    if not isinstance(X, ObservedSource):
        return copies_of_vectors(X, codes)
    X.looks(np.flatnonzero(codes >= 0))
    return copies_of_pictures(X.appearance, codes)


def copies_of_vectors(x, codes):
    """Return numbers of parts in which the copies of a vector are one; None without copies.

    Rows of few distinct values are equal by chance, and are no copies. The distinct rows of the
    class tell how often that happens: at most as often as two of them agree in the features with
    most distinct values, up to three. A class has copies if more pairs of its rows are equal, and
    if one feature has many distinct values.

    Parameters
    ----------
    x : ndarray of shape (n_samples, n_features)
    codes : ndarray of shape (n_samples,), int64
        Class of each; those of code -1 are no copies.

    Returns
    -------
    ndarray of shape (n_samples,), int64, or None
    """
    first = _unless_few(_first_equal(x, codes), codes)
    for code in _classes_with_copies(first, codes):
        rows = np.flatnonzero(codes == code)
        distinct, counts = np.unique(first[rows], return_counts=True)
        n_by_chance = _share_of_equal_pairs(x[distinct]) * _n_pairs(len(rows))
        if _n_pairs(counts).sum() <= n_by_chance:
            first[rows] = rows
    return _numbers(first)


def copies_of_pictures(looks, codes):
    """Return numbers of parts in which pictures that look in all figures alike are one, or None.

    `looks` (n_pictures, 3) is the `appearance` of an ObservedSource; pictures that were not read
    are no copies. `codes` as of `copies_of_vectors`.
    """
    first = _first_equal(looks, np.where(np.isfinite(looks).all(axis=1), codes, -1))
    return _numbers(_unless_few(first, codes))


def _unless_few(first, codes):
    """Return `first`, in which classes with few copies have none."""
    for code in _classes_with_copies(first, codes):
        rows = np.flatnonzero(codes == code)
        if np.mean(first[rows] != rows) < _LEAST_SHARE:
            first[rows] = rows
    return first


def _classes_with_copies(first, codes):
    return np.unique(codes[first != np.arange(len(first))]).tolist()


def _numbers(first):
    return None if (first == np.arange(len(first))).all() else first


def _first_equal(x, codes):
    """Return the place of the first sample that equals each one and has its code, if not -1."""
    x = np.ascontiguousarray(x, dtype=np.float64) + 0.0  # -0.0 equals 0.0
    hashes = codes.astype(np.uint64)
    for column in x.T:
        hashes = (hashes ^ np.ascontiguousarray(column).view(np.uint64)) * _MULTIPLIER
        hashes ^= hashes >> np.uint64(29)
    _, first, group = np.unique(hashes, return_index=True, return_inverse=True)
    first, own = first[group], np.arange(len(x))
    again = np.flatnonzero((first != own) & (codes >= 0))
    equal = (x[again] == x[first[again]]).all(axis=1) & (codes[again] == codes[first[again]])
    own[again[equal]] = first[again[equal]]
    return own


def _share_of_equal_pairs(x):
    """Return an upper bound of the share of pairs of distinct rows that are equal by chance."""
    n_values = np.array([len(np.unique(column)) for column in x.T])
    if n_values.max() < min(_FEWEST_VALUES, len(x) / 2):
        return np.inf
    chosen = np.argsort(-n_values, kind="stable")[: max(1, min(3, x.shape[1] // 2))]
    _, counts = np.unique(x[:, chosen], axis=0, return_counts=True)
    return (_n_pairs(counts).sum() + _UNSEEN) / max(1, _n_pairs(len(x)))


def _n_pairs(n):
    return n * (n - 1) // 2
