"""Latent vectors and centers."""

from typing import NamedTuple

import numpy as np
import torch
from sklearn.utils import check_random_state

from ..scoring.latents import latent_batches
from ..validation import check_class_labels, check_level, check_scored_X


class LatentPoints(NamedTuple):
    """Latent vectors, with class and index of their samples.

    Attributes
    ----------
    vectors : ndarray of shape (n_points, n_features), float64
    codes, samples : ndarray of shape (n_points,), int64
    """

    vectors: np.ndarray
    codes: np.ndarray
    samples: np.ndarray


def latent_points(detector, X, class_labels, level, n_positions, random_state):
    """Return LatentPoints; parameters are as of `LatentSpaceDisplay.from_estimator`."""
    fitted, reader = detector.model_, detector.feature_reader()
    X = check_scored_X(X, detector, takes_images=fitted.takes_images)
    check_level(level, len(fitted.model.levels))
    given = None
    if class_labels is not None:
        given = check_class_labels(class_labels, detector.classes_, len(X))
    random_state = check_random_state(random_state)
    vectors, codes, samples, n_seen = [], [], [], 0
    for latents, batch_codes in latent_batches(fitted, reader, X, given):
        z = latents[level].cpu().double().numpy()
        rows = np.arange(n_seen, n_seen + len(z))
        n_seen += len(z)
        if n_positions is None:
            z = z.mean(1, keepdims=True)
        elif n_positions < z.shape[1]:
            keys = random_state.random_sample(z.shape[:2])
            chosen = keys.argsort(1)[:, :n_positions, None]
            z = np.take_along_axis(z, chosen, axis=1)
        vectors.append(z.reshape(-1, z.shape[2]))
        codes.append(batch_codes.repeat(z.shape[1]))
        samples.append(rows.repeat(z.shape[1]))
    return LatentPoints(np.concatenate(vectors), np.concatenate(codes), np.concatenate(samples))


def latent_centers(detector, level):
    """Return the centers of the densities within the classes; the first of each class is its mean.

    Returns
    -------
    ndarray of shape (n_classes, n_components, n_features), float64
    """
    level_model = detector.model_.model.levels[level]
    with torch.no_grad():
        centers = level_model.mixture.centers()
        if level_model.densities is not None:
            shifts = level_model.densities.origins - level_model.mixture.means
            centers = centers + shifts[:, None]
    return centers.cpu().double().numpy()
