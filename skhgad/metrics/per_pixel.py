"""Figures per pixel, from one anomaly map at a time."""

from __future__ import annotations

import itertools
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from sklearn.utils import Bunch

from ..datasets.masks import check_mask
from ..validation import check_anomaly_labels, check_map, is_integer, marks_anomaly
from .histograms import Histogram, HistogramStream, count, merge
from .per_image import summarize, warn_undefined

__all__ = [
    "ClassPixels",
    "PixelMetrics",
    "check_map_and_mask",
    "check_resolution",
    "flush_full",
    "overlap_area",
    "pixel_metrics",
]

# Pixels kept raw until they are counted: 32 MiB of float32 in all.
_PENDING_PER_CLASS, _PENDING = 2**21, 2**23
_PIXEL_FIGURES = ("auroc", "ap", "f1_max", "aupro")


class PixelMetrics:
    """Pixel figures of any number of anomaly maps, one map at a time, in bounded memory.

    Each class keeps a histogram of about `n_bins` quantiles, and no map. Figures are exact while a
    class has at most `n_bins` different scores, and within 1e-3 beyond, with the default.

    Parameters
    ----------
    n_bins : int, default=16384
        Resolution. A class keeps a summary of at most ``64 * n_bins`` bytes per doubling of its
        pixels beyond two million.
    max_fpr : float, default=0.3
        AUPRO is integrated up to this false-positive rate and divided by it.

    See Also
    --------
    pixel_metrics : The same for sequences of masks and maps.

    References
    ----------
    .. [1] Bergmann, Fauser, Sattlegger and Steger, "MVTec AD - A Comprehensive Real-World Dataset
       for Unsupervised Anomaly Detection", CVPR 2019 (per-region overlap, 30 % limit).

    Examples
    --------
    >>> import numpy as np
    >>> from skhgad.metrics import PixelMetrics
    >>> anomaly_map = np.array([[0.1, 0.2], [0.3, 0.9]])
    >>> pixels = PixelMetrics()
    >>> pixels.update(anomaly_map > 0.5, anomaly_map, "lid").compute().pooled.aupro
    1.0
    """

    def __init__(self, n_bins: int = 2**14, *, max_fpr: float = 0.3) -> None:
        check_resolution(n_bins, max_fpr)
        self.n_bins = int(n_bins)
        self.max_fpr = float(max_fpr)
        self._classes: dict[str | int, ClassPixels] = {}

    def update(
        self,
        mask: ArrayLike | os.PathLike[str] | None,
        anomaly_map: ArrayLike,
        class_label: str | int = "all",
        *,
        y: str | int | None = None,
    ) -> PixelMetrics:
        """Add one map.

        Parameters
        ----------
        mask : array of shape (height, width), str, Path or None
            Nonzero where a pixel is defect (bool or integers). A path is read and resized to the
            map by nearest neighbour. None needs `y`. A normal image (+1) then has no defect pixel;
            an anomaly (-1) makes the figures of its class and the pooled ones nan.
        anomaly_map : array of shape (height, width)
            Higher = more anomalous.
        class_label : str or int, default="all"
            The product class.
        y : int or str, default=None
            -1 or "-1" for an anomaly, else normal; used where `mask` is None.

        Returns
        -------
        self : PixelMetrics
            This object.

        Raises
        ------
        ValueError
            If shapes differ, the map is not finite, or `mask` is None without `y`.
        """
        scores, defect = check_map_and_mask(mask, anomaly_map, class_label, y)
        pixels = self._classes.setdefault(class_label, ClassPixels(self.n_bins))
        pixels.n_maps += 1
        if defect is None:
            pixels.n_unmasked += 1
            return self
        pixels.add(scores, defect, _region_weights(defect))
        flush_full(self._classes.values())
        return self

    def compute(self) -> Bunch:
        """Return the figures of all maps so far; more may follow.

        Returns
        -------
        figures : Bunch
            `per_class` (dict from class to Bunch), `mean` (over classes) and `pooled` (one
            threshold for all). Each has the floats `auroc`, `ap`, `f1_max` and `aupro`.

        Raises
        ------
        ValueError
            If no map was added.

        Warns
        -----
        UserWarning
            If a class has an anomaly without a mask, or only one kind of pixels.
        """
        if not self._classes:
            raise ValueError("no map was added: call update first.")
        per_class, histograms = {}, []
        for label in sorted(self._classes, key=str):
            pixels = self._classes[label]
            pixels.flush()
            histogram = pixels.stream.total()
            histograms.append(histogram)
            per_class[label] = self._figures(histogram, [pixels], f"class {label!r}")
        pooled = self._figures(merge(histograms), list(self._classes.values()), "pooled")
        return summarize(per_class, pooled)

    def _figures(
        self, histogram: Histogram, classes: Sequence[ClassPixels], name: str
    ) -> dict[str, float]:
        n_maps = sum(pixels.n_maps for pixels in classes)
        n_unmasked = sum(pixels.n_unmasked for pixels in classes)
        n_normal, n_anomalous, _ = histogram.weights.sum(axis=1)
        reason = None
        if n_unmasked:
            reason = f"{n_unmasked} of {n_maps} maps belong to anomalies without a mask"
        elif not n_normal or not n_anomalous:
            reason = f"no {'anomalous' if n_normal else 'normal'} pixel in {n_maps} maps"
        if reason:
            warn_undefined(name, reason, _PIXEL_FIGURES)
            return dict.fromkeys(_PIXEL_FIGURES, np.nan)
        return _pixel_figures(histogram, self.max_fpr)


