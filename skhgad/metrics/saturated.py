"""The saturated per-region overlap (sPRO) of MVTec LOCO AD."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import Bunch

from ..datasets.saturation import load_saturated_regions
from ..validation import check_anomaly_labels, check_map, is_integer, marks_anomaly
from .histograms import merge
from .per_image import warn_undefined
from .per_pixel import ClassPixels, check_resolution, flush_full, overlap_area

__all__ = ["SproMetrics"]

_GOOD = "good"


class SproMetrics:
    """AU-sPRO of any number of anomaly maps, one map at a time, in bounded memory.

    The overlap with a region counts as full once as many of its pixels are found as its saturation
    says. A region is one defect of one image, connected or not. A false positive is a pixel outside
    of all regions of its image. As in the published evaluation, the figure of a kind of anomaly is
    that of its images and the normal ones; `au_spro` is the mean over the kinds.

    Parameters
    ----------
    n_bins : int, default=16384
        Resolution, as of `PixelMetrics`: figures are exact while a class has at most `n_bins`
        different scores.
    max_fpr : float, default=0.05
        sPRO is integrated up to this false-positive rate and divided by it.

    See Also
    --------
    skhgad.datasets.load_saturated_regions : Regions and saturations of MVTec LOCO AD.
    PixelMetrics : AUPRO, where all of a connected region must be found.

    References
    ----------
    .. [1] Bergmann, Batzner, Fauser, Sattlegger and Steger, "Beyond Dents and Scratches: Logical
       Constraints in Unsupervised Anomaly Detection and Localization", IJCV 2022.

    Examples
    --------
    Two of four pixels are enough, and they score higher than all normal pixels:

    >>> import numpy as np
    >>> from skhgad.metrics import SproMetrics
    >>> mask = np.array([[1, 1, 1, 1], [0, 0, 0, 0]], dtype=bool)
    >>> anomaly_map = np.array([[9, 8, 0, 0], [1, 2, 3, 4]])
    >>> SproMetrics().update([(mask, 2)], anomaly_map).compute().mean.au_spro
    1.0
    """

    def __init__(self, n_bins: int = 2**14, *, max_fpr: float = 0.05) -> None:
        check_resolution(n_bins, max_fpr)
        self.n_bins = int(n_bins)
        self.max_fpr = float(max_fpr)
        self._pixels: dict[tuple[str | int, str], ClassPixels] = {}  # of a class and a kind

    def update(
        self,
        regions: Sequence[tuple[ArrayLike, int]] | str | os.PathLike[str] | None,
        anomaly_map: ArrayLike,
        class_label: str | int = "all",
        *,
        y: str | int | None = None,
        kind: str = "anomaly",
    ) -> SproMetrics:
        """Add one map.

        Parameters
        ----------
        regions : sequence of (mask, saturation), str, Path or None
            The defects of the image: masks of the map's shape (nonzero = defect), and how many
            pixels of each must be found. A path is a folder that `load_saturated_regions` reads.
            None, with `y`, is a normal image.
        anomaly_map : array of shape (height, width)
            Higher = more anomalous. It has the size of the image, because saturations count pixels
            of the image: as `HGADDetector.inspect` with ``maps=True`` gives it.
        class_label : str or int, default="all"
            The product class.
        y : int or str, default=None
            Needed where `regions` is None: +1 or a class label.
        kind : str, default="anomaly"
            The kind of anomaly, for example "logical_anomalies"; of no meaning for normal images.

        Returns
        -------
        self : SproMetrics
            This object.

        Raises
        ------
        ValueError
            If shapes differ, the map is not finite, a region has no pixel or a saturation that is
            not between 1 and its area, or `regions` is None for an anomaly or without `y`.
        """
        where = f"class {class_label!r}"
        if marks_anomaly(class_label):
            raise ValueError("class_label is -1: give the anomaly's product class.")
        scores = check_map(anomaly_map, where)
        if isinstance(regions, str | os.PathLike):
            where = str(regions)
            regions = load_saturated_regions(regions)
        if regions is None:
            _check_normal(y, where)
            kind, regions = _GOOD, []
        elif not len(regions):
            raise ValueError(f"regions ({where}) are empty: pass None and y for a normal image.")
        elif kind == _GOOD:
            raise ValueError(f"kind ({where}) is {_GOOD!r}, that of normal images.")
        weights, union = np.zeros(scores.shape), np.zeros(scores.shape, dtype=bool)
        for mask, saturation in regions:
            region = _check_region(mask, saturation, scores.shape, where)
            weights[region] += saturated_weights(scores[region], int(saturation))
            union |= region
        pixels = self._pixels.setdefault((class_label, kind), ClassPixels(self.n_bins))
        pixels.n_maps += 1
        pixels.add(scores, union, weights[union])
        flush_full(self._pixels.values())
        return self

    def compute(self) -> Bunch:
        """Return the figures of all maps so far; more may follow.

        Returns
        -------
        figures : Bunch
            `per_class` (dict from class to Bunch), `mean` (over classes) and `pooled` (one
            threshold for all). Each has `au_spro` (float, the mean over the kinds of anomaly) and
            `of_kind` (dict from kind to float).

        Raises
        ------
        ValueError
            If no map was added.

        Warns
        -----
        UserWarning
            If a class has no region, or no normal pixel with which to compare them.
        """
        if not self._pixels:
            raise ValueError("no map was added: call update first.")
        per_class = {
            label: self._figures([label], f"class {label!r}")
            for label in sorted({label for label, _ in self._pixels}, key=str)
        }
        pooled = self._figures(list(per_class), "pooled")
        kinds = {kind for figures in per_class.values() for kind in figures.of_kind}
        of_kind = {
            kind: _mean(f.of_kind.get(kind, np.nan) for f in per_class.values())
            for kind in sorted(kinds)
        }
        au_spro = _mean(figures.au_spro for figures in per_class.values())
        mean = Bunch(au_spro=au_spro, of_kind=of_kind)
        return Bunch(per_class=per_class, mean=mean, pooled=pooled)

    def _figures(self, labels: Sequence[str | int], name: str) -> Bunch:
        """Return the figures of some classes together."""
        kinds = sorted({kind for label, kind in self._pixels if label in labels} - {_GOOD})
        of_kind = {kind: self._area(labels, kind) for kind in kinds}
        if not kinds or np.isnan(list(of_kind.values())).any():
            lacking = "normal pixel" if kinds else "region"
            warn_undefined(name, f"no {lacking}", ("au_spro",))
        return Bunch(au_spro=_mean(of_kind.values()), of_kind=of_kind)

    def _area(self, labels: Sequence[str | int], kind: str) -> float:
        """Return the AU-sPRO of one kind of anomaly beside the normal images."""
        keys = [(label, name) for label in labels for name in (_GOOD, kind)]
        found = [self._pixels[key] for key in keys if key in self._pixels]
        for pixels in found:
            pixels.flush()
        histogram = merge([pixels.stream.total() for pixels in found])
        n_normal = histogram.weights[0].sum()
        return overlap_area(histogram, self.max_fpr) if n_normal else np.nan


def saturated_weights(scores: NDArray[Any], saturation: int) -> NDArray[np.float64]:
    """Return what each pixel of a region adds to its sPRO, given the pixels' scores.

    A threshold finds the highest scores first. The first `saturation` of them add 1 / saturation
    each, the others nothing: the sum above a threshold is min(found, saturation) / saturation.
    """
    weights = np.zeros(len(scores))
    weights[np.argsort(-scores, kind="stable")[:saturation]] = 1 / saturation
    return weights


def _check_normal(y: str | int | None, where: str) -> None:
    """Raise ValueError unless `y` says that an image without regions is normal."""
    if y is None:
        raise ValueError(f"regions ({where}) is None: give y, +1 for a normal image.")
    if check_anomaly_labels([y])[0]:
        raise ValueError(f"regions ({where}) is None, but y is -1: give the anomaly's regions.")


def _check_region(
    mask: ArrayLike, saturation: Any, shape: tuple[int, ...], where: str
) -> NDArray[np.bool_]:
    """Return the mask of a region as a bool array of the map's shape."""
    region: NDArray[np.bool_] = np.asarray(mask) != 0
    if region.shape != shape:
        raise ValueError(
            f"a region ({where}) has shape {region.shape}, its anomaly_map {shape}: resize the map "
            "to the image's size, because saturations count pixels of the image."
        )
    area = int(region.sum())
    if not area:
        raise ValueError(f"a region ({where}) has no pixel.")
    if not is_integer(saturation) or not 1 <= saturation <= area:
        raise ValueError(
            f"saturation ({where}) must be an int from 1 to the region's {area} pixels, got "
            f"{saturation!r}."
        )
    return region


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return float(np.mean(numbers)) if numbers else np.nan
