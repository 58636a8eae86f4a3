"""Several samples of one part: they stay together, and one of them calibrates.

What a model says of a sample tells nothing of fresh parts if the model has seen another sample of
the same part. And of several samples of a part, only one counts as a fresh part does.
"""

from dataclasses import dataclass

import numpy as np

from ..validation import listed


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

    def of(self, rows):
        """Return the parts of some of the samples, in this order."""
        return Parts(self.numbers[rows], self.judged[rows])


def first_of_parts(numbers):
    """Return the places of the first sample of each part, sorted."""
    return np.sort(np.unique(numbers, return_index=True)[1])


def check_groups(groups, codes, classes):
    """Turn `groups` as users give them into numbers of parts; None stays None.

    Parameters
    ----------
    groups : array-like of shape (n_samples,), or None
        Equal labels, str or int, mark samples of one part.
    codes : ndarray of shape (n_samples,), int64
        Class of each sample, -1 = known anomaly.
    classes : ndarray of shape (n_classes,)

    Returns
    -------
    ndarray of shape (n_samples,), int64, or None

    Raises
    ------
    ValueError, TypeError
        If there is not one label a sample, a label is missing or not hashable, or a part has normal
        samples of two classes.
    """
    if groups is None:
        return None
    shape = np.shape(groups) if hasattr(groups, "shape") else (len(groups),)
    if shape != (len(codes),):
        raise ValueError(
            f"groups has the shape {shape}, and X has {len(codes)} samples: give one label for "
            "each sample, equal for samples of one part."
        )
    labels = groups.tolist() if hasattr(groups, "tolist") else list(groups)
    found, numbers = {}, np.empty(len(labels), dtype=np.int64)
    for place, label in enumerate(labels):
        if label is None or label != label:
            raise ValueError(
                f"groups[{place}] is {label!r}: a sample that is the only one of its part needs a "
                "label of its own."
            )
        try:
            numbers[place] = found.setdefault(label, len(found))
        except TypeError:
            raise TypeError(f"groups[{place}] is {label!r}: labels are str or int.") from None
    pairs = np.unique(np.stack((numbers, codes))[:, codes >= 0], axis=1)
    twice = np.unique(pairs[0][1:][pairs[0][1:] == pairs[0][:-1]])
    if len(twice):
        label = list(found)[twice[0]]
        names = classes[pairs[1][pairs[0] == twice[0]]].tolist()
        raise ValueError(
            f"groups: the part {label!r} has normal samples of the classes "
            f"{listed(map(repr, names))}. All of a part belong to one class."
        )
    return numbers
