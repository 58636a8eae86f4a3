"""Connected regions of anomaly maps, and their grouping into defect types without labels.

`find_regions` cuts a map into regions, `embed_regions` describes them by features of the backbone,
`group_defects` clusters the descriptions. What they need of SciPy and scikit-learn is imported when
they are called: the detector imports this module, and scoring needs none of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted

from .validation import check_level, check_map, check_scored_X, is_integer

__all__ = ["Region", "describe_regions", "embed_regions", "find_regions", "group_defects"]

_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=bool)
_PIXEL_VARIANCE = 1 / 12  # of a coordinate over one pixel
_N_COMPONENTS = 8
_SHAPE_WEIGHT = 0.5  # a quarter of the features' variance


@dataclass(frozen=True)
class Region:
    """A connected part of an anomaly map above a threshold.

    Attributes
    ----------
    box : tuple (top, left, bottom, right) of int
        The box in pixels: rows ``top:bottom``, columns ``left:right``.
    area : int
        Number of pixels of the region.
    peak : float
        Largest value of the map in the region.
    peak_position : tuple (row, column) of int
        The pixel with that value.
    map_size : tuple (height, width) of int
        Size of the whole map.
    mask : ndarray of shape (bottom - top, right - left), bool
        The region's pixels within its box. Comparisons ignore it.
    """

    box: tuple[int, int, int, int]
    area: int
    peak: float
    peak_position: tuple[int, int]
    map_size: tuple[int, int]
    mask: NDArray[np.bool_] = field(repr=False, compare=False)

    @property
    def elongation(self) -> float:
        """Length over width, at least 1.

        Length and width are the standard deviations of the pixels along the principal axes.
        """
        positions = np.argwhere(self.mask)
        covariance = np.cov(positions.T, bias=True) if len(positions) > 1 else np.zeros((2, 2))
        narrow, wide = np.linalg.eigvalsh(covariance + _PIXEL_VARIANCE * np.eye(2))
        return math.sqrt(wide / narrow)

    def to_dict(self) -> dict[str, Any]:
        """Return "box", "area", "peak" and "peak_position" as lists and numbers, for JSON."""
        return {
            "box": list(self.box),
            "area": self.area,
            "peak": self.peak,
            "peak_position": list(self.peak_position),
        }


def find_regions(anomaly_map: ArrayLike, threshold: float) -> list[Region]:
    """Cut an anomaly map into the connected regions above a threshold.

    Parameters
    ----------
    anomaly_map : array-like of shape (height, width)
        Higher = more anomalous.
    threshold : float
        Pixels strictly above it form regions. An image is flagged above ``-detector.offset_``.

    Returns
    -------
    list of Region
        The largest peak first. Pixels that touch at a side or a corner belong to one region.

    Raises
    ------
    ValueError
        If the map is no finite 2-D array, or the threshold no finite number.

    Notes
    -----
    An image's anomaly score is the maximum over a coarser grid, from which its map is interpolated.
    The map's peak may be slightly lower, so a barely flagged image may have no region.

    Examples
    --------
    >>> from skhgad.regions import find_regions
    >>> find_regions([[0, 0, 0, 0], [0, 3, 0, 0], [0, 0, 4, 0], [9, 0, 0, 0]], 2)
    [Region(box=(3, 0, 4, 1), area=1, peak=9.0, peak_position=(3, 0), map_size=(4, 4)),
     Region(box=(1, 1, 3, 3), area=2, peak=4.0, peak_position=(2, 2), map_size=(4, 4))]
    """
    from scipy import ndimage

    scores = check_map(anomaly_map, "of find_regions")
    check_threshold(threshold)
    numbers, _ = ndimage.label(scores > threshold, structure=_EIGHT_NEIGHBOURS)
    regions = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(numbers), start=1):
        mask = numbers[rows, columns] == number
        values = np.where(mask, scores[rows, columns], -np.inf)
        row, column = np.unravel_index(values.argmax(), values.shape)
        regions.append(
            Region(
                box=(rows.start, columns.start, rows.stop, columns.stop),
                area=int(mask.sum()),
                peak=float(values[row, column]),
                peak_position=(int(rows.start + row), int(columns.start + column)),
                map_size=(scores.shape[0], scores.shape[1]),
                mask=mask,
            )
        )
    return sorted(regions, key=lambda region: -region.peak)


def check_threshold(threshold: object) -> None:
    """Raise ValueError unless a threshold of maps is a finite number."""
    if not isinstance(threshold, Real) or not math.isfinite(threshold):
        raise ValueError(f"threshold must be a finite number, got {threshold!r}.")


def describe_regions(features: ArrayLike, regions: Sequence[Region]) -> NDArray[np.float64]:
    """Average a map of feature vectors over regions.

    Parameters
    ----------
    features : array-like of shape (height, width, n_features)
        Feature vectors on a grid of any size that covers the image.
    regions : list of Region
        Of that image.

    Returns
    -------
    ndarray of shape (n_regions, n_features), float64
        Means over each region. A cell of the grid weighs as many of the region's pixels as it
        holds.

    Raises
    ------
    ValueError
        If `features` is no 3-D array.

    Examples
    --------
    >>> import numpy as np
    >>> from skhgad.regions import describe_regions, find_regions
    >>> anomaly_map = np.zeros((4, 8))
    >>> anomaly_map[0, 1:5] = 1
    >>> features = np.array([[[1.0], [5.0]]])  # of the left and of the right half
    >>> describe_regions(features, find_regions(anomaly_map, 0.5))
    array([[2.]])
    """
    grid = np.asarray(features, dtype=np.float64)
    if grid.ndim != 3 or not grid.size:
        raise ValueError(
            "features must be of shape (height, width, n_features), got shape "
            f"{grid.shape}; reshape (n_positions, n_features) to the map's height and width."
        )
    means = np.empty((len(regions), grid.shape[2]))
    for mean, region in zip(means, regions, strict=True):
        weights = np.zeros(grid.shape[:2])
        np.add.at(weights, _cells(region, weights.shape), 1 / region.area)
        mean[:] = np.tensordot(weights, grid, axes=2)
    return means


def _cells(region: Region, grid: tuple[int, ...]) -> tuple[NDArray[np.int64], ...]:
    """Return rows and columns of the pixels' cells in a grid that covers the map."""
    return tuple(
        (2 * (first + offsets) + 1) * n_cells // (2 * n_pixels)
        for first, offsets, n_cells, n_pixels in zip(
            region.box[:2], np.nonzero(region.mask), grid, region.map_size, strict=True
        )
    )


