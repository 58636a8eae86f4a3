"""Anomalies among the samples to fit, of which the user names the share by `contamination`.

The samples that look most anomalous take no part in the fit. An isolation forest finds such
vectors. Models that were fitted without them find such images. A density of many centers, or of
kernels, makes a group of anomalies as likely as the normals. Therefore `n_components="auto"`
chooses among a few centers of vectors.
"""

import math

import numpy as np

from ..parameters import asks_for_training
from .calibrate import numbers_judged
from .folds import FEWEST
from .mixture_choice import FEW

# Among twice as many samples as there are anomalies, 0.5 to 0.6 of these are found in 21 tables,
# and 0.7 to 0.8 in images; among as many samples 0.4, and 0.5 to 0.6.
_TIMES = 2
_MOST = 0.5  # of a class are left out


def share_left_out(parameters, n_classes, takes_images):
    """Return the share of each class that a fit leaves out because of contamination.

    `n_classes` is the number of classes given. Of classes yet to be discovered it is 0: among them,
    a small product would look like anomalies. Of images it is 0 where a flow is trained: the first
    fit, which finds the anomalies, would train once for each fold.
    """
    contamination = parameters["contamination"]
    if contamination == "auto" or parameters["n_classes"] not in ("auto", n_classes):
        return 0.0
    if takes_images and asks_for_training(parameters):
        return 0.0
    return min(_TIMES * contamination, _MOST)


def centers_to_find(parameters):
    """Return the number of centers of a class of vectors, or which numbers are tried."""
    n_components = parameters["n_components"]
    is_unclean = parameters["contamination"] != "auto"
    return FEW if is_unclean and n_components == "auto" else n_components


def lowest_left_out(samples, evidence, calibration, share):
    """Find the images of each class that models without them find most anomalous.

    Parameters
    ----------
    samples : LabelledSamples
    evidence : list of pairs of Evidence
        Of the images, each judged by a model without it.
    calibration : Calibration
        By this evidence. An image that no model has left out is not found.
    share : float in (0, 0.5]
        Of each class.

    Returns
    -------
    ndarray of shape (n_images,), bool
    """
    codes = samples.of_pictures(samples.codes)
    scores = np.full(len(codes), np.inf)
    scores[numbers_judged(samples, evidence)] = calibration.given_scores
    return lowest(scores, codes, share)


def lowest(scores, codes, share):
    """Return which samples have the lowest scores of their class: this share, rounded down.

    A bool ndarray (n_samples,). A sample with the score inf is not among them.
    """
    found = np.zeros(len(scores), dtype=bool)
    for code in np.unique(codes):
        rows = np.flatnonzero(codes == code)
        order = scores[rows].argsort(kind="stable")
        found[rows[order[: math.floor(share * len(rows) + 1e-9)]]] = True
    return found & (scores < np.inf)


def most_isolated(X, codes, share, seed):
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
        Does not depend on the order of the samples. None of a class of fewer than 5 is found.
    """
    if not share:
        return np.zeros(len(X), dtype=bool)
    from sklearn.ensemble import IsolationForest  # and what it imports, for unclean vectors alone

    order, scores = np.lexsort(X.T), np.full(len(X), np.inf)
    for code in np.unique(codes):
        rows = order[codes[order] == code]
        if len(rows) < FEWEST:
            continue
        vectors = _within_one(X[rows])
        scores[rows] = IsolationForest(random_state=seed).fit(vectors).score_samples(vectors)
    found = np.empty(len(X), dtype=bool)
    found[order] = lowest(scores[order], codes[order], share)
    return found


def _within_one(X):
    """Bring features between -1 and 1: trees see float32, which has few digits far from 0."""
    X = X - np.median(X, axis=0)
    largest = np.abs(X).max(axis=0)
    return X / np.where(largest > 0, largest, 1)
