"""Points that belong to no class that was discovered, as defects among normal samples do."""

import numpy as np
from scipy.sparse.csgraph import connected_components
from sklearn.neighbors import NearestNeighbors

_NEIGHBOURS = 5  # that tell whether a point is alone
_ALONE = 4.0  # times as far from its neighbours as these are from their own
_FEWEST = 20  # points of a class, below which none is far
_MOST_POINTS = 2000  # of a class, to which distances are measured
_PART = 4  # of a class: a group of more than a quarter is no stray
# A point is far if its distance is this many times the usual one, and this many robust standard
# deviations of log distances above it. At corners of a uniform class the ratio is at most 2. Of
# vectors of 10 features of Student's t with 3 degrees of freedom, 0.5 % have more deviations.
_FARTHER, _DEVIATIONS = 2.2, 6.0
_SMALLEST_DEVIATION = 0.1
_MOST_OF_ALL = 0.1  # a group of more samples is a class, however small beside the others
# Points at the edge of a class that are twice as near to each other as points of it usually are,
# are copies of one thing: for a group of them, a smaller distance is far.
_NEARER = 2.0  # times
_FARTHER_TIGHT, _DEVIATIONS_TIGHT = 1.3, 1.5
_FEWEST_TIGHT, _MOST_TIGHT = 5, 0.1  # points, and share of the class


def is_scattered(points):
    """Find points that have no others near them, before classes are known.

    Parameters
    ----------
    points : ndarray of shape (n_points, n_features)

    Returns
    -------
    ndarray of shape (n_points,), bool
    """
    if len(points) < _FEWEST:
        return np.zeros(len(points), dtype=bool)
    distances, rows = NearestNeighbors(n_neighbors=_NEIGHBOURS).fit(points).kneighbors()
    reach = distances[:, -1]
    usual = np.median(reach)
    return (usual > 0) & (reach > _ALONE * np.maximum(usual, np.median(reach[rows], axis=1)))


def far_from_class(points, labels):
    """Find points far from their class: alone, or in a group of less than a quarter of it.

    The distance of a point to its class is the radius around it that holds a quarter of the class.
    It is compared with those of the other points, as a ratio and in their robust standard
    deviations. Less is enough for the points of a tight group.

    Parameters
    ----------
    points : ndarray of shape (n_points, n_features)
    labels : ndarray of shape (n_points,), int

    Returns
    -------
    ndarray of shape (n_points,), bool
    """
    is_far = np.zeros(len(points), dtype=bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        if len(rows) >= _FEWEST:
            is_far[rows] = _far_in_class(points[rows])
    return is_far


def in_small_class(labels, counted):
    """Find points of classes too small to be told from a group of defects.

    Such a class has less than a quarter of the points of the median class, and at most a tenth of
    all. `counted`, a bool ndarray of the shape of `labels`, tells which points count.
    """
    sizes = np.bincount(labels[counted], minlength=labels.max() + 1)
    usual = np.median(sizes[sizes > 0])
    is_small = (sizes < usual / _PART) & (sizes <= _MOST_OF_ALL * len(labels))
    return is_small[labels]


def _far_in_class(points):
    some = points[:: -(-len(points) // _MOST_POINTS)]
    reach = _reach(points, some, len(some) // _PART)
    usual = np.median(reach)
    if not usual > 0:
        return np.zeros(len(points), dtype=bool)
    ratios = np.log(np.maximum(reach / usual, 1e-9))
    deviation = max(1.4826 * np.median(np.abs(ratios)), _SMALLEST_DEVIATION)
    is_far = (ratios > np.log(_FARTHER)) & (ratios > _DEVIATIONS * deviation)
    if is_far.any():  # but not the end of a long tail, which is near to others
        others = points[~is_far]
        gaps = NearestNeighbors(n_neighbors=1).fit(others).kneighbors(points[is_far])[0][:, 0]
        is_far[is_far] = gaps > usual
    is_outside = (ratios > np.log(_FARTHER_TIGHT)) & (ratios > _DEVIATIONS_TIGHT * deviation)
    gaps = NearestNeighbors(n_neighbors=2).fit(points).kneighbors(some)[0][:, 1]
    is_tight = _in_group(points[is_outside], np.median(gaps) / _NEARER, _MOST_TIGHT * len(points))
    is_far[is_outside] |= is_tight
    return is_far


def _in_group(points, reach, most):
    """Find points of groups, of 5 and at most so many, in which neighbours are within `reach`."""
    if len(points) <= _NEIGHBOURS or points.shape[1] < 2:  # on a line, gaps are of any size
        return np.zeros(len(points), dtype=bool)
    near = NearestNeighbors(n_neighbors=_NEIGHBOURS).fit(points).kneighbors_graph(mode="distance")
    near.data = (near.data < reach).astype(float)  # equal points have the distance 0
    near.eliminate_zeros()
    groups = connected_components(near, directed=False)[1]
    sizes = np.bincount(groups)[groups]
    return (sizes >= _FEWEST_TIGHT) & (sizes <= most)


def _reach(points, others, n_neighbours):
    """Distance of each point to its n-th nearest of the others."""
    neighbours = NearestNeighbors(n_neighbors=n_neighbours).fit(others)
    blocks = np.array_split(points, -(-len(points) // _MOST_POINTS))
    return np.concatenate([neighbours.kneighbors(block)[0][:, -1] for block in blocks])