def pixel_metrics(
    masks: Iterable[ArrayLike | os.PathLike[str] | None],
    maps: Iterable[ArrayLike],
    class_labels: ArrayLike | None = None,
    *,
    y: ArrayLike | None = None,
    n_bins: int = 2**14,
    max_fpr: float = 0.3,
) -> Bunch:
    """Return figures per pixel, AUROC, AP, F1-max and AUPRO, with one map in memory at a time.

    Parameters
    ----------
    masks : iterable of n masks
        Arrays, paths or None, as in `PixelMetrics.update`.
    maps : iterable of n arrays of shape (height, width)
        `anomaly_maps`: higher = more anomalous. Sizes may differ; a generator is read once.
    class_labels : array-like of shape (n,), default=None
        The product class of every map, anomalies included; None is one class, "all".
    y : array-like of shape (n,), default=None
        As in `image_metrics`; needed where a mask is None.
    n_bins, max_fpr
        As in `PixelMetrics`.

    Returns
    -------
    figures : Bunch
        As of `PixelMetrics.compute`.

    Raises
    ------
    ValueError
        If the numbers of masks, maps and labels differ, and as in `PixelMetrics.update`.

    Examples
    --------
    >>> import numpy as np
    >>> from skhgad.metrics import pixel_metrics
    >>> maps = np.array([[[0.1, 0.2], [0.3, 0.4]], [[0.6, 0.7], [0.8, 0.9]]])
    >>> masks = [maps[0] > 0.3, maps[1] > 0.8]
    >>> figures = pixel_metrics(masks, maps, ["lid", "cap"])
    >>> figures.mean.auroc, round(figures.pooled.auroc, 3)
    (1.0, 0.75)
    """
    pixels = PixelMetrics(n_bins, max_fpr=max_fpr)
    columns: dict[str, Iterable[Any]] = {"masks": masks, "maps": maps}
    if class_labels is not None:
        columns["class_labels"] = np.asarray(class_labels).tolist()
    if y is not None:
        columns["y"] = np.asarray(y).tolist()
    for index, row in enumerate(_rows(columns)):
        label = row.get("class_labels", "all")
        try:
            pixels.update(row["masks"], row["maps"], label, y=row.get("y"))
        except ValueError as error:
            raise ValueError(f"item {index} of masks and maps: {error}") from error
    return pixels.compute()


def _rows(columns: dict[str, Iterable[Any]]) -> Iterator[dict[str, Any]]:
    """Yield an item of every column at a time; raise ValueError unless all end together."""
    absent = object()
    for index, items in enumerate(itertools.zip_longest(*columns.values(), fillvalue=absent)):
        row = dict(zip(columns, items, strict=True))
        ended = [name for name, item in row.items() if item is absent]
        if ended:
            raise ValueError(
                f"{' and '.join(ended)} ended after {index} items, the others did not."
            )
        yield row


def check_resolution(n_bins: Any, max_fpr: Any) -> None:
    """Raise ValueError unless the parameters of the histograms and of their area are valid."""
    if not is_integer(n_bins) or n_bins < 2:
        raise ValueError(f"n_bins must be an int of at least 2, got {n_bins!r}.")
    if not 0 < max_fpr <= 1:
        raise ValueError(f"max_fpr must be in (0, 1], got {max_fpr!r}.")


