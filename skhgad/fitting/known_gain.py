"""Whether a correction by known defects helps a class, measured on defects it has not seen."""

import math
from typing import NamedTuple

import numpy as np

# A normal counts as above a defect by a smooth step of this width, in units of scores. Counted as
# wholly above or below, few normals and defects would hardly show a change.
_SOFTNESS = 1.0
_LEAST_GAIN = 1e-6  # less is rounding


class Gain(NamedTuple):
    """See `KnownAnomalies`."""

    n_anomalies: int
    gain: float
    standard_error: float
    is_kept: bool


def no_gain(n_anomalies):
    """Return the Gain of a class in which nothing could be measured."""
    return Gain(int(n_anomalies), math.nan, math.nan, False)


def measured_gain(before, after):
    """Return the Gain of a class.

    Parameters
    ----------
    before, after : pair (normals, defects) of ndarray of shape (n_normals,) and (n_defects,)
        Normality scores without and with the correction, by models that have not seen the sample.

    Returns
    -------
    Gain
        It is kept where the gain exceeds its standard error and is more than rounding.
    """
    gains = _ranks(*after) - _ranks(*before)
    gain, error = gains.mean(), gains.std(ddof=1) / len(gains) ** 0.5
    return Gain(len(gains), float(gain), float(error), bool(gain > max(error, _LEAST_GAIN)))


def _ranks(normals, defects):
    """Return for each defect the share of normals that score higher, each counted softly."""
    normals, defects = _in_excesses(normals, defects)
    apart = np.clip((normals - defects[:, None]) / _SOFTNESS, -500, 500)
    return (1 / (1 + np.exp(-apart))).mean(axis=1)


def _in_excesses(normals, defects):
    """Measure scores by the median of the normals and their mean distance below it."""
    median = np.median(normals)
    below = (median - normals)[normals < median]
    scale = below.mean() if len(below) else 1.0
    return (normals - median) / scale, (defects - median) / scale
