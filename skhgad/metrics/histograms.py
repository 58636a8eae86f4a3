"""Streaming score histograms, from which the pixel metrics are computed.

A `Histogram` has three weights per distinct score: normal pixels, anomalous pixels, and region
weight (each anomalous pixel counts 1 / area of its defect region). All pixel figures are functions
of the three survival functions, so nothing else is kept of the maps.

Compression joins neighbouring scores until each bin holds about one ``n_bins``-th of each of four
measures: the three weights, and the logarithm of the number of normal pixels above. The score range
need not be known in advance, a rare kind of pixel is resolved as finely as a frequent one, and
precision stays accurate where false positives are few. A survival function moves by at most one
bin.

A stream merges histograms like a binary counter (Manku, Rajagopalan and Lindsay, "Approximate
Medians and other Quantiles in One Pass and with Limited Memory", SIGMOD 1998). A pixel is joined
once per doubling of the stream, so errors grow with the logarithm of its length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Histogram", "HistogramStream", "compress", "count", "merge"]


class Histogram(NamedTuple):
    """Distinct scores and the pixels that have them."""

    values: NDArray[Any]  # (m,), ascending, distinct
    weights: NDArray[np.float64]  # (3, m): normal pixels, anomalous pixels, region weight


def count(
    normal: NDArray[Any], anomalous: NDArray[Any], region_weight: NDArray[np.float64]
) -> Histogram:
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


def merge(histograms: Sequence[Histogram]) -> Histogram:
    """Return the sum of several histograms; equal values become one."""
    values = np.concatenate([h.values for h in histograms])
    order = np.argsort(values, kind="stable")
    values = values[order]
    weights = np.concatenate([h.weights for h in histograms], axis=1)[:, order]
    if not len(values):
        return Histogram(values, weights)
    first = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
    return Histogram(values[first], np.add.reduceat(weights, first, axis=1))


def compress(histogram: Histogram, n_bins: int) -> Histogram:
    """Return a histogram of at most ``2 * n_bins + 1`` values, by joining light neighbours."""
    if len(histogram.values) <= n_bins:
        return histogram
    values, weights = histogram
    # Precision depends on the relative error of the number of false positives, hence the log.
    above = np.log1p(np.cumsum(weights[0, ::-1]))[::-1]
    measures = np.vstack([weights, above - np.append(above[1:], 0.0)])
    totals = measures.sum(axis=1, keepdims=True)
    is_present = totals[:, 0] > 0
    share = (measures[is_present] / totals[is_present]).sum(axis=0)
    bin_width = is_present.sum() / n_bins
    end = np.cumsum(share)
    bin_of = np.floor((end - share) / bin_width)
    # A value heavier than a bin (ties, a rare kind of pixel) is not joined: it stays exact.
    is_heavy = share > bin_width
    starts = (bin_of[1:] != bin_of[:-1]) | is_heavy[1:] | is_heavy[:-1]
    first = np.flatnonzero(np.concatenate([[True], starts]))
    last = np.append(first[1:], len(values)) - 1
    middle = np.searchsorted(end, (end[first] - share[first] + end[last]) / 2)
    return Histogram(values[np.clip(middle, first, last)], np.add.reduceat(weights, first, axis=1))


class HistogramStream:
    """Sum of any number of histograms in bounded memory."""

    def __init__(self, n_bins: int) -> None:
        self.n_bins = n_bins
        self._levels: dict[int, Histogram] = {}  # level -> summary of 2 ** level histograms

    def add(self, histogram: Histogram) -> None:
        """Add a histogram; two summaries of a level become one of the next."""
        level = 0
        histogram = compress(histogram, self.n_bins)
        while level in self._levels:
            histogram = merge([self._levels.pop(level), histogram])
            histogram = compress(histogram, self.n_bins)
            level += 1
        self._levels[level] = histogram

    def total(self) -> Histogram:
        """Return the histogram of everything added so far."""
        summaries = list(self._levels.values()) or [Histogram(np.zeros(0), np.zeros((3, 0)))]
        return compress(merge(summaries), self.n_bins)
