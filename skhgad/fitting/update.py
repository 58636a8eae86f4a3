"""More normal samples of the classes that a fitted detector knows."""

import copy
from dataclasses import replace
from numbers import Real

import numpy as np
import torch
from sklearn.utils import check_random_state

from ..features.framing import product_masks
from ..parameters import asks_for_training
from ..scoring.appearances import appearances_of
from ..scoring.calibration import threshold_after
from ..scoring.kept_vectors import KeptVectors, joined_parts
from ..scoring.picture_sizes import least_sides
from ..validation import check_parts, check_scored_X, check_y, listed
from .blank_normals import leave_out_blank
from .calibrate import calibrate, evidence_of, offset_of_share, score_vectors
from .changeable import parameters_of_change
from .class_update import MapClass, VectorClass
from .copies import copies_of_vectors
from .far_cells import FarCell, check_largest, far_cells, with_rows
from .feature_cache import cached_features
from .folds import N_FOLDS, enough_to_hold_out, spare
from .nearest_normals import NearestOfClass
from .novelty import VectorsOfClass
from .parts import Parts
from .pictures import seen_at_fit
from .recalibrate import recalibrate
from .recipe import Recipe
from .repeats import find_repeats, repeats_of
from .samples import LabelledSamples
from .schedule import training_plan
from .unclean import centers_to_find, most_isolated, share_left_out
from .warn import (
    warn_of_another_product,
    warn_of_far_cells,
    warn_of_known_samples,
    warn_of_repeats,
)
from .wide_tables import place_rows, rounding_of, with_rounded_rows


def update(detector, X, y, roi=None, groups=None):
    """Return the fitted attributes that more normals change; see `HGADDetector.update`.

    The detector itself does not change.
    """
    parameters = parameters_of_change(detector, "update")
    fitted, reader = detector.model_, detector.feature_reader()
    X = check_scored_X(X, detector, takes_images=fitted.takes_images)
    codes = known_codes(y, fitted.classes, len(X))
    numbers = check_parts(groups, codes, fitted.classes)
    if fitted.kept is not None:
        codes = _without_known_vectors(X, codes, fitted.kept)
    normal = np.flatnonzero(codes >= 0)
    kept = fitted.kept
    if kept is not None:
        is_kept = np.isin(codes, kept.codes)  # of other classes, sums alone are there
        own_parts = None if numbers is None else numbers[is_kept]
        kept = kept.joined(X[is_kept], codes[is_kept], own_parts)
    masks = product_masks(roi, len(X), fitted.classes, takes_images=fitted.takes_images)
    X = fitted.observed(X) if fitted.takes_images else X
    if fitted.appearances is not None:
        codes = _without_known(X, codes, fitted.appearances)
        codes = _without_blank(X, codes, fitted)
        normal = np.flatnonzero(codes >= 0)
    far = _far_cells(fitted, X, codes)
    names = getattr(detector, "feature_names_in_", None)
    warn_of_far_cells(X, far, names)
    if not fitted.takes_images:
        measured = np.setdiff1d(normal, [cell.row for cell in far]).astype(np.int64)
        check_largest(X[measured], names)
    if can_fit_anew(fitted):
        if len(fitted.classes) > 1:
            inferred = np.searchsorted(fitted.classes, detector.predict_class(X[normal]))
            warn_of_another_product(codes[normal], inferred, fitted.classes)
        model, calibration, kept = _fit_anew(
            fitted, X[normal], codes[normal], numbers if numbers is None else numbers[normal],
            parameters, reader,
        )  # fmt: skip
        offset = _offset_of_refit(detector, model, calibration, kept, reader.device)
    else:
        far = np.unique([cell.row for cell in far]).astype(np.int64)
        masks = fitted.roi if masks is None else masks
        model, calibration = _count_in(fitted, X, codes, numbers, far, masks, parameters, reader)
        n_old = len(fitted.calibration.codes)
        warn_of_another_product(
            calibration.codes[n_old:], calibration.inferred[n_old:], fitted.classes
        )
        offset = threshold_after(detector, calibration)
    changed = replace(fitted, model=model, calibration=calibration, kept=kept)
    if fitted.takes_images:
        changed.appearances = appearances_of(X.appearance, codes, fitted.appearances)
    if fitted.least_sides is not None:
        changed.least_sides = least_sides(X.sizes, codes, len(fitted.classes), fitted.least_sides)
    return {"model_": changed, "offset_": offset}


