"""New product classes for a fitted detector, without a refit of the others."""

import copy
from numbers import Real

import numpy as np
import torch
from sklearn.utils import check_random_state

from ..model.level import LevelModel
from ..parameters import check_parameters, resolve_device
from ..scoring.calibration import Calibration, borrowed_scales, hold_out, threshold
from ..scoring.scoring_model import fit_normalizers
from ..validation import check_y
from .class_covariances import fit_new_classes
from .feature_cache import as_memory
from .samples import calibration_of, evidence_of, level_blocks


def add_class(detector, X, y):
    """Extend a fitted detector; see `HGADDetector.add_class`.

    Returns
    -------
    dict
        The fitted attributes that change; the detector itself is left as it is.
    """
    check_parameters(detector.get_params(deep=False))
    if detector._model.levels[0].mixture.whiteners is None:
        raise ValueError(
            "add_class needs a detector fitted with class_covariance=True: unit covariances come "
            "from training, which only fit does."
        )
    X = detector._check_input(X)
    codes, labels = new_labels(y, detector.classes_, len(X))
    normal = np.flatnonzero(codes >= 0)
    codes = codes[normal]
    random_state = check_random_state(detector.random_state)
    held_out = hold_out(codes, detector.validation_fraction, random_state)
    detector._warn_uncalibrated(codes, labels, held_out, known_classes=True)
    device, memory = resolve_device(detector.device), as_memory(detector.memory)

    classes, order = np.unique(np.concatenate([detector.classes_, labels]), return_index=True)
    places = np.argsort(order)  # in `classes`, of the known classes and then the new ones
    known_places, new_places = np.split(places, [len(detector.classes_)])
    known = copy.deepcopy(detector._model).cpu()
    with detector._cached_features(X, detector._extractor, normal, device, memory) as cache:
        rows = np.flatnonzero(~held_out)
        levels = []
        for index, level in enumerate(known.levels):
            blocks = level_blocks(cache, index, rows, codes)
            mixture = level.mixture.joined(
                fit_new_classes(level, blocks, len(labels)), torch.from_numpy(order)
            )
            levels.append(LevelModel(level.start, level.flow, mixture, level.map_shape))
        model = known.extended(levels, torch.from_numpy(order)).to(device)
        if detector.validation_fraction > 0:
            rows = np.flatnonzero(held_out)
        added = _calibrate(detector, model, cache, rows, new_places[codes], known, device)
    before = detector._calibration
    before = before._replace(
        codes=known_places[before.codes], inferred=known_places[before.inferred]
    )
    calibration = Calibration(*map(np.concatenate, zip(before, added, strict=True)))
    offset = detector.offset_
    if detector.contamination == "auto" and offset == threshold(before.scores):
        offset = threshold(calibration.scores)
    return {"_model": model, "_calibration": calibration, "classes_": classes, "offset_": offset}


def new_labels(y, classes, n_samples):
    """Turn the labels of new samples into codes.

    Parameters
    ----------
    y : str, int or array-like of shape (n_samples,)
        A single label holds for all samples.
    classes : ndarray of shape (n_classes,)
        Known ones.
    n_samples : int

    Returns
    -------
    codes : ndarray of shape (n_samples,), int64
        Index in `labels`; -1 for a known anomaly.
    labels : ndarray
        New classes, sorted.

    Raises
    ------
    ValueError, TypeError
        As `check_y`; or a label is missing, known already, or of another type than the classes.
    """
    if y is None:
        raise ValueError("add_class needs y: the label of the new class, or one label per sample.")
    codes, labels = check_y([y] * n_samples if isinstance(y, str | Real) else y, n_samples)
    if labels.dtype.kind != classes.dtype.kind:
        raise ValueError(
            f"y names the classes {labels.tolist()[:10]}, of another type than the known classes "
            f"{classes.tolist()[:10]}: use str for all, or int for all."
        )
    known = np.intersect1d(labels, classes)
    if len(known):
        raise ValueError(
            f"y names classes that the detector knows: {known.tolist()[:10]}. Leave their samples "
            "out, or fit anew on all samples."
        )
    return codes, labels


def _calibrate(detector, model, cache, rows, codes, known, device):
    """Freeze the constants of the new classes; return the Calibration of the samples in `rows`.

    `codes` are those of the extended model. Classes without samples in `rows` borrow everything.
    """
    evidence = evidence_of(model, cache, rows, codes, device)
    if evidence:
        seen = torch.from_numpy(np.unique(codes[rows]))
        fit_normalizers(model, [given for _, given in evidence], chosen=seen)
    if detector.class_calibration:
        new = np.unique(codes)
        model.score_location[new] = 0
        model.score_scale[new] = 1
        raw = calibration_of(model, evidence)
        others = known.score_location.double().numpy(), known.score_scale.double().numpy()
        for code in new:
            location, scale = borrowed_scales(-raw.given_scores[raw.codes == code], others)
            model.score_location[code] = location
            model.score_scale[code] = scale
    return calibration_of(model, evidence)
