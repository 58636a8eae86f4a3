"""Scores of a batch of samples."""

from typing import NamedTuple

import numpy as np
import torch

from .scoring_model import Evidence

LOWEST = np.finfo(np.float64).min / 2  # a score that stays finite when offset_ is subtracted


class ScoredBatch(NamedTuple):
    """Scores of a batch of samples.

    Attributes
    ----------
    codes : ndarray of shape (n,), int64
        Class inferred or given.
    scores : ndarray of shape (n,), float64
    typicality : ndarray of shape (n,), float64, or None
        How well the whole sample fits the inferred class: the log-likelihood of the median
        position of an image, which a local defect hardly moves; the score of a vector, which has
        no parts. None where the class was given.
    maps : Tensor of shape (n, height, width)
        On the model's grid.
    evidence : Evidence
    sizes : list of (height, width)
        Of the images.
    pictures : list of (layout, mask), default=None
        Where the grid lies in each image, and a function that returns its region of interest, a
        bool ndarray or None. None: the grid covers each image, and everything is inside.
    is_blank : ndarray of shape (n,), bool, default=None
        Which pictures have no content, see `BlankPictures`; None: no one has none.
    """

    codes: np.ndarray
    scores: np.ndarray
    typicality: np.ndarray | None
    maps: torch.Tensor
    evidence: Evidence
    sizes: list
    pictures: list | None = None
    is_blank: np.ndarray | None = None


def score_batch(model, features, codes, sizes=None):
    """Score a batch of features.

    Parameters
    ----------
    model : ScoringModel
    features : list of Tensor of shape (n, n_positions, n_features)
    codes : Tensor of shape (n,), int64, or None
        None: infer the class.
    sizes : list of (height, width), default=None

    Returns
    -------
    ScoredBatch
    """
    return score_evidence(model, model.evidence(features, codes), sizes)


def score_evidence(model, evidence, sizes=None):
    """Score a batch as `score_batch` does, from evidence."""
    maps = model.maps(evidence)
    scores = finite(-maps.amax((1, 2)))
    typicality = None
    if evidence.typicality is not None:
        is_vector = model.map_size == (1, 1)
        typicality = scores if is_vector else finite(evidence.typicality)
    codes, maps = evidence.codes.cpu().numpy(), finite_maps(maps)
    return ScoredBatch(codes, scores, typicality, maps, evidence, sizes)


def finite_maps(maps):
    """Return anomaly maps in which what overflowed is the largest number: most anomalous."""
    largest = torch.finfo(maps.dtype).max / 2
    return torch.nan_to_num(maps, nan=largest, posinf=largest, neginf=-largest)


def finite(scores):
    """Return scores as float64 ndarray, the lowest there is where they overflowed.

    Overflow gives nan, and `nan < offset_` is False: `predict` would say normal.
    """
    if isinstance(scores, torch.Tensor):
        scores = scores.double().cpu().numpy()
    return np.nan_to_num(scores.astype(np.float64), nan=LOWEST, neginf=LOWEST)
