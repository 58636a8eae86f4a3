"""The steps of `fit`, in order: read this first.

Validate, extract features, find classes, spare samples, fit a model, judge the spared, calibrate,
correct by known defects.
"""

from dataclasses import replace
from numbers import Integral

import numpy as np
from sklearn.utils import check_random_state

from ..devices import keep_to_one_thread_if_forked
from ..features.extractor import channels_of
from ..features.framing import product_masks
from ..features.reader import FeatureReader
from ..images import ImageSource
from ..images.appearance import ObservedSource
from ..parameters import check_parameters, parameters_of_fit, plain_parameters
from ..scoring.appearances import appearances_of
from ..scoring.fitted import FittedModel
from ..scoring.kept_vectors import KeptVectors
from ..scoring.scoring_model import check_levels_of_images
from ..validation import check_X, check_y
from .calibrate import calibrate, choose_offset
from .far_cells import check_magnitude, far_cells, with_rows
from .feature_cache import cached_features
from .folds import enough_to_hold_out, spare
from .known_defects import can_be_corrected, correct_by_known_defects, known_defects
from .known_masks import check_masks
from .known_regions import check_common_parts, in_regions_of_classes
from .listeners import Listeners
from .objective import check_trainable
from .pictures import remembered, seen_at_fit
from .processes import Processes
from .recipe import Recipe
from .same_call import check_same_data, check_same_parameters, check_same_regions
from .samples import LabelledSamples
from .schedule import training_plan
from .table_memory import check_table_memory
from .tell import decisions_text
from .warn import (
    warn_of_anomalies_outside,
    warn_of_enlarged_images,
    warn_of_far_cells,
    warn_of_few_calibrating,
    warn_of_labels,
    warn_of_samples_apart,
    warn_of_small_classes,
    warn_of_spreads,
    warn_of_unused_loss,
    warn_uncalibrated,
)


