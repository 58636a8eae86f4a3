"""Product classes of unlabelled samples, and how many there are."""

import math

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import cdist
from sklearn.decomposition import PCA
from sklearn.metrics import pairwise_distances_argmin
from sklearn.metrics.cluster import contingency_matrix

from ..regions import number_by_first
from .level_means import level_means
from .strays import far_from_class, in_small_class, is_scattered

_EMBEDDING_COMPONENTS = 32
_MOST_CLASSES = 100
_MOST_POINTS = 4000  # of a tree; its time and memory grow with the square
# A class of fewer cannot be told from strays, and has none to hold out.
_SMALLEST_CLASS = 5
_N_DRAWS = 10
_DRAWN_SHARE = 0.6
_STABLE = 0.85  # mean Jaccard index of "highly stable" clusters, Hennig (2007)
# Distance of means over the sum of standard deviations, along the line through the means. Halves of
# one cluster have 1.1 to 2; the products of images and of their features that were tried, 2.8.
_SEPARATED = 2.0
_MOST_ROUNDS = 3


def discover_classes(samples, n_classes, random_state):
    """Group samples into classes by Ward clustering of image-level embeddings.

    With `n_classes` "discover", `count_clusters` finds how many, at most 100. Returns int64 codes
    (n_rows,), numbered in the order of their first samples; -1 of samples that seem to be defects:
    see `far_from_class` and, where classes are counted, `in_small_class`. Raises ValueError if
    there are fewer distinct samples than classes. Of views of pictures, the samples are the
    pictures.
    """
    # Use a separate generator, so that later draws do not depend on whether classes are counted.
    random_state = np.random.RandomState(random_state.randint(2**31 - 1))
    labels = _discovered(embed(level_means(samples)), n_classes, random_state, _MOST_POINTS)
    return samples.cache.processes.broadcast(labels)


def find_clusters(means, random_state, most_points, least_share):
    """Group the samples of one class, as `discover_classes` finds classes.

    What seems to be a defect goes to the nearest group.

    Parameters
    ----------
    means : list of ndarray of shape (n_samples, n_features)
        From `level_means`.
    random_state : RandomState
    most_points : int
        Samples that tell the groups.
    least_share : float
        Of the samples, that a group has.

    Returns
    -------
    ndarray of shape (n_samples,), int64
        Group of each sample, from 0.
    """
    embedding = embed(means)
    labels = _discovered(embedding, "discover", random_state, most_points, least_share)
    return number_by_first(_completed(labels, embedding))


def _discovered(embedding, n_classes, random_state, most_points, least_share=0.0):
    """Group points (n, n_features), -1 where they seem to be defects; see `discover_classes`."""
    n_distinct = len(np.unique(embedding, axis=0))
    if n_classes != "discover" and n_distinct < n_classes:
        raise ValueError(
            f"n_classes={n_classes}, but X has only {n_distinct} distinct normal samples: give "
            "fewer classes or more samples."
        )
    if n_distinct == 1:
        return np.zeros(len(embedding), dtype=np.int64)
    n_kept = min(_EMBEDDING_COMPONENTS, *embedding.shape)
    points = PCA(n_kept, random_state=random_state).fit_transform(embedding)
    chosen = random_state.permutation(len(points))[:most_points]
    chosen = _if_enough(points, chosen[~is_scattered(points[chosen])], n_classes, chosen)
    is_apart = np.zeros(len(points), dtype=bool)
    for _ in range(_MOST_ROUNDS):
        labels = _clusters(points, chosen, n_classes, random_state, least_share)
        is_new = _seem_defects(points, labels, is_apart, counted=n_classes == "discover")
        is_apart |= is_new
        if not is_new[chosen].any():
            break
        chosen = _if_enough(points, chosen[~is_apart[chosen]], n_classes, chosen)
    labels[~is_apart] = number_by_first(labels[~is_apart])
    labels[is_apart] = -1
    return labels


def _if_enough(points, rows, n_classes, others):
    """Return rows if their points are as many as there should be classes, else the others."""
    if n_classes == "discover" or len(np.unique(points[rows], axis=0)) >= n_classes:
        return rows
    return others


def _clusters(points, chosen, n_classes, random_state, least_share):
    """Return the labels of all points, by clusters of those chosen."""
    labels, smallest = np.full(len(points), -1), _SMALLEST_CLASS
    if n_classes == "discover":
        smallest = max(smallest, math.ceil(least_share * len(chosen)))
        n_classes = count_clusters(points[chosen], random_state, smallest)
    labels[chosen] = cluster(points[chosen], n_classes, smallest)
    return _completed(labels, points)


def _seem_defects(points, labels, is_apart, counted):
    """Tell which points seem to be defects, beside those that are apart already."""
    rows = np.flatnonzero(~is_apart)
    found = far_from_class(points[rows], labels[rows])
    if counted:
        found |= in_small_class(labels[rows], ~found)
    is_new = np.zeros(len(points), dtype=bool)
    is_new[rows[found]] = True
    return is_new


