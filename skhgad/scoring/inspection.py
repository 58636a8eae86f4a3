"""Everything the detector says of samples, in one pass."""

from typing import NamedTuple

import numpy as np
import torch

from .calibration import unseen
from .scoring_model import Evidence, resize

LOWEST = np.finfo(np.float64).min / 2  # a score that stays finite when offset_ is subtracted
UNKNOWN = {"U": "unknown", "i": -1}  # by kind of the class labels


class ScoredBatch(NamedTuple):
    """What the model finds in a batch.

    Attributes
    ----------
    codes : ndarray of shape (n,), int64
        Class inferred or given.
    scores : ndarray of shape (n,), float64
    typicality : ndarray of shape (n,), float64, or None
        How well the sample as a whole fits the class inferred. Of an image the log-likelihood of
        its median position, which a local defect hardly moves; of a vector, which has no parts,
        its score. None where the class was given.
    maps : Tensor of shape (n, height, width)
        On the model's grid.
    evidence : Evidence
    sizes : list of (height, width)
        Of the images.
    """

    codes: np.ndarray
    scores: np.ndarray
    typicality: np.ndarray | None
    maps: torch.Tensor
    evidence: Evidence
    sizes: list


class Inspection(NamedTuple):
    """What a detector says of samples.

    Attributes
    ----------
    class_label : ndarray of shape (n_samples,)
        Product class inferred, as from `predict_class`, or given.
    score : ndarray of shape (n_samples,), float64
        As from `score_samples`.
    p_value : ndarray of shape (n_samples,), float64
        As from `p_values`.
    is_anomaly : ndarray of shape (n_samples,), bool
        Whether the score is below `offset_`.
    maps : list of ndarray of shape (height, width), float32, or None
        Anomaly maps, each of its own image's size; None where not asked for.
    """

    class_label: np.ndarray
    score: np.ndarray
    p_value: np.ndarray
    is_anomaly: np.ndarray
    maps: list | None


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
    """Score a batch as `score_batch` does, of evidence that is at hand."""
    maps = model.maps(evidence)
    scores = _finite(-maps.amax((1, 2)))
    typicality = None
    if evidence.typicality is not None:
        is_vector = model.map_size == (1, 1)
        typicality = scores if is_vector else _finite(evidence.typicality)
    return ScoredBatch(evidence.codes.cpu().numpy(), scores, typicality, maps, evidence, sizes)


def _finite(values):
    # Evidence that overflows is nan, which `predict` would compare as normal.
    return np.nan_to_num(values.double().cpu().numpy(), nan=LOWEST, neginf=LOWEST)


def class_labels_of(detector, codes, typicality):
    """Name the classes; "unknown" or -1 where `unknown_rate` and the typicality say so.

    Raises
    ------
    ValueError
        If `unknown_rate` is set and a class is called "unknown".
    """
    labels = detector.classes_[codes]
    if detector.unknown_rate is None or typicality is None:
        return labels
    unknown = UNKNOWN[labels.dtype.kind]
    if unknown in detector.classes_.tolist():
        raise ValueError(
            f"a product class is called {unknown!r}, the answer of unknown_rate where a sample "
            "fits no class: rename the class, or leave unknown_rate=None."
        )
    is_unknown = unseen(typicality, codes, detector._calibration, detector.unknown_rate)
    return np.where(is_unknown, unknown, labels)


def inspect(detector, X, class_labels, keep_maps):
    """Score X once for an `Inspection`; see `HGADDetector.inspect`."""
    verdicts, maps = judge(detector, X, class_labels, image_maps if keep_maps else _nothing)
    return Inspection(*verdicts, maps if keep_maps else None)


def judge(detector, X, class_labels, details_of):
    """Score X once.

    Parameters
    ----------
    detector : HGADDetector
    X, class_labels
        As in `HGADDetector.inspect`.
    details_of : callable
        Takes a ScoredBatch and returns a list, what to keep of each sample.

    Returns
    -------
    verdicts : tuple of ndarray of shape (n_samples,)
        The first four fields of `Inspection`.
    details : list
    """
    batches, details = [], []
    for batch in detector._scored_batches(X, class_labels):
        details += details_of(batch)
        batches.append(batch[:3])
    codes, scores, typicality = (
        None if parts[0] is None else np.concatenate(parts) for parts in zip(*batches, strict=True)
    )
    return (
        class_labels_of(detector, codes, typicality),
        scores,
        detector._calibration.p_values(scores, codes, given=class_labels is not None),
        scores < detector.offset_,
    ), details


def _nothing(batch):
    return []


def image_maps(batch):
    """Anomaly maps of a batch, each of its own image's size: list of ndarray, float32."""
    grids = batch.maps.float().cpu()
    return [
        resize(grid[None], size)[0].numpy() for grid, size in zip(grids, batch.sizes, strict=True)
    ]