def _without_known(X, codes, appearances):
    """Return codes with -1 for pictures that the model knows, or that are given twice.

    A picture that counts twice is typical of itself, and makes all others look unusual.
    """
    known = set(zip(appearances.codes.tolist(), map(tuple, appearances.x.tolist()), strict=True))
    again, rows = [], np.flatnonzero(codes >= 0)
    for row, look in zip(rows.tolist(), X.looks(rows).tolist(), strict=True):
        picture = int(codes[row]), tuple(look)
        if picture in known:
            again.append(row)
        known.add(picture)
    return _without(codes, again, X.name)


def _without_blank(X, codes, fitted):
    """Return codes with -1 for blank pictures, see `leave_out_blank`."""
    blank = leave_out_blank(X.appearance, codes, fitted.classes, X.name, fitted.appearances)
    codes = np.where(blank, -1, codes)
    if not (codes >= 0).any():
        raise ValueError("update needs normal samples that are not blank.")
    return codes


def _without_known_vectors(X, codes, kept):
    """Return codes with -1 for copies of vectors that the model keeps, or that are given twice."""
    numbers = copies_of_vectors(*_with_kept(kept, X, codes))
    if numbers is None:
        return codes
    n_old = len(kept.codes)
    again = np.flatnonzero(numbers[n_old:] != np.arange(n_old, len(numbers)))
    return _without(codes, again.tolist(), "X[{}]".format)


def _without(codes, again, name):
    """Return codes with -1 for the rows `again`, which count already, and warn of them."""
    if again:
        warn_of_known_samples(name(again[0]), len(again), len(codes))
    codes = codes.copy()
    codes[again] = -1
    if not (codes >= 0).any():
        raise ValueError("update needs new normal samples: the model knows all that are given.")
    return codes


def can_fit_anew(fitted):
    """Whether all vectors are kept, and the latent space may change.

    It may with a single class. It must where the axes are those of the vectors of the fit, because
    these have nothing outside of them, and new vectors have.
    """
    return (
        fitted.kept is not None
        and len(np.unique(fitted.kept.codes)) == len(fitted.classes)
        and (len(fitted.classes) == 1 or fitted.model.levels[0].start.has_rest)
        and not asks_for_training(fitted.parameters)
        and not len(fitted.model.defect_terms)  # known defects are not kept
    )


def _far_cells(fitted, X, codes):
    """Find far cells of new feature vectors, beside the vectors that the model keeps."""
    if fitted.kept is None:
        return []
    n_old = len(fitted.kept.codes)
    cells = far_cells(*_with_kept(fitted.kept, X, codes), rounding_of(fitted.kept.x))
    return [FarCell(cell.row - n_old, cell.column) for cell in cells if cell.row >= n_old]


def _with_kept(kept, X, codes):
    """Return vectors and codes, those that are kept first."""
    return np.concatenate((kept.x, X)), np.concatenate((kept.codes, codes))