def check_map_and_mask(
    mask: ArrayLike | os.PathLike[str] | None,
    anomaly_map: ArrayLike,
    class_label: str | int,
    y: str | int | None,
) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Return a map and its mask as arrays, as `PixelMetrics.update` documents.

    The mask is None for an anomaly without one.
    """
    where = f"class {class_label!r}"
    if marks_anomaly(class_label):
        raise ValueError("class_label is -1: give the anomaly's product class.")
    scores = check_map(anomaly_map, where)
    is_unmasked = False
    if mask is None:
        if y is None:
            raise ValueError(f"mask ({where}) is None: give y, +1 if the image is normal, else -1.")
        is_unmasked = bool(check_anomaly_labels([y])[0])
    defect = check_mask(mask, scores.shape, where)
    return scores, None if is_unmasked else defect


class ClassPixels:
    """The pixels of one class: raw ones not yet counted, and a summary of the others."""

    def __init__(self, n_bins: int) -> None:
        self.stream = HistogramStream(n_bins)
        # (normal scores, anomalous scores, region weights) of each map
        self.waiting: list[tuple[NDArray[Any], NDArray[Any], NDArray[np.float64]]] = []
        self.n_waiting = 0
        self.n_maps = 0
        self.n_unmasked = 0

    def add(
        self, scores: NDArray[Any], mask: NDArray[np.bool_], weights: NDArray[np.float64]
    ) -> None:
        """Add a map; `weights` are the region weights of the marked pixels, in C order."""
        self.waiting.append((scores[~mask], scores[mask], weights))
        self.n_waiting += scores.size

    def flush(self) -> None:
        """Count the raw pixels."""
        if self.waiting:
            normal, anomalous, weights = zip(*self.waiting, strict=True)
            self.stream.add(
                count(np.concatenate(normal), np.concatenate(anomalous), np.concatenate(weights))
            )
            self.waiting, self.n_waiting = [], 0


def flush_full(classes: Collection[ClassPixels]) -> None:
    """Count raw pixels where too many wait."""
    for pixels in classes:
        if pixels.n_waiting >= _PENDING_PER_CLASS:
            pixels.flush()
    if sum(pixels.n_waiting for pixels in classes) >= _PENDING:
        max(classes, key=lambda pixels: pixels.n_waiting).flush()


def _region_weights(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return 1 / area of its 8-connected region for every marked pixel, in C order."""
    regions, _ = ndimage.label(mask, structure=np.ones((3, 3)))
    region_of = regions[mask]
    return 1.0 / np.bincount(region_of)[region_of] if len(region_of) else np.zeros(0)


def _pixel_figures(histogram: Histogram, max_fpr: float) -> dict[str, float]:
    """Return AUROC, AP, F1-max and AUPRO of a histogram with both kinds of pixels.

    Thresholds are the histogram's values; curves are joined linearly. AP is the sum of recall steps
    times precision, as in scikit-learn. AUPRO is that of `overlap_area`.
    """
    survival = _survival(histogram)
    fpr, recall, _ = survival / survival[:, -1:]
    false, true = survival[0, 1:], survival[1, 1:]
    n_anomalous = true[-1]
    return {
        "auroc": _area(fpr, recall),
        "ap": float(np.sum(np.diff(recall) * true / (true + false))),
        "f1_max": float(np.max(2 * true / (n_anomalous + true + false))),
        "aupro": overlap_area(histogram, max_fpr),
    }


def overlap_area(histogram: Histogram, max_fpr: float) -> float:
    """Return the area under the region weight found over the false-positive rate.

    The area goes from 0 to `max_fpr` and is divided by `max_fpr` (Bergmann et al., CVPR 2019). The
    histogram has normal pixels and region weight; what is found is a share of all region weight.
    """
    survival = _survival(histogram)
    fpr, overlap = survival[[0, 2]] / survival[[0, 2], -1:]
    # The curve ends at the first point with this fpr or more. np.interp would take the last of
    # several with fpr = max_fpr.
    k = int(np.argmax(fpr >= max_fpr))
    step = (max_fpr - fpr[k - 1]) / (fpr[k] - fpr[k - 1])
    x = np.append(fpr[:k], max_fpr)
    y = np.append(overlap[:k], overlap[k - 1] + step * (overlap[k] - overlap[k - 1]))
    return _area(x, y) / max_fpr


def _survival(histogram: Histogram) -> NDArray[np.float64]:
    """Return each kind of weight above each of m + 1 thresholds, descending; shape (3, m + 1)."""
    survival = np.cumsum(histogram.weights[:, ::-1], axis=1)
    return np.concatenate([np.zeros((3, 1)), survival], axis=1)


def _area(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1])) / 2)
