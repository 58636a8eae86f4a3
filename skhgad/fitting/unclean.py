"""Anomalies among the vectors to fit, of which the user names the share by `contamination`.

A density of many centers, or of kernels, makes a group of anomalies as likely as the normals. So
the vectors that look most anomalous take no part in the fit, and `n_components="auto"` chooses
among a few centers.
"""

import numpy as np

from .mixture_choice import FEW

# Of the anomalies of 21 tables, a forest has 0.4 among as many vectors, 0.5 to 0.6 among twice.
_TIMES = 2
_MOST = 0.5  # of a class are left out


def share_left_out(parameters, n_classes):
    """Return the share of each class of vectors that a fit leaves out because of contamination.

    `n_classes` is the number of classes given. Of classes yet to be discovered it is 0: among them,
    a small product would look like anomalies.
    """
    contamination = parameters["contamination"]
    if contamination == "auto" or parameters["n_classes"] not in ("auto", n_classes):
        return 0.0
    return min(_TIMES * contamination, _MOST)


def centers_to_find(parameters):
    """Return the number of centers of a class of vectors, or which numbers are tried."""
    n_components = parameters["n_components"]
    is_unclean = parameters["contamination"] != "auto"
    return FEW if is_unclean and n_components == "auto" else n_components


def most_anomalous(X, codes, share, seed):
    """Find the vectors of each class that an isolation forest isolates soonest.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), float64
    codes : ndarray of shape (n_samples,), int64
        Classes.
    share : float in [0, 0.5]
        Of each class.
    seed : int
        Of the forests.

    Returns
    -------
    ndarray of shape (n_samples,), bool
        Does not depend on the order of the samples.
    """
    found = np.zeros(len(X), dtype=bool)
    if not share:
        return found
    from sklearn.ensemble import IsolationForest  # and what it imports, for unclean vectors alone

    for code in np.unique(codes):
        rows = np.flatnonzero(codes == code)
        vectors = _within_one(X[rows])
        order = np.lexsort(vectors.T)
        forest = IsolationForest(random_state=seed).fit(vectors[order])
        ranked = forest.score_samples(vectors[order]).argsort(kind="stable")
        found[rows[order[ranked[: round(share * len(rows))]]]] = True
    return found


def _within_one(X):
    """Bring features between -1 and 1: trees see float32, which has few digits far from 0."""
    X = X - np.median(X, axis=0)
    largest = np.abs(X).max(axis=0)
    return X / np.where(largest > 0, largest, 1)
