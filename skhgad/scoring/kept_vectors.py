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
    """

    x: np.ndarray
    codes: np.ndarray

    @classmethod
    def of(cls, x, codes):
        """Keep the vectors of all classes that are not too large; those of code -1 are left out."""
        codes = np.asarray(codes, dtype=np.int64)
        counts = np.bincount(codes[codes >= 0], minlength=1)
        kept = np.flatnonzero((codes >= 0) & (counts[codes] <= MOST_KEPT))
        return cls(np.asarray(x, dtype=np.float64)[kept], codes[kept])

    def joined(self, x, codes):
        """Return these and more vectors, of classes that are kept."""
        x = np.concatenate((self.x, np.asarray(x, dtype=np.float64)))
        return KeptVectors.of(x, np.concatenate((self.codes, codes)))

    def without(self, codes):
        """Return the vectors of all classes but these."""
        kept = ~np.isin(self.codes, codes)
        return KeptVectors(self.x[kept], self.codes[kept])

    def recoded(self, places):
        """Return the same, where class k has the code `places`[k]."""
        return self._replace(codes=places[self.codes])
