"""The feature vectors of normal samples that a model keeps, so that it can be updated."""

from typing import NamedTuple

import numpy as np

MOST_KEPT = 4096  # of a class; of larger classes none, sums are enough


class KeptVectors(NamedTuple):
    """Normal feature vectors, as given to fit; those with far cells, too, see `fitting.far_cells`.

    Attributes
    ----------
    x : ndarray of shape (n_kept, n_features), float64
    codes : ndarray of shape (n_kept,), int64
        Class of each vector. Of a class, all vectors are here or none.
    parts : ndarray of shape (n_kept,), int64, or None
        The part of each vector; None = each is its own.
    """

    x: np.ndarray
    codes: np.ndarray
    parts: np.ndarray | None = None

    @classmethod
    def of(cls, x, codes, parts=None):
        """Keep the vectors of all classes that are not too large; those of code -1 are left out."""
        codes = np.asarray(codes, dtype=np.int64)
        counts = np.bincount(codes[codes >= 0], minlength=1)
        kept = np.flatnonzero((codes >= 0) & (counts[codes] <= MOST_KEPT))
        return cls(np.asarray(x, dtype=np.float64), codes, parts).at(kept)

    def joined(self, x, codes, parts=None):
        """Return these and more vectors, of classes that are kept, and of other parts."""
        x = np.concatenate((self.x, np.asarray(x, dtype=np.float64)))
        parts = joined_parts(self.parts, len(self.codes), parts, len(codes))
        return KeptVectors.of(x, np.concatenate((self.codes, codes)), parts)

    def at(self, rows):
        """Return some of the vectors."""
        return KeptVectors(*(None if values is None else values[rows] for values in self))

    def without(self, codes):
        """Return the vectors of all classes but these."""
        return self.at(~np.isin(self.codes, codes))

    def recoded(self, places):
        """Return the same, where class k has the code `places`[k]."""
        return self._replace(codes=places[self.codes])


def joined_parts(parts, n, others, n_others):
    """Join the numbers of the parts of n samples and of others, which are of other parts.

    None where each sample is its own part: before, and after.
    """
    if parts is None and others is None:
        return None
    parts = np.arange(n) if parts is None else parts
    others = np.arange(n_others) if others is None else others
    return np.concatenate((parts, others + 1 + parts.max(initial=-1)))