def embed_regions(
    detector: Any, X: Any, regions: Sequence[Sequence[Region]], *, level: int = -1
) -> NDArray[np.float64]:
    """Describe regions by features of the detector's backbone.

    Parameters
    ----------
    detector : HGADDetector
        A detector fitted on images.
    X : images
        As the detector takes them.
    regions : list of list of Region
        The regions of each image.
    level : int, default=-1
        Index of the level of features; the last is the coarsest.

    Returns
    -------
    ndarray of shape (n_regions, n_features), float64
        The regions of the first image, then those of the second, and so on.

    Raises
    ------
    NotFittedError
        If the detector is not fitted.
    ValueError
        If the detector was fitted on vectors, with tiles or padded images, or has no such level,
        or if `regions` is not one list per image.

    Notes
    -----
    The backbone runs on every image that has regions, unless the detector's `memory` has its
    features.
    """
    check_is_fitted(detector)
    fitted, reader = detector.model_, detector.feature_reader()
    fitted.require_images("embed_regions")
    if fitted.parameters["tile_size"] is not None or fitted.parameters["resize"] == "pad":
        raise ValueError(
            "embed_regions needs features of whole images: fit the detector without tile_size and "
            "with resize='stretch'."
        )
    shapes = fitted.extractor.levels
    check_level(level, len(shapes))
    source = check_scored_X(X, detector, takes_images=True)
    if len(regions) != len(source):
        raise ValueError(f"regions has lists for {len(regions)} images, X has {len(source)}.")
    rows = np.flatnonzero([len(of_image) > 0 for of_image in regions])
    n_features, *map_shape = shapes[level]
    vectors, remaining = [np.empty((0, n_features))], iter(rows.tolist())
    seen, _ = fitted.seen(reader, source)  # only their region of interest, if there is one
    for levels, _ in reader.batches(seen, rows):
        for features in levels[level].cpu().numpy():
            features = features.reshape(*map_shape, n_features)
            vectors.append(describe_regions(features, regions[next(remaining)]))
    return np.concatenate(vectors)


