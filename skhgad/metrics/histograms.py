"""What is kept of anomaly maps: score histograms that stream, and the figures they give.

A `Histogram` holds, per distinct score, the normal pixels, the anomalous pixels and the region
weight (1 / area of the pixel's defect region). All pixel figures are functions of the three
survival functions, so this is all that has to be kept of a data set of maps.

When a histogram has too many values, neighbours are joined until each bin holds about one
``n_bins``-th of each of four measures: the three weights, and the logarithm of the number of
normal pixels above. No score range has to be known ahead, a scarce kind is resolved as finely as
an abundant one, and precision stays right where few false positives matter. Joining moves a
survival function by no more than one bin, and a pixel is joined only once per doubling of the
stream (the binary counter of Manku, Rajagopalan and Lindsay, "Approximate Medians and other
Quantiles in One Pass and with Limited Memory", SIGMOD 1998): errors grow with its logarithm.
"""

import os
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from ..datasets.loaders import load_mask


class Histogram(NamedTuple):
    """Distinct scores and what lies at each of them."""

    """Distinct scores and what lies at each of them."""

    values: np.ndarray  # (m,), ascending, distinct
    weights: np.ndarray  # (3, m): normal pixels, anomalous pixels, region weight


def count(normal, anomalous, region_weight):
    """Return the exact histogram of the scores `normal` and `anomalous`, both 1-D."""
    values, counts = np.unique(normal, return_counts=True)
    weights = np.zeros((3, len(values)))
    weights[0] = counts
    if not len(anomalous):
        return Histogram(values, weights)
    marked, where = np.unique(anomalous, return_inverse=True)
    marked_weights = np.zeros((3, len(marked)))
    marked_weights[1] = np.bincount(where)
    marked_weights[2] = np.bincount(where, weights=region_weight)
    return merge([Histogram(values, weights), Histogram(marked, marked_weights)])


def merge(histograms):
    """Return the sum of several histograms, equal values joined."""
    values = np.concatenate([h.values for h in histograms])
    order = np.argsort(values, kind="stable")
    values = values[order]
    weights = np.concatenate([h.weights for h in histograms], axis=1)[:, order]
    if not len(values):
        return Histogram(values, weights)
    first = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
    return Histogram(values[first], np.add.reduceat(weights, first, axis=1))


def compress(histogram, n_bins):
    """Return `histogram` with at most ``2 * n_bins + 1`` values, by joining light neighbours."""
    if len(histogram.values) <= n_bins:
        return histogram
    values, weights = histogram
    # precision needs the count of false positives to a relative error: rank from the top, in logs
    above = np.log1p(np.cumsum(weights[0, ::-1]))[::-1]
    parts = np.vstack([weights, above - np.append(above[1:], 0.0)])
    totals = parts.sum(axis=1, keepdims=True)
    present = totals[:, 0] > 0
    share = (parts[present] / totals[present]).sum(axis=0)
    width = present.sum() / n_bins
    end = np.cumsum(share)
    cell = np.floor((end - share) / width)
    # a value heavier than a bin (ties, a rare kind) stays alone: it is kept exactly
    heavy = share > width
    new = np.concatenate([[True], (cell[1:] != cell[:-1]) | heavy[1:] | heavy[:-1]])
    first = np.flatnonzero(new)
    last = np.append(first[1:], len(values)) - 1
    middle = np.searchsorted(end, (end[first] - share[first] + end[last]) / 2)
    return Histogram(values[np.clip(middle, first, last)], np.add.reduceat(weights, first, axis=1))


class HistogramStream:
    """Sum of any number of histograms in bounded memory."""

    def __init__(self, n_bins):
        self.n_bins = n_bins
        self._levels = {}  # level -> summary of 2 ** level histograms

    def add(self, histogram):
        """Add a histogram to the stream."""
        """Add a histogram to the stream."""
        level = 0
        histogram = compress(histogram, self.n_bins)
        while level in self._levels:
            histogram = merge([self._levels.pop(level), histogram])
            histogram = compress(histogram, self.n_bins)
            level += 1
        self._levels[level] = histogram

    def total(self):
        """Return the histogram of everything added so far."""
        """Return the histogram of everything added so far."""
        parts = list(self._levels.values()) or [Histogram(np.zeros(0), np.zeros((3, 0)))]
        return compress(merge(parts), self.n_bins)


