"""Scores between 0 and 1."""

import numpy as np
from scipy.special import expit


def anomaly_probability(decisions, calibration_scores):
    """Put scores on a scale from 0, normal, to 1, anomalous; see `HGADDetector`.

    Parameters
    ----------
    decisions : ndarray of shape (n_samples,)
        As from `decision_function`: 0 at the threshold, which gets 0.5, higher = more normal.
    calibration_scores : ndarray of shape (n_calibration,)
        Scores of held-out normals.

    Returns
    -------
    ndarray of shape (n_samples,), float64
    """
    with np.errstate(over="ignore"):  # a score near the lowest float becomes 1
        return expit(-decisions / lower_spread(calibration_scores))


def lower_spread(scores):
    """Distance from the median of scores to their lower quartile; 1 if there is none."""
    quartile, median = np.quantile(scores, (0.25, 0.5))
    spread = float(median - quartile)
    return spread if spread > 1e-12 * max(1.0, abs(median)) else 1.0
