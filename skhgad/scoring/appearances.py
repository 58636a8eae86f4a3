"""How the normal pictures of a fit looked, which `DriftMonitor` compares later ones with."""

import numpy as np

from .kept_vectors import KeptVectors

MOST_KEPT = 2000  # of a class


def appearances_of(x, codes, before=None):
    """Return the appearances of normal pictures, as KeptVectors; None where there are none.

    Parameters
    ----------
    x : ndarray of shape (n_pictures, 3)
        As in `ObservedSource`; pictures that were not read are left out.
    codes : ndarray of shape (n_pictures,), int64
        Class of each; pictures of code -1 are left out.
    before : KeptVectors, default=None
        Others to which these are added. Of a class with more than `MOST_KEPT`, every so manieth
        stays.
    """
    known = np.isfinite(x).all(axis=1) & (codes >= 0)
    x, codes = x[known], codes[known]
    if before is not None:
        x, codes = np.concatenate((before.x, x)), np.concatenate((before.codes, codes))
    kept = [_evenly(np.flatnonzero(codes == code)) for code in np.unique(codes)]
    if not kept:
        return None
    rows = np.concatenate(kept)
    return KeptVectors(x[rows], codes[rows])


def known_pictures(fitted, images):
    """Return which images look, to the last digit, as a normal picture of the fit, a bool ndarray.

    `fitted` is the FittedModel. All images must be readable.
    """
    if fitted.appearances is None:
        return np.zeros(len(images), dtype=bool)
    known, source = set(map(tuple, fitted.appearances.x.tolist())), fitted.observed(images)
    looks = source.looks(np.arange(len(images)))
    return np.array([tuple(look) in known for look in looks.tolist()], dtype=bool)


def same_regions(before, after):
    """Whether two models, by their ProductMasks or None, see the same part of pictures."""
    return _masks(before) == _masks(after)


def _masks(roi):
    found = set() if roi is None else {(mask.shape, mask.tobytes()) for mask in roi.masks}
    return found | ({None} if roi is None or -1 in roi.of_class else set())


def _evenly(rows):
    if len(rows) <= MOST_KEPT:
        return rows
    return rows[np.linspace(0, len(rows) - 1, MOST_KEPT).round().astype(int)]
