"""The scales on which the evidence of all classes is compared, from the peaks of normal samples."""

from typing import NamedTuple

import numpy as np
import torch

# A class of n samples has the weight n / (n + 5) in its scales; all classes together have the rest.
_BORROWED_SAMPLES = 5
# In a larger class, leaving one sample out hardly changes the scales, and none is left out.
_MOST_LEFT_OUT = 200
# So many median excesses one excess counts at most. Of an exponential distribution, one value in
# 100,000 is larger.
_LARGEST_EXCESS = 16.0


class ClassScales(NamedTuple):
    """Affine maps that put the terms of classes, and then their sums, on one scale.

    Attributes
    ----------
    peak_location, peak_scale : ndarray of shape (n_terms, n_classes)
    score_location, score_scale : ndarray of shape (n_classes,)
        Of the weighted sums of the terms.
    """

    peak_location: np.ndarray
    peak_scale: np.ndarray
    score_location: np.ndarray
    score_scale: np.ndarray

    @classmethod
    def identity(cls, n_terms, n_classes):
        """Return scales that change nothing."""
        zeros, ones = np.zeros((n_terms, n_classes)), np.ones((n_terms, n_classes))
        return cls(zeros, ones, zeros[0], ones[0])

    @classmethod
    def of_model(cls, model):
        """Return the scales of a ScoringModel."""
        return cls(*(getattr(model, name).double().cpu().numpy() for name in cls._fields))

    def of(self, codes):
        """Return the scales of some classes."""
        return ClassScales(*(values[..., codes] for values in self))

    def write_to(self, model, codes):
        """Set the scales of some classes, all that are here, of a ScoringModel."""
        for name, values in self._asdict().items():
            constants = getattr(model, name)
            constants[..., codes] = torch.from_numpy(values).to(constants)

    def scores(self, peaks, codes, weights):
        """Return the anomaly scores (n,) of samples, from the peaks (n, n_terms) of their terms.

        `weights` as in `fit_class_scales`. Further columns of the peaks have their scale, and are
        added.
        """
        terms, rest = _terms(peaks, weights)
        sums = terms[:, 0]
        if weights is not None:
            sums = self.of(codes).in_units(terms) @ weights
        return (sums - self.score_location[codes]) / self.score_scale[codes] + rest.sum(1)

    def in_units(self, peaks):
        """Return peaks in units of those of normals, of one class or one each: (n, n_terms).

        Further columns are left out.
        """
        terms = peaks[:, : len(self.peak_location)]
        return (terms - self.peak_location.T) / self.peak_scale.T

    def without(self, factors):
        """Return the scales without factors of the terms, see `fit_class_scales`."""
        return self._replace(peak_scale=self.peak_scale * factors)

    def typical(self):
        """Return the medians over the classes, as scales of a single class."""
        return ClassScales(*(np.median(values, axis=-1, keepdims=True) for values in self))


def _terms(peaks, weights):
    """Divide the columns of peaks into those of the terms and those that have their scale."""
    return np.split(peaks, [1 if weights is None else len(weights)], axis=1)


def _without_terms(scales):
    """Return scales of sums alone."""
    identity = ClassScales.identity(1, len(scales.score_scale))
    return scales._replace(peak_location=identity.peak_location, peak_scale=identity.peak_scale)


def fit_class_scales(peaks, codes, n_classes, weights, common=None, factors=None):
    """Measure the scales of classes on normal samples.

    The location of a term is the median of its peaks, the scale their mean excess above it, see
    `median_and_excess`; then the same of the weighted sum. A class of few samples is drawn towards
    the median of all classes.

    Parameters
    ----------
    peaks : ndarray of shape (n_samples, n_terms)
    codes : ndarray of shape (n_samples,), int
    n_classes : int
    weights : ndarray of shape (n_terms,), or None
        Of the terms in the sum. None: there is one term, which keeps its own scale.
    common : ClassScales of one class, default=None
        What classes are drawn to; None = the median of those here, if there are several.
    factors : ndarray of shape (n_terms, n_classes), default=None
        What the terms of a class count beside `weights`; their scales are divided by it. None: 1.

    Returns
    -------
    ClassScales
    """
    common = common_scales(peaks, codes, weights) if common is None else common
    if common is not None and weights is None:
        common = _without_terms(common)
    # What a class without samples gets.
    usual = class_scales(peaks, weights, None) if common is None else common
    found = []
    for code in range(n_classes):
        own, own_factors = peaks[codes == code], None if factors is None else factors[:, code]
        found.append(class_scales(own, weights, common, own_factors) if len(own) else usual)
    return ClassScales(*(np.concatenate(part, axis=-1) for part in zip(*found, strict=True)))


