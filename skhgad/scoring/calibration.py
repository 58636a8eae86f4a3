"""Thresholds, common scales and p-values from normal samples the flow did not train on."""

import math
import warnings
from numbers import Real
from typing import NamedTuple

import numpy as np

FALSE_ALARM_RATE = 0.05
# A class counts as this many samples less of itself and as many of all classes together.
_BORROWED_SAMPLES = 5


class Calibration(NamedTuple):
    """What the model finds in the normal samples that judge all others.

    Attributes
    ----------
    scores : ndarray of shape (n_samples,), float64
        Normality scores, class inferred.
    codes : ndarray of shape (n_samples,), int64
        Class of each sample, as given to fit.
    inferred : ndarray of shape (n_samples,), int64
        Class of each sample, as inferred.
    given_scores : ndarray of shape (n_samples,), float64
        Normality scores under the class given to fit.
    typicality : ndarray of shape (n_samples,), float64
        How well each sample fits the class inferred as a whole; see `ScoredBatch`.
    """

    scores: np.ndarray
    codes: np.ndarray
    inferred: np.ndarray
    given_scores: np.ndarray
    typicality: np.ndarray

    def p_values(self, scores, codes, *, given):
        """Compare samples with those whose class was found in the same way, given or inferred.

        See `conformal_p_values`. Samples whose class is inferred wrongly would else be compared
        with normals of a class that is not theirs, and samples told rightly with scores of the
        wrong class.
        """
        if given:
            return conformal_p_values(scores, codes, self.given_scores, self.codes)
        return conformal_p_values(scores, codes, self.scores, self.inferred)


def hold_out(codes, fraction, random_state):
    """Choose, in every class, the samples kept from training for calibration.

    Parameters
    ----------
    codes : ndarray of shape (n_samples,)
        Class of each normal sample.
    fraction : float in [0, 1)
    random_state : numpy.random.RandomState

    Returns
    -------
    ndarray of shape (n_samples,), bool
        True = held out. A class of fewer than 5 samples keeps all of them for training.
    """
    held_out = np.zeros(len(codes), dtype=bool)
    for code in np.unique(codes):
        rows = np.flatnonzero(codes == code)
        n_held = round(fraction * len(rows)) if len(rows) >= 5 else 0
        if fraction > 0 and len(rows) >= 5:
            n_held = max(1, n_held)
        held_out[random_state.permutation(rows)[:n_held]] = True
    return held_out


def class_scales(anomaly_scores, codes, n_classes):
    """Location and scale that put the image scores of all classes on one scale.

    The location is the median over normal samples, the scale the mean excess above it. Classes
    with few samples are drawn towards the median location and scale of all classes.

    Parameters
    ----------
    anomaly_scores : ndarray of shape (n_samples,)
        Higher = more anomalous.
    codes : ndarray of shape (n_samples,)
    n_classes : int

    Returns
    -------
    location, scale : ndarray of shape (n_classes,)
    """
    own = [anomaly_scores[codes == code] for code in range(n_classes)]
    others = np.transpose([_median_and_excess(values) for values in own if len(values)])
    location, scale = np.transpose([borrowed_scales(values, others) for values in own])
    # One sample, or copies of one: no spread to go by.
    scale[scale <= 1e-12 * np.maximum(1, np.abs(location))] = 1.0
    return location, scale


def borrowed_scales(own, others):
    """Draw the location and scale of a class of few samples towards the median of other classes'.

    Parameters
    ----------
    own : ndarray of shape (n_samples,)
        Anomaly scores of the class; may be empty.
    others : tuple of ndarray of shape (n_others,)
        Their locations and scales.

    Returns
    -------
    ndarray of shape (2,)
        Location and scale, as from `class_scales`.
    """
    common = np.median(others, axis=1)
    if not len(own):
        return common
    found = np.array(_median_and_excess(own))
    return found + _BORROWED_SAMPLES / (len(own) + _BORROWED_SAMPLES) * (common - found)


