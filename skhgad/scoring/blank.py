"""Pictures without content: the lamp is out, the shutter closed, the sensor overexposed.

Plain areas are usual on many products, so each place of a blank picture looks normal.
"""

import numpy as np

from ..images.appearance import STATISTICS
from .scores import finite_maps

_CONTRAST = STATISTICS.index("contrast")
_LEAST_SHARE = 1 / 3  # of the smallest contrast of the normals of a class
_MOST_BLANK = 0.02  # of the normals of a class: so many pictures of a dead camera may be among them
_ENOUGH = 20  # normals of a class, of which one may be blank
_DEPTH = 100.0  # how far a picture without any contrast lies below all normals


def contrast_limits(appearances, n_classes):
    """Return the contrast of each class below which a picture is blank, an ndarray (n_classes,).

    `appearances` are KeptVectors, see `appearances_of`. Normals that are blank beside all others do
    not count, if they are at most one in 50, or one where there are 20 to 99.
    """
    limits = np.zeros(n_classes)
    for code in np.unique(appearances.codes):
        found = np.sort(appearances.x[appearances.codes == code, _CONTRAST])
        most = max(1, int(_MOST_BLANK * len(found))) if len(found) >= _ENOUGH else 0
        is_gap = found[:most] < _LEAST_SHARE * found[1 : most + 1]
        n_blank = int(np.flatnonzero(is_gap)[-1]) + 1 if is_gap.any() else 0
        limits[code] = _LEAST_SHARE * found[n_blank]
    return limits


def is_blank(looks, codes, limits):
    """Tell which pictures are blank, by their appearance (n, 3) and class (n,); -1: none."""
    return (codes >= 0) & (looks[:, _CONTRAST] < limits[codes])


class BlankPictures:
    """Finds pictures with far less contrast than the normals of their class.

    Parameters
    ----------
    appearances : KeptVectors
        How normal pictures looked, see `appearances_of`.
    calibration : Calibration
    n_classes : int
    """

    def __init__(self, appearances, calibration, n_classes):
        self.limits = contrast_limits(appearances, n_classes)
        self.lowest = calibration.scores.min(initial=0.0)

    def judged(self, batch, looks):
        """Return a ScoredBatch in which blank pictures score lower than all calibrating normals.

        What the score loses, the anomaly map gains at every place. `looks` (n, 3) is the
        `appearance` of the pictures; those that were not read stay as they are.
        """
        found = is_blank(looks, batch.codes, self.limits)
        if not found.any():
            return batch
        missing = 1 - looks[found, _CONTRAST] / self.limits[batch.codes[found]]
        scores = batch.scores.copy()
        scores[found] = np.minimum(scores[found], self.lowest - _DEPTH * missing)
        rise = batch.maps.new_tensor(batch.scores - scores)[:, None, None]
        return batch._replace(scores=scores, maps=finite_maps(batch.maps + rise), is_blank=found)
