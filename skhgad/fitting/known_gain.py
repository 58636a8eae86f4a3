"""Whether a correction by known defects helps a class, measured on defects it has not seen."""

import math
from typing import NamedTuple

import numpy as np
from scipy.special import expit

# A normal counts as above a defect by a smooth step, 20 / n wide with n normals and at most 1, in
# units of scores. Counted as wholly above or below, few normals would hardly show a change.
_SOFT_NORMALS = 20
_NOISE = 0.5  # standard errors that a gain must exceed
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
        It is kept where the gain exceeds half of its standard error and is more than rounding.
    """
    gains = _ranks(*after) - _ranks(*before)
    gain, error = gains.mean(), gains.std(ddof=1) / len(gains) ** 0.5
    return Gain(
        len(gains), float(gain), float(error), bool(gain > max(_NOISE * error, _LEAST_GAIN))
    )


def _ranks(normals, defects):
    """Return for each defect the share of normals that score higher, each counted softly."""
    normals, defects = _in_excesses(normals, defects)
    width = min(1.0, _SOFT_NORMALS / len(normals))
    apart = np.clip(normals - defects[:, None], -500 * width, 500 * width)
    return expit(apart / width).mean(axis=1)


def _in_excesses(normals, defects):
    """Measure scores by the median of the normals and their mean distance below it."""
    median = np.median(normals)
    below = (median - normals)[normals < median]
    scale = below.mean() if len(below) else 1.0
    return (normals - median) / scale, (defects - median) / scale
