"""Several samples of one part: they stay together, and one of them calibrates.

What a model says of a sample tells nothing of fresh parts if the model has seen another sample of
the same part. And of several samples of a part, only one counts as a fresh part does.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Parts:
    """The part of each sample.

    Attributes
    ----------
    numbers : ndarray of shape (n_samples,), int64
    judged : ndarray of shape (n_samples,), bool
        Of each part, the one sample that calibrates.
    """

    numbers: np.ndarray
    judged: np.ndarray

    @classmethod
    def drawn(cls, numbers, codes, random_state):
        """Draw one normal sample of each part; None where there are no numbers of parts.

        `codes` (n_samples,) are classes, -1 = known anomaly.
        """
        if numbers is None:
            return None
        rows = random_state.permutation(np.flatnonzero(codes >= 0))
        judged = np.zeros(len(numbers), dtype=bool)
        judged[rows[first_of_parts(numbers[rows])]] = True
        return cls(numbers, judged)

    def firsts(self):
        """Return the place of the first sample of each part, and the part of each sample, from 0.

        What is decided for the first samples, `values`, holds for all as `values[..., part]`.
        """
        _, first, part = np.unique(self.numbers, return_index=True, return_inverse=True)
        return first, part

    def of(self, rows):
        """Return the parts of some of the samples, in this order."""
        return Parts(self.numbers[rows], self.judged[rows])


def first_of_parts(numbers):
    """Return the places of the first sample of each part, sorted."""
    return np.sort(np.unique(numbers, return_index=True)[1])