def _fit_anew(fitted, X, codes, numbers, parameters, reader):
    """Fit old and new vectors in closed form, as `fit` does; `numbers` of parts, or None."""
    if numbers is None:
        warn_of_repeats(find_repeats(X.astype(np.float64), codes), fitted.classes, "update")
    numbers = joined_parts(fitted.kept.parts, len(fitted.kept.codes), numbers, len(codes))
    X, codes = _with_kept(fitted.kept, X, codes)
    cells = far_cells(X, codes, rounding_of(fitted.kept.x))
    far = np.unique([cell.row for cell in cells]).astype(np.int64)
    rows = np.setdiff1d(np.arange(len(X)), far)
    random_state = check_random_state(parameters["random_state"])
    seed = int(random_state.randint(2**31 - 1))
    parts = Parts.drawn(numbers, codes, random_state)
    share = share_left_out(parameters, len(fitted.classes), takes_images=False)
    if parameters["start"] == "whitened":
        X = with_rounded_rows(X, rows)
    is_unclean = most_isolated(X[rows], codes[rows], share, seed)
    far, rows = np.union1d(far, rows[is_unclean]), rows[~is_unclean]
    with cached_features(reader, X, rows, parameters["cache_budget"]) as cache:
        n_classes = len(fitted.classes)
        samples = LabelledSamples(
            cache, np.arange(len(rows)), codes[rows], n_classes,
            parts=None if parts is None else parts.of(rows),
        )  # fmt: skip
        shapes = [(level.n_features, *level.map_shape) for level in fitted.model.levels]
        plan = training_plan(parameters, len(samples), shapes, reader.device)
        spared = spare(
            samples.codes, parameters["validation_fraction"],
            enough=enough_to_hold_out(
                samples.codes, is_trained=False, n_features=shapes[0][0], is_plain=n_classes == 1
            ),
            random_state=random_state, parts=samples.parts,
        )  # fmt: skip
        recipe = Recipe(parameters, plan, shapes, None, reader.device, seed)
        model, evidence, *_ = recipe.fit(samples, spared)
        calibration = calibrate(model, evidence, parameters)
    share = len(calibration.scores) / max(1, len(samples.judged(np.arange(len(rows)))))
    far = far if parts is None else far[parts.judged[far]]
    calibration = with_rows(calibration, share, model, X[far], codes[far], reader.device)
    place_rows(model, rows[~spared[0]] if len(spared) == 1 else rows, len(X))
    return model, calibration, KeptVectors.of(X, codes, numbers)


def _offset_of_refit(detector, model, calibration, kept, device):
    """Return `offset_` after a fit to all vectors: computed again where `fit` computed it."""
    fitted = detector.model_
    share = fitted.parameters["contamination"]
    if share == "auto":
        return threshold_after(detector, calibration)
    before = offset_of_share(score_vectors(fitted.model, fitted.kept.x, device), share)
    if not np.isclose(detector.offset_, before, rtol=1e-6):  # it was set since
        return detector.offset_
    return offset_of_share(score_vectors(model, kept.x, device), share)


def _count_in(fitted, X, codes, numbers, far, masks, parameters, reader):
    """Count new samples in; the vectors in the rows `far` of X calibrate alone."""
    vectors, device = X, reader.device
    parts = Parts.drawn(numbers, codes, check_random_state(parameters["random_state"]))
    normal = np.setdiff1d(np.flatnonzero(codes >= 0), far)
    X, rows, pictures = seen_at_fit(reader, X, codes, normal, parameters, masks)
    model, calibration = copy.deepcopy(fitted.model).to(device), fitted.calibration
    model.freeze()
    if len(rows):
        with cached_features(reader, X, rows, parameters["cache_budget"]) as cache:
            of_rows = normal if pictures is None else normal[pictures.samples]
            samples = LabelledSamples(
                cache, np.arange(len(rows)), codes[of_rows], len(fitted.classes), pictures,
                None if parts is None else parts.of(of_rows),
            )  # fmt: skip
            if numbers is None:
                warn_of_repeats(repeats_of(samples), fitted.classes, "update")
            calibration = _count_samples_in(model, fitted, samples, parameters, device)
    far = far if parts is None else far[parts.judged[far]]
    if len(far):
        calibration = with_rows(calibration, 1.0, model, vectors[far], codes[far], device)
    return model, calibration


