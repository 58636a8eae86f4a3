"""Latent vectors and centers."""

from typing import NamedTuple

import numpy as np
import torch
from sklearn.utils import check_random_state

from ..devices import usual_torch
from ..metrics.gaussianity import FEWEST_VECTORS, mardia
from ..scoring.latents import latent_batches
from ..validation import check_class_labels, check_level, check_scored_X

_POSITIONS = 16  # of each sample, that show how Gaussian its class is
_MOST_JUDGED = 5000  # vectors of a class


class LatentPoints(NamedTuple):
    """Latent vectors, with class and index of their samples.

    Attributes
    ----------
    vectors : ndarray of shape (n_points, n_features), float64
    codes, samples : ndarray of shape (n_points,), int64
    standardised : ndarray of shape (n_judged, n_features), float64
        Vectors at 16 random positions of each sample, as `LevelModel.standardised` makes them.
    standardised_samples : ndarray of shape (n_judged,), int64
        Their samples.
    """

    vectors: np.ndarray
    codes: np.ndarray
    samples: np.ndarray
    standardised: np.ndarray
    standardised_samples: np.ndarray


@usual_torch()
def latent_points(detector, X, class_labels, level, n_positions, random_state, roi=None):
    """Return LatentPoints; parameters are as of `LatentSpaceDisplay.from_estimator`."""
    fitted, reader = detector.model_, detector.feature_reader()
    X = check_scored_X(X, detector, takes_images=fitted.takes_images)
    check_level(level, len(fitted.model.levels))
    given = None
    if class_labels is not None:
        given = check_class_labels(class_labels, detector.classes_, len(X))
    random_state = check_random_state(random_state)
    judging = np.random.RandomState(0)  # of its own, so that the points do not depend on it
    level_model = fitted.model.levels[level]
    parts, n_seen = [], 0
    for latents, batch_codes in latent_batches(fitted, reader, X, given, roi):
        z = latents[level].cpu().double().numpy()
        rows = np.arange(n_seen, n_seen + len(z))
        n_seen += len(z)
        judged = _drawn_positions(z, _POSITIONS, judging)
        standardised = _standardised(level_model, judged, batch_codes, judging)
        if n_positions is None:
            z = z.mean(1, keepdims=True)
        else:
            z = _drawn_positions(z, n_positions, random_state)
        parts.append(
            (
                z.reshape(-1, z.shape[2]),
                batch_codes.repeat(z.shape[1]),
                rows.repeat(z.shape[1]),
                standardised.reshape(-1, standardised.shape[2]),
                rows.repeat(standardised.shape[1]),
            )
        )
    return LatentPoints(*map(np.concatenate, zip(*parts, strict=True)))


def _drawn_positions(z, n_positions, random_state):
    """Choose random positions of each sample of z (n, positions, n_features)."""
    if n_positions >= z.shape[1]:
        return z
    keys = random_state.random_sample(z.shape[:2])
    chosen = keys.argsort(1)[:, :n_positions, None]
    return np.take_along_axis(z, chosen, axis=1)


@torch.inference_mode()
def _standardised(level, z, codes, random_state):
    """Standardise vectors (n, positions, n_features) under the class of each sample."""
    draws = random_state.random_sample(z.shape[:2])
    result, source = None, level.start.mean
    for code in np.unique(codes).tolist():
        own = codes == code
        vectors = level.standardised(
            torch.from_numpy(z[own].reshape(-1, z.shape[2])).to(source),
            code,
            torch.from_numpy(draws[own].ravel()).to(source),
        )
        if result is None:
            result = np.empty((*z.shape[:2], vectors.shape[1]))
        result[own] = vectors.cpu().double().numpy().reshape(-1, *result.shape[1:])
    return result


def class_gaussianity(points, classes, is_anomaly=None):
    """Measure how Gaussian the normal samples of each class are in latent space.

    Parameters
    ----------
    points : LatentPoints
    classes : ndarray of shape (n_classes,)
    is_anomaly : ndarray of shape (n_samples,), bool, default=None
        Samples to leave out.

    Returns
    -------
    dict
        From class label to Gaussianity, to None for a class of fewer than 20 vectors.
    """
    code_of_sample = np.empty(points.samples[-1] + 1, dtype=np.int64)
    code_of_sample[points.samples] = points.codes
    codes = code_of_sample[points.standardised_samples]
    if is_anomaly is not None:
        codes = np.where(is_anomaly[points.standardised_samples], -1, codes)
    found = {}
    for code, label in enumerate(classes.tolist()):
        rows = np.flatnonzero(codes == code)
        rows = rows[:: -(-len(rows) // _MOST_JUDGED)] if len(rows) else rows
        vectors = points.standardised[rows]
        is_enough = len(rows) >= FEWEST_VECTORS and np.ptp(vectors, axis=0).any()
        found[label] = mardia(vectors) if is_enough else None
    return found


def latent_centers(detector, level):
    """Return the mean of each class and the centers of its density.

    Returns
    -------
    means : ndarray of shape (n_classes, n_features), float64
    centers : list of ndarray of shape (n_centers, n_features), float64
        One a class. The number of centers can differ.
    """
    level_model = detector.model_.model.levels[level]
    densities = level_model.densities
    with torch.no_grad():
        if densities is None:
            means, centers = level_model.mixture.means, list(level_model.mixture.centers())
        else:
            means = densities.locations
            centers = [densities.centers_of(code) for code in range(len(means))]
    means, *centers = (values.detach().cpu().double().numpy() for values in (means, *centers))
    return means, centers