def fit_detector(
    detector,
    X,
    y=None,
    *,
    masks=None,
    roi=None,
    listeners=None,
    on_pass=None,
    correct=correct_by_known_defects,
):
    """Return the fitted attributes of a detector, as a dict; see `HGADDetector.fit`.

    Only `n_features_in_` and `feature_names_in_` are set on the detector itself.
    `listeners` tells the callbacks; who gives them tells of the end, with `listeners.decisions`.
    on_pass(info, levels), with a PassInfo, is called after each pass of the training. `correct`
    stands in for `correct_by_known_defects`: benchmarks try many choices of known defects on one
    fit.
    """
    keep_to_one_thread_if_forked()
    listeners = Listeners() if listeners is None else listeners
    processes = Processes.current()
    processes.meet()
    parameters = detector.get_params(deep=False)
    with processes.agree():
        check_parameters(parameters)
        check_trainable(parameters["loss"])
        X = check_X(
            X,
            value_range=parameters["value_range"],
            estimator=detector,
            reset=True,
            n_channels=channels_of(parameters["backbone"]),
        )
        codes, classes = check_y(y, len(X))
        takes_images = isinstance(X, ImageSource)
        if not takes_images:
            n_wanted = parameters["n_classes"]
            n_classes = n_wanted if isinstance(n_wanted, Integral) else len(classes)
            check_table_memory(*X.shape, int(n_classes), parameters)
        masks = check_masks(masks, codes, takes_images=takes_images)
        discovers = parameters["n_classes"] not in ("auto", len(classes))
        regions = product_masks(
            roi, len(X), None if discovers else classes, takes_images=takes_images
        )
        random_state = check_random_state(parameters["random_state"])
        parameters = plain_parameters(parameters)
        reader = FeatureReader.for_fit(parameters, X)
    check_same_parameters(processes, parameters)
    check_same_data(processes, X, codes, classes, masks)
    check_same_regions(processes, regions)
    if reader.extractor is not None:
        processes.share_state(reader.extractor)
    random_state = processes.broadcast(random_state)
    listeners.start(detector, processes)
    seed = int(random_state.randint(2**31 - 1))

    normal, anomalies = np.flatnonzero(codes >= 0), np.flatnonzero(codes < 0)
    cells = [] if takes_images else far_cells(X, codes)
    measured = np.setdiff1d(normal, [cell.row for cell in cells]).astype(np.int64)
    if not takes_images:
        check_magnitude(X[measured], getattr(detector, "feature_names_in_", None))
    if processes.is_first:
        warn_of_labels(classes, marks_anomalies=len(normal) < len(codes))
        if reader.extractor is None:
            names = getattr(detector, "feature_names_in_", None)
            warn_of_far_cells(X, cells, names)
            warn_of_spreads(X[measured], codes[measured], names)
    far, normal = np.setdiff1d(normal, measured), measured
    shapes, device = reader.level_shapes(X), reader.device
    if takes_images:
        check_levels_of_images(parameters, shapes)
    corrects = len(anomalies) > 0 and can_be_corrected(parameters)
    observed = ObservedSource(X, regions) if takes_images else X
    with processes.agree():
        if corrects:
            check_common_parts(X, anomalies, regions)
        X, rows, pictures = seen_at_fit(
            reader, observed, codes, normal, parameters, regions, with_anomalies=corrects
        )
    with cached_features(reader, X, rows, parameters["cache_budget"], processes) as cache:
        sizes = processes.gather_rows(cache.sizes, np.arange(len(rows)))
        if processes.is_first and takes_images and parameters["tile_size"] is None:
            warn_of_enlarged_images(X, rows, sizes, parameters)
        of_rows = normal if pictures is None else normal[pictures.samples]
        everything = LabelledSamples(
            cache, np.arange(len(rows)), codes[of_rows], len(classes), pictures
        )
        given_codes, given_classes = codes, classes
        everything, classes, apart = find_classes(
            everything, classes, parameters["n_classes"], random_state
        )
        if processes.is_first:
            warn_of_samples_apart(normal[apart], len(normal))
        normal = normal[~apart]
        codes = everything.of_pictures(everything.codes)
        if processes.is_first and parameters["n_classes"] == "discover":
            warn_of_small_classes(codes, normal)
        plan = training_plan(parameters, len(everything), shapes, device)
        if processes.is_first:
            warn_of_unused_loss(parameters, plan.n_passes)
        recipe = Recipe(parameters, plan, shapes, reader.extractor, device, seed)
        enough = enough_to_hold_out(
            is_trained=plan.n_passes > 0, takes_images=reader.extractor is not None
        )
        fraction = parameters["validation_fraction"]
        spared = spare(codes, fraction, enough=enough, random_state=random_state)
        if processes.is_first and fraction != 0:
            warn_uncalibrated(codes, classes, spared.any(axis=0), stacklevel=4)

        model, evidence, history = recipe.fit(
            everything,
            everything.by_row(spared),
            on_pass=listeners.before(on_pass),
            verbose=parameters["verbose"],
        )
        calibration, known = calibrate(model, evidence, parameters), None
        if len(far):
            far_codes = given_codes[far] if classes is given_classes else None
            calibration = with_rows(calibration, len(everything), model, X[far], far_codes, device)
        if corrects:
            fitted = model, evidence, calibration
            X = in_regions_of_classes(reader, X, anomalies, regions, model, parameters, everything)
            with known_defects(reader, X, anomalies, masks, parameters, everything) as defects:
                if processes.is_first and defects.outside:
                    warn_of_anomalies_outside(defects.outside)
                model, calibration, known = correct(
                    fitted, everything, defects, parameters, classes
                )
        offset = choose_offset(model, everything, calibration, parameters["contamination"], device)
    processes.share_state(model)  # machines that differ round differently
    calibration, offset = processes.broadcast((calibration, offset))
    n_spared = np.bincount(codes[spared.any(axis=0)], minlength=len(classes))
    keeps_flow = plan.n_passes > 0 and any(len(level.flow.blocks.mix) for level in model.levels)
    if processes.is_first:
        warn_of_few_calibrating(n_spared, classes, parameters)
        if parameters["verbose"] >= 1:
            n_centers = np.stack([level.n_centers.cpu().numpy() for level in model.levels])
            decisions = decisions_text(
                parameters, codes, classes, spared, plan.n_passes, n_centers, known,
                keeps_flow=keeps_flow,
            )  # fmt: skip
            print(decisions, flush=True)
    n_normals = np.bincount(codes, minlength=len(classes))
    listeners.decisions = {
        "n_normals": dict(zip(classes.tolist(), n_normals.tolist(), strict=True)),
        "n_held_out": dict(zip(classes.tolist(), n_spared.tolist(), strict=True)),
        "n_anomalies": len(anomalies),
        "n_passes": plan.n_passes,
        "keeps_flow": keeps_flow,
    }
    kept = appearances = None
    if takes_images:
        # Each process read its own pictures; fmax passes over NaN.
        seen = np.fmax.reduce(processes.gather([observed.appearance]))
        appearances = appearances_of(seen[normal], codes)
    else:
        is_given = classes is given_classes  # else nobody knows the class of rows with far cells
        kept = KeptVectors.of(X, given_codes) if is_given else KeptVectors.of(X[normal], codes)
    return {
        "model_": FittedModel(
            reader.extractor,
            model,
            calibration,
            classes,
            parameters_of_fit(parameters),
            roi=remembered(regions, len(classes)),
            kept=kept,
            appearances=appearances,
        ),
        "classes_": classes,
        "offset_": offset,
        "class_offsets_": {},
        "history_": history,
        "known_anomalies_": known,
        "n_iter_": passes_done(parameters, plan),
    }


def passes_done(parameters, plan):
    """Return `n_iter_`. The closed form that "auto" chooses counts as one, as scikit-learn asks."""
    return 1 if parameters["max_iter"] == "auto" and not plan.n_passes else plan.n_passes


def find_classes(samples, classes, n_classes, random_state):
    """Find the classes to fit: discovered where `n_classes` asks for it; else it must fit y.

    Returns
    -------
    samples : LabelledSamples
        Without those that belong to no class that was discovered.
    classes : ndarray
        The labels.
    is_apart : ndarray of shape (n_samples,) or, of views, (n_pictures,), bool
        Which samples belong to none.
    """
    if n_classes in ("auto", len(classes)):
        return samples, classes, np.zeros(len(samples.of_pictures(samples.codes)), dtype=bool)
    if len(classes) > 1:
        raise ValueError(
            f"n_classes={n_classes!r}, but y names {len(classes)} classes: "
            f"{classes.tolist()[:10]}. Leave n_classes='auto', or y=None to discover classes."
        )
    from .discovery import discover_classes  # and parts of scikit-learn that nothing else needs

    codes = discover_classes(samples, n_classes, random_state)
    classes, is_apart = np.arange(codes.max() + 1), codes < 0
    samples = replace(samples, codes=samples.by_row(codes), n_classes=len(classes))
    return samples.kept(~is_apart) if is_apart.any() else samples, classes, is_apart
