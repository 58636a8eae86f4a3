"""Modes of a class of pictures: groups of them that look apart, such as variants of a product."""

from dataclasses import dataclass

import numpy as np
import torch

from .level_means import level_means
from .parts import first_of_parts

_FEWEST = 20  # pictures of a class, below which it has one mode
_MOST = 1000  # pictures of a class that tell its modes
_LEAST_SHARE = 0.1  # of the pictures of a class, that a mode has


@dataclass(frozen=True)
class PictureModes:
    """The mode of each sample of a fit.

    Attributes
    ----------
    of_rows : ndarray of shape (n_rows,), int
        Mode of each cached sample; the modes of all classes are numbered one after the other.
    classes : ndarray of shape (n_modes,), int
        Class of each mode, sorted.
    """

    of_rows: np.ndarray
    classes: np.ndarray

    @classmethod
    def one_a_class(cls, samples):
        """Return one mode for each class of LabelledSamples."""
        return cls(samples.codes, np.arange(samples.n_classes))

    @property
    def n_classes(self):
        """Number of classes."""
        return int(self.classes[-1]) + 1

    @property
    def several(self):
        """The classes with more than one mode, a list."""
        return np.flatnonzero(np.bincount(self.classes) > 1).tolist()

    def of_class(self, code):
        """Return the numbers of the modes of a class, a list."""
        return np.flatnonzero(self.classes == code).tolist()

    def largest_of_classes(self, values):
        """Return the largest of values (n, n_modes) in each class, Tensor (n, n_classes)."""
        if len(self.classes) == self.n_classes:
            return values
        of_classes = [values[:, self.of_class(code)] for code in range(self.n_classes)]
        return torch.stack([own.amax(1) for own in of_classes], 1)

    def merged(self, codes):
        """Return others, in which some classes have one mode."""
        is_first = np.concatenate(([True], self.classes[1:] != self.classes[:-1]))
        is_kept = is_first | ~np.isin(self.classes, codes)
        numbers = np.cumsum(is_kept) - 1
        return PictureModes(numbers[self.of_rows], self.classes[is_kept])


def find_picture_modes(samples, seed):
    """Find groups of pictures in each class that are as separate as products are.

    Parameters
    ----------
    samples : LabelledSamples
        Of a fit.
    seed : int

    Returns
    -------
    PictureModes
    """
    seen = np.unique(samples.numbers_of(samples.rows))  # others are left out, to calibrate
    codes, parts = samples.of_pictures(samples.codes), samples.parts_of_pictures()
    if parts is not None:  # repeats of a part look like a group: one tells the mode of all
        seen = seen[first_of_parts(parts.numbers[seen])]
    counts = np.bincount(codes[seen], minlength=samples.n_classes)
    if not (counts >= _FEWEST).any():
        return PictureModes.one_a_class(samples)
    from .discovery import find_clusters  # and parts of scikit-learn

    means = level_means(samples)
    if samples.pictures is not None:
        means = [of_level[seen] for of_level in means]
    elif parts is not None:
        places = np.searchsorted(samples.rows, seen)
        means = [of_level[places] for of_level in means]
    modes, classes = np.zeros(len(codes), dtype=np.int64), []
    for code in range(samples.n_classes):
        own = codes[seen] == code
        found = np.zeros(len(codes), dtype=np.int64)
        if counts[code] >= _FEWEST:
            random_state = np.random.RandomState(seed)
            found[seen[own]] = find_clusters(
                [part[own] for part in means], random_state, _MOST, _LEAST_SHARE
            )
        modes[codes == code] = len(classes) + found[codes == code]
        classes += [code] * (int(found.max()) + 1)
    if parts is not None:
        of_parts = np.zeros(parts.numbers.max() + 1, dtype=np.int64)
        of_parts[parts.numbers] = np.array(classes).searchsorted(codes)
        of_parts[parts.numbers[seen]] = modes[seen]
        modes = of_parts[parts.numbers]
    modes = samples.cache.processes.broadcast(modes)
    return PictureModes(samples.by_row(modes), np.array(classes))
