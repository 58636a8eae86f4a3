"""More normal samples of the classes that a fitted detector knows."""

import copy
from dataclasses import replace
from numbers import Real

import numpy as np
import torch
from sklearn.utils import check_random_state

from ..features.framing import product_masks
from ..parameters import asks_for_training, check_parameters, parameters_now
from ..scoring.calibration import threshold_after
from ..validation import check_scored_X, check_y, listed
from .calibrate import calibrate, evidence_of
from .class_update import MapClass, VectorClass
from .feature_cache import cached_features
from .folds import N_FOLDS, enough_to_hold_out, spare
from .pictures import seen_at_fit
from .recalibrate import recalibrate
from .recipe import Recipe
from .samples import LabelledSamples
from .schedule import training_plan


def update(detector, X, y, roi=None):
    """Return the fitted attributes that more normals change; see `HGADDetector.update`.

    The detector itself does not change.
    """
    check_parameters(detector.get_params(deep=False))
    parameters = parameters_now(detector)
    fitted, reader = detector.model_, detector.feature_reader()
    if fitted.model.levels[0].densities is None:
        raise ValueError(
            "update needs a detector fitted with class_covariance=True: unit covariances come "
            "from training, which only fit does."
        )
    X = check_scored_X(X, detector, takes_images=fitted.takes_images)
    codes = known_codes(y, fitted.classes, len(X))
    normal = np.flatnonzero(codes >= 0)
    kept = fitted.kept
    if kept is not None:
        is_kept = np.isin(codes, kept.codes)  # of other classes, sums alone are there
        kept = kept.joined(X[is_kept], codes[is_kept])
    masks = product_masks(roi, len(X), fitted.classes, takes_images=fitted.takes_images)
    masks = fitted.roi if masks is None else masks
    if can_fit_anew(fitted):
        X = np.concatenate((fitted.kept.x, X[normal]))
        rows, pictures, change = np.arange(len(X)), None, _fit_anew
    else:
        X, rows, pictures = seen_at_fit(reader, X, codes, normal, parameters, masks)
        change = _count_in
    codes = codes[normal]
    with cached_features(reader, X, rows, parameters["cache_budget"]) as cache:
        model, calibration = change(fitted, cache, codes, pictures, parameters, reader.device)
    changed = replace(fitted, model=model, calibration=calibration, kept=kept)
    return {"model_": changed, "offset_": threshold_after(detector, calibration)}


def can_fit_anew(fitted):
    """Whether all vectors are kept, and no other class needs the latent space as it is."""
    return (
        fitted.kept is not None
        and len(fitted.classes) == 1
        and len(fitted.kept.codes) > 0
        and not asks_for_training(fitted.parameters)
        and not len(fitted.model.defect_terms)  # known defects are not kept
    )


def _fit_anew(fitted, cache, _codes, _pictures, parameters, device):
    """Fit all vectors of a single class in closed form, as `fit` does."""
    samples = LabelledSamples(cache, np.arange(len(cache)), np.zeros(len(cache), dtype=np.int64), 1)
    random_state = check_random_state(parameters["random_state"])
    seed = int(random_state.randint(2**31 - 1))
    shapes = [(level.n_features, *level.map_shape) for level in fitted.model.levels]
    plan = training_plan(parameters, len(samples), shapes, device)
    spared = spare(
        samples.codes, parameters["validation_fraction"],
        enough=enough_to_hold_out(is_trained=False, takes_images=False),
        random_state=random_state,
    )  # fmt: skip
    recipe = Recipe(parameters, plan, shapes, None, device, seed)
    model, evidence, _ = recipe.fit(samples, spared)
    return model, calibrate(model, evidence, parameters)


def _count_in(fitted, cache, codes, pictures, parameters, device):
    if pictures is not None:
        codes = codes[pictures.samples]
    samples = LabelledSamples(cache, np.arange(len(codes)), codes, len(fitted.classes), pictures)
    return updated_model(fitted, samples, parameters, device)


def updated_model(fitted, samples, parameters, device):
    """Count samples in a fitted model, which is not changed.

    Start, flow, background and everything of other classes stay as they are.

    Parameters
    ----------
    fitted : FittedModel
    samples : LabelledSamples
        New normals; their codes are those of the classes of the model.
    parameters : dict
        Of the estimator.
    device : torch.device

    Returns
    -------
    model : ScoringModel
    calibration : Calibration
        Each new normal is judged by a model without it, unless `validation_fraction` is 0.
    """
    random_state = check_random_state(parameters["random_state"])
    model = copy.deepcopy(fitted.model).to(device)
    model.freeze()
    seed = int(random_state.randint(2**31 - 1))
    folds = samples.by_row(_folds(samples.of_pictures(samples.codes), random_state))
    updates = _class_updates(model, fitted.kept, samples, folds, parameters["n_components"], seed)
    evidence = []
    if parameters["validation_fraction"] != 0:
        for fold in range(folds.max() + 1):
            _write(model, updates, without=fold)
            evidence += evidence_of(model, samples.chosen(np.flatnonzero(folds == fold)), device)
    _write(model, updates)
    if not evidence:  # the training samples calibrate
        evidence = evidence_of(model, samples, device)
    updated = np.unique(samples.codes)
    calibration = recalibrate(
        model, evidence, fitted.calibration, updated, parameters["class_calibration"]
    )
    return model, calibration


def _folds(codes, random_state):
    """Divide the samples of every class evenly into folds; each may hold a single sample.

    Unlike at fit, a class of few new samples spares them all: its model has the old ones.
    """
    folds = np.empty(len(codes), dtype=np.int64)
    for code in np.unique(codes):
        rows = random_state.permutation(np.flatnonzero(codes == code))
        folds[rows] = np.arange(len(rows)) % N_FOLDS
    return folds


def _class_updates(model, kept, samples, folds, n_components, seed):
    """Return (level, update) of all classes that have samples, on all levels."""
    found = []
    for code in np.unique(samples.codes).tolist():
        own = samples.chosen(np.flatnonzero(samples.codes == code))
        for index, level in enumerate(model.levels):
            if level.has_one_position and kept is not None:
                old = kept.x[kept.codes == code]
                old = torch.from_numpy(old) if len(old) else None
                update_of_class = VectorClass(
                    level, own.level(index).vectors()[0], old,
                    code, torch.from_numpy(folds[own.rows]), n_components, seed,
                )  # fmt: skip
            else:
                update_of_class = MapClass.of(level, own, index, code, folds)
            found.append((level, update_of_class))
    return found


def _write(model, updates, without=None):
    for level, update_of_class in updates:
        update_of_class.write(level.densities, without)


def known_codes(y, classes, n_samples):
    """Return the codes of labels that a detector knows, -1 for known anomalies.

    `y` holds one label a sample, or is one for all. Raises as `check_y`, and ValueError for a label
    that is missing or that the detector does not know.
    """
    if y is None:
        if len(classes) > 1:
            raise ValueError(
                "update needs y: the label of the samples, or one label per sample, of "
                f"{listed(map(repr, classes.tolist()))}."
            )
        return np.zeros(n_samples, dtype=np.int64)
    codes, labels = check_y([y] * n_samples if isinstance(y, str | Real) else y, n_samples)
    unknown = [label for label in labels.tolist() if label not in classes.tolist()]
    if unknown:
        raise ValueError(
            f"y names classes that the detector does not know: {unknown[:10]}. Known classes: "
            f"{listed(map(repr, classes.tolist()))}. Use add_class for normal samples of new "
            "classes."
        )
    places = np.searchsorted(classes, labels)
    return np.where(codes < 0, -1, places[codes])
