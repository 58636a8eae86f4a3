"""Thresholds and p-values from normal samples that the flow did not train on."""

import math
from typing import NamedTuple

import numpy as np

from ..caller import warn_caller
from ..validation import check_rate

FALSE_ALARM_RATE = 0.05
_FLOAT32_RANGE = np.finfo(np.float32).min, np.finfo(np.float32).max
# Shares of a score. Scores of one sample in batches of different sizes differ by rounding, which is
# far less: of images, computed in float32, and of vectors, in float64.
_TIE_FLOAT32, _TIE_FLOAT64 = 1e-4, 1e-9
_SMALLEST_TIE = 1e-12  # where all scores are 0 up to rounding


class Calibration(NamedTuple):
    """What the model says of the calibration samples, with which all others are compared.

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
        How well each whole sample fits the inferred class; see `ScoredBatch`.
    peaks : ndarray of shape (n_samples, n_terms), float64
        Largest value of each term under the class given to fit, before `peak_location` and
        `peak_scale`; see `ScoringModel.peaks`. They settle the scales of a class anew.
    """

    scores: np.ndarray
    codes: np.ndarray
    inferred: np.ndarray
    given_scores: np.ndarray
    typicality: np.ndarray
    peaks: np.ndarray

    def joined(self, more):
        """Return these calibration samples, then those of another Calibration."""
        return Calibration(*map(np.concatenate, zip(self, more, strict=True)))

    def p_values(self, scores, codes, *, given):
        """Compare samples with those whose class was found in the same way, given or inferred.

        See `conformal_p_values`. A sample whose class is inferred is compared with normals of
        which the same class was inferred, rightly or wrongly. A sample whose class is given is
        compared with normals of that class.
        """
        if given:
            return conformal_p_values(scores, codes, self.given_scores, self.codes)
        return conformal_p_values(scores, codes, self.scores, self.inferred)


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
        The conformal quantile: just below the k-th smallest score, as `below_ties` says, with
        k = floor(rate (n + 1)); with fewer than 1 / rate - 1 samples no quantile can promise the
        rate, and the smallest score is used.
    """
    rank = max(1, int(np.floor(false_alarm_rate * (len(scores) + 1))))
    return below_ties(np.sort(scores)[rank - 1], scores)


def threshold_after(detector, calibration):
    """Return `offset_` after a change: computed again where `fit` computed it, else as it is."""
    is_computed = detector.model_.parameters["contamination"] == "auto"
    if is_computed and detector.offset_ == threshold(detector.model_.calibration.scores):
        return threshold(calibration.scores)
    return detector.offset_


def below_ties(offset, scores):
    """Lower a threshold until rounding decides no verdict on the scores it was chosen from.

    The score of a sample depends on the batch it comes in, but only by rounding. Scores that are
    closer to the threshold than `tie_distance` count as equal to it; what is equal is not below it.

    Parameters
    ----------
    offset : float
    scores : ndarray of shape (n_samples,)

    Returns
    -------
    float
    """
    margin = tie_distance(scores, offset)
    for score in np.sort(scores)[::-1]:
        if abs(score - offset) <= margin:
            offset = score - margin
    return float(offset)


def tie_distance(scores, values):
    """Distance from each of `values` within which a score counts as equal to it.

    It is 1e-4 (images) or 1e-9 (vectors) of the value's size, or of the median size of `scores`
    where that is larger. `scores` also tell which of the two they are: those of images are float32
    numbers.
    """
    in_range = np.clip(scores, *_FLOAT32_RANGE)  # what overflowed lies outside
    is_float32 = np.array_equal(in_range.astype(np.float32), in_range)
    share = _TIE_FLOAT32 if is_float32 else _TIE_FLOAT64
    size = np.maximum(np.abs(values), np.median(np.abs(scores)))
    return np.maximum(share * size, _SMALLEST_TIE)


def samples_needed(rate):
    """Return how many normal samples it takes for a quantile that can promise this rate."""
    return math.ceil(1 / rate - 1 - 1e-9)


def promised_threshold(scores, false_alarm_rate, label=None):
    """`threshold`, with a UserWarning where there are too few samples to promise the rate.

    `label` is the class of all samples; None = all classes.
    """
    check_rate(false_alarm_rate, "false_alarm_rate")
    needed = samples_needed(false_alarm_rate)
    if len(scores) < needed:
        of_class, offset = "", "offset_"
        if label is not None:
            of_class, offset = f" of class {label!r}", "its threshold"
        warn_caller(
            f"false_alarm_rate={false_alarm_rate:g}{of_class} needs at least {needed} calibration "
            f"samples, there are {len(scores)}: {offset} lies just below the smallest "
            f"calibration score, which promises no rate below {1 / (len(scores) + 1):.3g}."
        )
    return threshold(scores, false_alarm_rate)


def is_unknown(typicality, codes, calibration, rate):
    """Find the samples that fit their class worse than all but a share of its normals.

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
        warn_caller(
            f"unknown_rate={rate:g} needs at least {samples_needed(rate)} held-out "
            f"normals in a class to find any unknown; one has {fewest}."
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
        Scores that differ by less than `tie_distance` count as equal.
    """
    p_values = np.empty(len(scores))
    for code in np.unique(codes):
        reference = reference_scores[reference_codes == code]
        reference = np.sort(reference if len(reference) else reference_scores)
        reference = reference - tie_distance(reference, reference)
        chosen = codes == code
        n_not_above = np.searchsorted(reference, scores[chosen], side="right")
        p_values[chosen] = (1 + n_not_above) / (1 + len(reference))
    return p_values