def _count_samples_in(model, fitted, samples, parameters, device):
    """Count samples in a copy of the fitted model; return the Calibration.

    Start, flow, background and everything of other classes stay as they are. Each new normal is
    judged by a model without it, unless `validation_fraction` is 0.
    """
    random_state = check_random_state(parameters["random_state"])
    seed = int(random_state.randint(2**31 - 1))
    codes, parts = samples.of_pictures(samples.codes), samples.parts_of_pictures()
    folds = samples.by_row(_folds(codes, random_state, parts))
    share = share_left_out(parameters, len(fitted.classes), fitted.takes_images)
    kept = None if fitted.kept is None else _fitted_to(fitted.kept, share, seed)
    updates = _class_updates(model, kept, samples, folds, parameters, seed)
    evidence = []
    if parameters["validation_fraction"] != 0:
        for fold in range(folds.max() + 1):
            _write(updates, without=fold)
            judged = samples.judged(np.flatnonzero(folds == fold))
            if len(judged):
                evidence += evidence_of(model, samples.chosen(judged), device)
    _write(updates)
    if not evidence:  # the training samples calibrate
        evidence = evidence_of(model, samples.chosen(samples.judged(samples.rows)), device)
    if not evidence:  # those drawn have far cells
        return fitted.calibration
    updated = np.unique(samples.codes)
    return recalibrate(
        model, evidence, fitted.calibration, updated, parameters["class_calibration"], share
    )


def _fitted_to(kept, share_left_out, seed):
    """Return kept vectors without those that took no part in the fit."""
    far = [cell.row for cell in far_cells(kept.x, kept.codes)]
    kept = kept.at(np.setdiff1d(np.arange(len(kept.codes)), far))
    return kept.at(~most_isolated(kept.x, kept.codes, share_left_out, seed))


def _folds(codes, random_state, parts=None):
    """Divide the samples of every class evenly into folds, Parts as one; each may hold one sample.

    Unlike at fit, a class of few new samples spares them all: its model has the old ones.
    """
    if parts is not None:
        first, part = parts.firsts()
        return _folds(codes[first], random_state)[part]
    folds = np.empty(len(codes), dtype=np.int64)
    for code in np.unique(codes):
        rows = random_state.permutation(np.flatnonzero(codes == code))
        folds[rows] = np.arange(len(rows)) % N_FOLDS
    return folds


def _class_updates(model, kept, samples, folds, parameters, seed):
    """Return what to write on all levels for all classes that have samples, and where."""
    found, n_components = [], centers_to_find(parameters)
    for code in np.unique(samples.codes).tolist():
        own = samples.chosen(np.flatnonzero(samples.codes == code))
        for index, level in enumerate(model.levels):
            of_level = own.level(index)
            x = of_level.vectors()[0] if level.has_one_position else None
            of_folds = torch.from_numpy(folds[own.rows])
            if level.has_one_position and kept is not None:
                old = kept.at(kept.codes == code)
                new_parts = None if own.parts is None else own.parts.numbers[of_level.rows()]
                parts = joined_parts(old.parts, len(old.x), new_parts, len(own.rows))
                update_of_class = VectorClass(
                    level, x, torch.from_numpy(old.x) if len(old.x) else None,
                    code, of_folds, n_components, seed,
                    None if parts is None else torch.from_numpy(parts),
                )  # fmt: skip
            else:
                update_of_class = MapClass.of(level, own, index, code, folds)
            found.append((level.densities, update_of_class))
            if level.keeps_rows:
                nearest = VectorsOfClass(level, code, x, of_folds, parameters["bank_size"], seed)
                found.append((level.nearest, nearest))
            elif level.nearest is not None:
                nearest = NearestOfClass.of(level, own, index, code, folds, parameters)
                found.append((level.nearest, nearest))
    return found


def _write(updates, without=None):
    for target, update_of_class in updates:
        update_of_class.write(target, without)


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