def _area(x, y):
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1])) / 2)


def pixel_figures(histogram, max_fpr):
    """Return AUROC, AP, F1-max and AUPRO of a histogram with both kinds of pixels.

    The thresholds are the histogram's values, from high to low; curves are joined linearly, and
    AP is the sum of recall steps times precision, as in scikit-learn. AUPRO is the area under the
    mean overlap with the regions over the false-positive rate from 0 to `max_fpr`, over `max_fpr`
    (Bergmann et al., CVPR 2019).
    """
    survival = np.cumsum(histogram.weights[:, ::-1], axis=1)
    survival = np.concatenate([np.zeros((3, 1)), survival], axis=1)
    fpr, recall, overlap = survival / survival[:, -1:]
    false, true = survival[0, 1:], survival[1, 1:]
    n_anomalous = true[-1]
    # not np.interp: where fpr stands still at max_fpr, the curve's first point there is meant
    k = int(np.argmax(fpr >= max_fpr))
    step = (max_fpr - fpr[k - 1]) / (fpr[k] - fpr[k - 1])
    x = np.append(fpr[:k], max_fpr)
    y = np.append(overlap[:k], overlap[k - 1] + step * (overlap[k] - overlap[k - 1]))
    return {
        "auroc": _area(fpr, recall),
        "ap": float(np.sum(np.diff(recall) * true / (true + false))),
        "f1_max": float(np.max(2 * true / (n_anomalous + true + false))),
        "aupro": _area(x, y) / max_fpr,
    }


def check_map(anomaly_map, where):
    """Return the map as an array of finite numbers."""
    scores = np.asarray(anomaly_map)
    if scores.ndim != 2 or not scores.size or scores.dtype.kind not in "fiu":
        raise ValueError(
            f"anomaly_map ({where}) must be numbers of shape (height, width), got "
            f"{scores.dtype} of shape {scores.shape}."
        )
    if not np.isfinite(scores).all():
        row, column = np.argwhere(~np.isfinite(scores))[0]
        raise ValueError(
            f"anomaly_map ({where}) is {scores[row, column]} at row {row}, column {column}."
        )
    return scores


def check_mask(mask, shape, where):
    """Return the mask, an array, a path or None (no defect), as bool array of `shape`."""
    if isinstance(mask, str | os.PathLike):
        return load_mask(mask, size=shape)
    mask = np.zeros(shape, dtype=bool) if mask is None else np.asarray(mask)
    if mask.shape != shape:
        raise ValueError(
            f"mask ({where}) has shape {mask.shape}, its anomaly_map {shape}: resize the "
            "mask by nearest neighbour, or pass its path."
        )
    if mask.dtype.kind not in "biu" and not np.isin(mask, (0, 1)).all():
        raise ValueError(f"mask ({where}) must be bool, integers, or floats 0 and 1.")
    return mask != 0


class ClassPixels:
    """The pixels of one class: raw ones that wait to be counted, and the summary of the others."""

    def __init__(self, n_bins):
        self.stream = HistogramStream(n_bins)
        self.waiting = []  # (normal scores, anomalous scores, region weights) per map
        self.n_waiting = 0
        self.n_maps = 0
        self.n_unmasked = 0

    def add(self, scores, mask):
        """Add the scores of one image, with its mask of the same shape."""
        """Add the scores of one image, with its mask of the same shape."""
        self.waiting.append((scores[~mask], scores[mask], _region_weights(mask)))
        self.n_waiting += scores.size

    def flush(self):
        """Count the raw pixels."""
        if self.waiting:
            columns = zip(*self.waiting, strict=True)
            self.stream.add(count(*(np.concatenate(column) for column in columns)))
            self.waiting, self.n_waiting = [], 0


def _region_weights(mask):
    """Return 1 / area of its 8-connected region for every marked pixel, in C order."""
    regions, _ = ndimage.label(mask, structure=np.ones((3, 3)))
    inside = regions[mask]
    return 1.0 / np.bincount(inside)[inside] if len(inside) else np.zeros(0)
