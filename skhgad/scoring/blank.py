"""Pictures without content: the lamp is out, the shutter closed, the sensor overexposed.

Plain areas are usual on many products, so each place of a blank picture looks normal.
"""

import numpy as np

from ..images.appearance import STATISTICS
from .scores import finite_maps

_CONTRAST = STATISTICS.index("contrast")
_LEAST_SHARE = 1 / 3  # of the smallest contrast of the normals of a class
_DEPTH = 100.0  # how far a picture without any contrast lies below all normals


class BlankPictures:
    """Finds pictures with far less contrast than any normal of their class.

    Parameters
    ----------
    appearances : KeptVectors
        How normal pictures looked, see `appearances_of`.
    calibration : Calibration
    n_classes : int
    """

    def __init__(self, appearances, calibration, n_classes):
        self.limits = np.zeros(n_classes)
        for code in np.unique(appearances.codes):
            own = appearances.x[appearances.codes == code, _CONTRAST]
            self.limits[code] = _LEAST_SHARE * own.min()
        self.lowest = calibration.scores.min(initial=0.0)

    def judged(self, batch, looks):
        """Return a ScoredBatch in which blank pictures score lower than all calibrating normals.

        What the score loses, the anomaly map gains at every place. `looks` (n, 3) is the
        `appearance` of the pictures; those that were not read stay as they are.
        """
        contrast, limits = looks[:, _CONTRAST], self.limits[batch.codes]
        is_blank = contrast < limits
        if not is_blank.any():
            return batch
        missing = 1 - contrast[is_blank] / limits[is_blank]
        scores = batch.scores.copy()
        scores[is_blank] = np.minimum(scores[is_blank], self.lowest - _DEPTH * missing)
        rise = batch.maps.new_tensor(batch.scores - scores)[:, None, None]
        return batch._replace(scores=scores, maps=finite_maps(batch.maps + rise), is_blank=is_blank)