def group_defects(
    features: ArrayLike,
    n_groups: int | str = "auto",
    *,
    regions: Sequence[Region] | None = None,
    max_groups: int = 10,
) -> NDArray[np.int64]:
    """Group regions into defect types without labels.

    Parameters
    ----------
    features : array-like of shape (n_regions, n_features)
        From `embed_regions` or `describe_regions`.
    n_groups : int or "auto", default="auto"
        "auto" takes the number from 2 to `max_groups` with the largest silhouette. It always finds
        two groups or more in three or more different regions.
    regions : list of Region of length n_regions, default=None
        If given, shape (log-area and log-elongation) counts beside the features, with a quarter of
        their variance.
    max_groups : int, default=10
        Most groups that "auto" tries.

    Returns
    -------
    labels : ndarray of shape (n_regions,), int64
        Groups are numbered from 0 in the order of their first region.

    Raises
    ------
    ValueError
        If `features` is no finite 2-D array, `regions` has another length, or `n_groups` exceeds
        the number of regions.

    Notes
    -----
    Features are standardised, reduced to their eight leading principal components and clustered
    by Ward's method; there is no random state. Memory grows with the square of the number of
    regions: 10,000 need 800 MB.

    Examples
    --------
    >>> from skhgad.regions import group_defects
    >>> group_defects([[0.0, 1.0], [5.0, 0.0], [0.1, 1.1], [5.1, 0.2], [0.0, 0.9]])
    array([0, 1, 0, 1, 0])
    """
    from sklearn.metrics import silhouette_score

    rows: NDArray[np.float64] = check_array(
        features, dtype=np.float64, input_name="features", ensure_min_samples=0
    )
    n_regions = len(rows)
    if regions is not None and len(regions) != n_regions:
        raise ValueError(f"regions has {len(regions)} items, features {n_regions} rows.")
    _check_n_groups(n_groups, max_groups, n_regions)
    if not n_regions or n_groups == 1:
        return np.zeros(n_regions, dtype=np.int64)
    points = _reduced(rows)
    if regions is not None:
        shapes = np.log([[region.area, region.elongation] for region in regions])
        points = np.hstack([points, _SHAPE_WEIGHT * _reduced(shapes)])
    if not isinstance(n_groups, str):
        return _ward(points, n_groups)
    most = min(max_groups, len(np.unique(points.round(9), axis=0)) - 1)
    groupings = [_ward(points, n) for n in range(2, most + 1)]
    if not groupings:
        return np.zeros(n_regions, dtype=np.int64)
    return max(groupings, key=lambda labels: silhouette_score(points, labels))


def _check_n_groups(n_groups: Any, max_groups: Any, n_regions: int) -> None:
    is_auto = isinstance(n_groups, str) and n_groups == "auto"
    if not is_auto and not (is_integer(n_groups) and n_groups >= 1):
        raise ValueError(f"n_groups must be an int of at least 1 or 'auto', got {n_groups!r}.")
    if not is_integer(max_groups) or max_groups < 2:
        raise ValueError(f"max_groups must be an int of at least 2, got {max_groups!r}.")
    if not is_auto and n_groups > n_regions:
        raise ValueError(f"n_groups={n_groups}, but there are only {n_regions} regions.")


def _reduced(features: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return leading principal components of the standardised features, of total variance 1."""
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    standardised = StandardScaler().fit_transform(features)
    # A feature has deviation 1 by now, or 0 if it is constant.
    varied = standardised[:, standardised.std(0) > 0.5]
    if not varied.size:
        return np.zeros((len(features), 1))
    pca = PCA(min(_N_COMPONENTS, *varied.shape), svd_solver="full")
    points: NDArray[np.float64] = pca.fit_transform(varied)
    scale: float = np.sqrt(points.var(0).sum())
    return points / scale


def _ward(points: NDArray[np.float64], n_groups: int) -> NDArray[np.int64]:
    """Return Ward's groups, numbered in the order of their first point."""
    from sklearn.cluster import AgglomerativeClustering

    return number_by_first(AgglomerativeClustering(n_groups).fit_predict(points))


def number_by_first(labels: ArrayLike) -> NDArray[np.int64]:
    """Renumber groups from 0 in the order of their first sample."""
    _, first, codes = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[codes]
