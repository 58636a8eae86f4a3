"""Connected regions of anomaly maps as data, and their grouping into defect types without labels.

`find_regions` cuts a map into regions; `embed_regions` describes regions by the features of the
detector's own backbone; `group_defects` clusters the descriptions.
"""

import math
from dataclasses import dataclass, field
from numbers import Integral, Real

import numpy as np
from scipy import ndimage
from sklearn.cluster import AgglomerativeClustering
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted

from .validation import check_level, check_map, check_scored_X

__all__ = ["Region", "describe_regions", "embed_regions", "find_regions", "group_defects"]

_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=bool)
_PIXEL_VARIANCE = 1 / 12  # of a coordinate over the extent of one pixel
_N_COMPONENTS = 8
_SHAPE_WEIGHT = 0.5


@dataclass(frozen=True)
class Region:
    """A connected part of an anomaly map above a threshold.

    Attributes
    ----------
    box : tuple (top, left, bottom, right) of int
        In pixels, half-open: rows ``top:bottom``, columns ``left:right``.
    area : int
        Pixels of the region, not of its box.
    peak : float
        Largest value of the map in the region.
    peak_position : tuple (row, column) of int
        Where in the map that is.
    map_size : tuple (height, width) of int
        Of the map.
    mask : ndarray of shape (bottom - top, right - left), bool
        The region's pixels in its box. Takes no part in comparisons.
    """

    box: tuple
    area: int
    peak: float
    peak_position: tuple
    map_size: tuple
    mask: np.ndarray = field(repr=False, compare=False)

    @property
    def elongation(self):
        """Length over width, at least 1.

        The ratio of the standard deviations of the region's pixels along its principal axes.
        """
        positions = np.argwhere(self.mask)
        covariance = np.cov(positions.T, bias=True) if len(positions) > 1 else np.zeros((2, 2))
        narrow, wide = np.linalg.eigvalsh(covariance + _PIXEL_VARIANCE * np.eye(2))
        return math.sqrt(wide / narrow)


def find_regions(anomaly_map, threshold):
    """Cut an anomaly map into the connected regions above a threshold.

    Parameters
    ----------
    anomaly_map : array-like of shape (height, width)
        Higher = more anomalous.
    threshold : float
        Pixels strictly above it count. ``-detector.offset_`` is what flags an image.

    Returns
    -------
    list of Region
        Pixels that touch at a side or a corner are of one region. The largest peak first.

    Raises
    ------
    ValueError
        If the map is no finite 2-D array, or the threshold no finite number.

    Notes
    -----
    Maps are interpolated from a coarser grid, on which the image's score is their maximum. The
    peak of a map may therefore stay slightly below its image's anomaly score, and an image that
    is barely flagged may have no region.

    Examples
    --------
    >>> from skhgad.regions import find_regions
    >>> find_regions([[0, 0, 0, 0], [0, 3, 0, 0], [0, 0, 4, 0], [9, 0, 0, 0]], 2)
    [Region(box=(3, 0, 4, 1), area=1, peak=9.0, peak_position=(3, 0), map_size=(4, 4)),
     Region(box=(1, 1, 3, 3), area=2, peak=4.0, peak_position=(2, 2), map_size=(4, 4))]
    """
    anomaly_map = check_map(anomaly_map, "of find_regions")
    check_threshold(threshold)
    numbers, _ = ndimage.label(anomaly_map > threshold, structure=_EIGHT_NEIGHBOURS)
    regions = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(numbers), start=1):
        mask = numbers[rows, columns] == number
        values = np.where(mask, anomaly_map[rows, columns], -np.inf)
        row, column = np.unravel_index(values.argmax(), values.shape)
        regions.append(
            Region(
                box=(rows.start, columns.start, rows.stop, columns.stop),
                area=int(mask.sum()),
                peak=float(values[row, column]),
                peak_position=(int(rows.start + row), int(columns.start + column)),
                map_size=anomaly_map.shape,
                mask=mask,
            )
        )
    return sorted(regions, key=lambda region: -region.peak)


def check_threshold(threshold):
    """Raise ValueError unless a threshold of maps is a finite number."""
    if not isinstance(threshold, Real) or not math.isfinite(threshold):
        raise ValueError(f"threshold must be a finite number, got {threshold!r}.")


def describe_regions(features, regions):
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
        Means weighted by the number of a region's pixels in each cell of the grid.

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
    features = np.asarray(features, dtype=np.float64)
    if features.ndim != 3 or not features.size:
        raise ValueError(
            "features must be of shape (height, width, n_features), got shape "
            f"{features.shape}; reshape (n_positions, n_features) to the map's height and width."
        )
    means = np.empty((len(regions), features.shape[2]))
    for mean, region in zip(means, regions, strict=True):
        weights = np.zeros(features.shape[:2])
        np.add.at(weights, _cells(region, weights.shape), 1 / region.area)
        mean[:] = np.tensordot(weights, features, axes=2)
    return means


def _cells(region, grid):
    """Rows and columns of the cells of a grid over the map that hold the region's pixels."""
    return tuple(
        (2 * (first + offsets) + 1) * n_cells // (2 * n_pixels)
        for first, offsets, n_cells, n_pixels in zip(
            region.box[:2], np.nonzero(region.mask), grid, region.map_size, strict=True
        )
    )