def left_out_scores(peaks, codes, weights, common=None, factors=None):
    """Return the anomaly scores of normal samples by scales measured on the others of their class.

    A sample that helped to measure the scales would seem more usual than a fresh one. Parameters as
    in `fit_class_scales`, but `factors` (n_terms, n_samples), which may have left out the sample,
    too. The result is an ndarray of shape (n_samples,).
    """
    common = common_scales(peaks, codes, weights) if common is None else common
    scores, first = np.empty(len(peaks)), np.zeros(1, dtype=np.int64)
    for code in np.unique(codes):
        rows = np.flatnonzero(codes == code)
        if len(rows) > _MOST_LEFT_OUT or (len(rows) == 1 and common is None):
            for part in _of_same_factors(rows, factors):
                own = None if factors is None else factors[:, part[0]]
                scales = class_scales(peaks[rows], weights, common, own)
                scores[part] = scales.scores(peaks[part], np.zeros_like(part), weights)
            continue
        for row in rows:
            own = None if factors is None else factors[:, row]
            scales = class_scales(peaks[rows[rows != row]], weights, common, own)
            scores[row] = scales.scores(peaks[row][None], first, weights)[0]
    return scores


def _of_same_factors(rows, factors):
    """Divide rows into those with the same factors."""
    if factors is None:
        return [rows]
    groups = np.unique(factors[:, rows], axis=1, return_inverse=True)[1].ravel()
    return [rows[groups == group] for group in np.unique(groups)]


def common_scales(peaks, codes, weights):
    """Return the median of the scales of the classes; None with less than two.

    Parameters are those of `fit_class_scales`.
    """
    present = np.unique(codes)
    if len(present) < 2:
        return None
    found = [class_scales(peaks[codes == code], weights, None) for code in present]
    parts = (np.concatenate(part, axis=-1) for part in zip(*found, strict=True))
    return ClassScales(*parts).typical()


def class_scales(peaks, weights, common, factors=None):
    """Return the ClassScales of one class, drawn to `common` unless that is None.

    `factors` (n_terms,) as in `fit_class_scales`.
    """
    if not len(peaks):  # all others are left out
        return common
    peaks, _ = _terms(peaks, weights)
    own = 1.0 if common is None else len(peaks) / (len(peaks) + _BORROWED_SAMPLES)
    zero = np.zeros(len(peaks), dtype=np.int64)
    terms = ClassScales.identity(peaks.shape[1], 1)
    if weights is not None:
        location, scale = median_and_excess(peaks)
        if common is not None:
            location = own * location + (1 - own) * common.peak_location[:, 0]
            scale = own * scale + (1 - own) * common.peak_scale[:, 0]
        scale = _usable(scale, location)
        scale = scale if factors is None else scale / factors
        terms = terms._replace(peak_location=location[:, None], peak_scale=scale[:, None])
    location, scale = median_and_excess(terms.scores(peaks, zero, weights))
    if common is not None:
        location = own * location + (1 - own) * common.score_location[0]
        scale = own * scale + (1 - own) * common.score_scale[0]
    return terms._replace(
        score_location=np.array([location]), score_scale=np.array([_usable(scale, location)])
    )


def median_and_excess(values):
    """Median of the first axis, and the mean excess of the values above it, 0 if there is none.

    An excess counts as 16 times the middle one at most. Else one anomaly among the normals of a
    class would set its unit, and other anomalies would look usual in it.
    """
    median = np.median(values, axis=0)
    above = -np.sort(-np.maximum(values - median, 0), axis=0)  # the largest first
    counts = (above > 0).sum(axis=0)
    middle = np.take_along_axis(above, np.maximum(counts - 1, 0)[None] // 2, 0)[0]
    above = np.minimum(above, _LARGEST_EXCESS * middle)
    return median, above.sum(axis=0) / np.maximum(counts, 1)


def _usable(scale, location):
    """Replace the scale of a single sample, or of copies of one, by 1."""
    return np.where(scale <= 1e-12 * np.maximum(1, np.abs(location)), 1.0, scale)