def embed(means):
    """Describe each sample by the `level_means`, centered and brought to the same mean variance."""
    parts = []
    for of_level in means:
        spread = np.sqrt(of_level.var(0).mean())
        parts.append((of_level - of_level.mean(0)) / (spread if spread > 0 else 1))
    return np.concatenate(parts, axis=1)


def count_clusters(points, random_state, smallest=_SMALLEST_CLASS):
    """Find the largest number of clusters that are separated and found again; 1 if there is none.

    The tree of all points is compared with those of random parts. A number of clusters is stable if
    each meets, on average, a cluster of the part with a Jaccard index of 0.85. Source: C. Hennig,
    "Cluster-wise assessment of cluster stability", Computational Statistics & Data Analysis 52,
    2007. Where points are few, halves of one cluster are stable, too; see `separation`. Each has
    `smallest` points, at least.
    """
    most = min(_MOST_CLASSES, len(points) // (2 * _SMALLEST_CLASS), len(points) // smallest)
    if most < 2:
        return 1
    cuts = ward_cuts(points, most, smallest)
    found_again = [np.zeros(n) for n in range(1, len(cuts) + 1)]
    for _ in range(_N_DRAWS):
        drawn = random_state.permutation(len(points))[: round(_DRAWN_SHARE * len(points))]
        cuts_of_part = ward_cuts(points[drawn], len(cuts), round(_DRAWN_SHARE * smallest))
        for total, labels, labels_of_part in zip(found_again, cuts, cuts_of_part, strict=False):
            total += _best_jaccard(labels[drawn], labels_of_part, len(total))
    for labels, total in zip(cuts[:0:-1], found_again[:0:-1], strict=True):
        if total.min() >= _STABLE * _N_DRAWS and separation(points, labels) >= _SEPARATED:
            return len(total)
    return 1


def separation(points, labels):
    """Tell how far each cluster is from the one with the nearest mean; return the least.

    It is the distance of the means, over the sum of the standard deviations along that line.
    """
    means = np.stack([points[labels == label].mean(0) for label in range(labels.max() + 1)])
    distances = cdist(means, means)
    np.fill_diagonal(distances, np.inf)
    found = []
    for label, nearest in enumerate(distances.argmin(1)):
        distance = distances[label, nearest]
        line = (means[label] - means[nearest]) / max(distance, np.finfo(float).tiny)
        spread = sum((points[labels == one] @ line).std() for one in (label, nearest))
        found.append(distance / max(spread, np.finfo(float).tiny))
    return min(found)


def cluster(points, n_clusters, smallest=_SMALLEST_CLASS):
    """Cut Ward's tree into clusters, of `smallest` points at least where that is possible."""
    if n_clusters == 1:
        return np.zeros(len(points), dtype=np.int64)
    for size in range(min(smallest, len(points) // n_clusters), 1, -1):
        cuts = ward_cuts(points, n_clusters, size)
        if len(cuts) == n_clusters:
            return cuts[-1]
    return ward_cuts(points, n_clusters, 1)[-1]


def ward_cuts(points, most, smallest):
    """Return the labels of 1, 2, ... up to `most` clusters, cut from Ward's tree.

    The list ends early where no more clusters have `smallest` points. Strays, which split off in
    smaller numbers, go to the nearest cluster and are not counted.
    """
    tree, cuts = linkage(points, "ward"), []
    order = np.arange(len(tree), dtype=np.float64)
    for n_parts in range(1, most + len(points) // 4 + 1):
        # Undoing the last merges gives this number exactly, also where heights are equal.
        last_kept = len(points) - n_parts - 1
        parts = fcluster(tree, last_kept, "monocrit", monocrit=order) - 1
        large = np.bincount(parts) >= smallest
        if large.sum() > len(cuts):
            labels = np.where(large, np.cumsum(large) - 1, -1)[parts]
            cuts.append(_completed(labels, points))
        if len(cuts) == most or not large.any():
            break
    return cuts


def _completed(labels, points):
    """Give the points labelled -1 the label of the nearest cluster mean."""
    stray = labels < 0
    if not stray.any():
        return labels
    members = contingency_matrix(labels[~stray], np.flatnonzero(~stray), sparse=True)
    means = (members @ points[~stray]) / members.sum(1)
    completed = labels.copy()
    completed[stray] = pairwise_distances_argmin(points[stray], np.asarray(means))
    return completed


def _best_jaccard(labels, others, n_clusters):
    """Jaccard index of each cluster with the one of `others` that it resembles most."""
    shared = np.zeros((n_clusters, others.max() + 1))
    shared[np.unique(labels)] = contingency_matrix(labels, others)
    union = shared.sum(1, keepdims=True) + shared.sum(0) - shared
    return (shared / np.maximum(union, 1)).max(1)