def embed_regions(detector, X, regions, *, level=-1):
    """Describe regions by the features of the detector's own backbone.

    Parameters
    ----------
    detector : HGADDetector
        Fitted on images.
    X : images
        Of the kinds the detector takes.
    regions : list of list of Region
        Those of each image.
    level : int, default=-1
        Which level of features; the last is the coarsest.

    Returns
    -------
    ndarray of shape (n_regions, n_features), float64
        The regions of all images, one after the other.

    Raises
    ------
    NotFittedError
    ValueError
        After a fit on feature vectors, if there is no such level, or if `regions` has not one
        list an image.

    Notes
    -----
    The backbone sees every image that has regions once more, unless the detector's `memory` has
    its features.
    """
    check_is_fitted(detector)
    fitted, reader = detector.model_, detector.feature_reader()
    fitted.require_images("embed_regions")
    shapes = fitted.extractor.levels
    check_level(level, len(shapes))
    source = check_scored_X(X, detector, takes_images=True)
    if len(regions) != len(source):
        raise ValueError(f"regions has lists for {len(regions)} images, X has {len(source)}.")
    rows = np.flatnonzero([len(own) > 0 for own in regions])
    n_features, *map_shape = shapes[level]
    vectors, remaining = [np.empty((0, n_features))], iter(rows)
    for levels, _ in reader.batches(source, rows):
        for features in levels[level].cpu().numpy():
            features = features.reshape(*map_shape, n_features)
            vectors.append(describe_regions(features, regions[next(remaining)]))
    return np.concatenate(vectors)


def group_defects(features, n_groups="auto", *, regions=None, max_groups=10):
    """Group regions into defect types without labels.

    Parameters
    ----------
    features : array-like of shape (n_regions, n_features)
        Descriptions of regions, as `embed_regions` and `describe_regions` give them.
    n_groups : int or "auto", default="auto"
        "auto": the number from 2 to `max_groups` whose groups are the most distinct, by their
        silhouette. It cannot tell one type from several: at least two groups are found in three
        or more different regions.
    regions : list of Region of length n_regions, default=None
        Give them to let shape (log-area and log-elongation) count beside the features, with a
        quarter of their variance.
    max_groups : int, default=10
        Most groups "auto" looks for.

    Returns
    -------
    labels : ndarray of shape (n_regions,), int64
        Group of each region, numbered from 0 in the order of their first region.

    Raises
    ------
    ValueError
        If `features` is no finite 2-D array, `regions` has another length, or more groups are
        asked for than there are regions.

    Notes
    -----
    Features are standardised, reduced to their eight leading principal components and clustered
    by Ward's method. The result does not depend on a random state. Memory grows with the square
    of the number of regions: 800 MB for 10,000.

    Examples
    --------
    >>> from skhgad.regions import group_defects
    >>> group_defects([[0.0, 1.0], [5.0, 0.0], [0.1, 1.1], [5.1, 0.2], [0.0, 0.9]])
    array([0, 1, 0, 1, 0])
    """
    features = check_array(features, dtype=np.float64, input_name="features", ensure_min_samples=0)
    n_regions = len(features)
    if regions is not None and len(regions) != n_regions:
        raise ValueError(f"regions has {len(regions)} items, features {n_regions} rows.")
    automatic = isinstance(n_groups, str) and n_groups == "auto"
    if not automatic and not (isinstance(n_groups, Integral) and n_groups >= 1):
        raise ValueError(f"n_groups must be an int of at least 1 or 'auto', got {n_groups!r}.")
    if not isinstance(max_groups, Integral) or max_groups < 2:
        raise ValueError(f"max_groups must be an int of at least 2, got {max_groups!r}.")
    if not automatic and n_groups > n_regions:
        raise ValueError(f"n_groups={n_groups}, but there are only {n_regions} regions.")
    if not n_regions or n_groups == 1:
        return np.zeros(n_regions, dtype=np.int64)
    points = _reduced(features)
    if regions is not None:
        shapes = np.log([[region.area, region.elongation] for region in regions])
        points = np.hstack([points, _SHAPE_WEIGHT * _reduced(shapes)])
    if not automatic:
        return _ward(points, n_groups)
    most = min(max_groups, len(np.unique(points.round(9), axis=0)) - 1)
    groupings = [_ward(points, n) for n in range(2, most + 1)]
    if not groupings:
        return np.zeros(n_regions, dtype=np.int64)
    return max(groupings, key=lambda labels: silhouette_score(points, labels))


def _reduced(features):
    """Leading principal components of the standardised features, of unit total variance."""
    features = StandardScaler().fit_transform(features)
    varied = features[:, features.std(0) > 0.5]  # the others are constant
    if not varied.size:
        return np.zeros((len(features), 1))
    points = PCA(min(_N_COMPONENTS, *varied.shape), svd_solver="full").fit_transform(varied)
    return points / np.sqrt(points.var(0).sum())


def _ward(points, n_groups):
    """Ward's groups, numbered in the order of their first point."""
    return number_by_first(AgglomerativeClustering(n_groups).fit_predict(points))


def number_by_first(labels):
    """Renumber the groups of a clustering from 0 in the order of their first sample."""
    _, first, codes = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[codes]