def threshold(scores, false_alarm_rate=FALSE_ALARM_RATE):
    """Score below which a fresh normal sample falls with at most `false_alarm_rate`.

    Parameters
    ----------
    scores : ndarray of shape (n_samples,)
        Normality scores of held-out normal samples.
    false_alarm_rate : float in (0, 1)

    Returns
    -------
    float
        The conformal quantile: the k-th smallest score with k = floor(rate (n + 1)); with fewer
        than 1 / rate - 1 samples no quantile can promise the rate, and the smallest score is used.
    """
    rank = max(1, int(np.floor(false_alarm_rate * (len(scores) + 1))))
    return float(np.sort(scores)[rank - 1])


def check_rate(rate, name):
    """Raise ValueError, or TypeError, unless a rate lies strictly between 0 and 1."""
    if isinstance(rate, bool) or not isinstance(rate, Real):
        raise TypeError(f"{name} must be a number between 0 and 1, got {rate!r}.")
    if not 0 < rate < 1:
        raise ValueError(f"{name} must lie strictly between 0 and 1, got {rate!r}.")


def promised_threshold(scores, false_alarm_rate):
    """`threshold`, with a UserWarning where there are too few samples to promise the rate."""
    check_rate(false_alarm_rate, "false_alarm_rate")
    needed = math.ceil(1 / false_alarm_rate - 1 - 1e-9)
    if len(scores) < needed:
        warnings.warn(
            f"false_alarm_rate={false_alarm_rate:g} needs at least {needed} calibration samples, "
            f"there are {len(scores)}: offset_ is the smallest calibration score, which promises "
            f"no rate below {1 / (len(scores) + 1):.3g}.",
            UserWarning,
            stacklevel=3,
        )
    return threshold(scores, false_alarm_rate)


def unseen(typicality, codes, calibration, rate):
    """Tell which samples are less typical of their class than all but a share of its normals.

    Parameters
    ----------
    typicality, codes : ndarray of shape (n_samples,)
    calibration : Calibration
    rate : float in (0, 1)
        That share.

    Returns
    -------
    ndarray of shape (n_samples,), bool

    Warns
    -----
    UserWarning
        If a class that was inferred has too few calibration samples to find any such sample.
    """
    check_rate(rate, "unknown_rate")
    p_values = conformal_p_values(typicality, codes, calibration.typicality, calibration.inferred)
    counts = np.bincount(calibration.inferred, minlength=codes.max() + 1)[codes]
    fewest = np.where(counts, counts, len(calibration.codes)).min()
    if fewest + 1 < 1 / rate - 1e-9:
        warnings.warn(
            f"unknown_rate={rate:g} needs at least {math.ceil(1 / rate - 1 - 1e-9)} held-out "
            f"normals in a class to find any unknown; one has {fewest}.",
            UserWarning,
            stacklevel=4,
        )
    return p_values <= rate


def conformal_p_values(scores, codes, reference_scores, reference_codes):
    """Class-conditional (Mondrian) conformal p-values.

    Parameters
    ----------
    scores, codes : ndarray of shape (n_samples,)
    reference_scores, reference_codes : ndarray of shape (n_reference,)
        Held-out normal samples. A class without any is compared with all of them.

    Returns
    -------
    ndarray of shape (n_samples,)
        (1 + number of reference scores of the class not above the score) / (1 + their number).
    """
    p_values = np.empty(len(scores))
    for code in np.unique(codes):
        own = reference_scores[reference_codes == code]
        own = np.sort(own if len(own) else reference_scores)
        chosen = codes == code
        p_values[chosen] = (1 + np.searchsorted(own, scores[chosen], side="right")) / (1 + len(own))
    return p_values


def _median_and_excess(values):
    """Median, and mean excess of the values above it."""
    median = np.median(values)
    above = values[values > median] - median
    return median, above.mean() if len(above) else 0.0
