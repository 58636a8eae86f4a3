"""The steps of `fit`, in order: read this first.

Validate, extract features, find classes, spare samples, fit a model, judge the spared, calibrate,
correct by known defects.
"""

from dataclasses import replace

import numpy as np

from ..devices import keep_to_one_thread_if_forked
from ..features.framing import regions_by_code
from ..images.appearance import ObservedSource
from ..parameters import parameters_of_fit
from ..scoring.appearances import appearances_of
from ..scoring.fitted import FittedModel
from ..scoring.kept_vectors import KeptVectors
from ..scoring.picture_sizes import least_sides
from ..scoring.scoring_model import check_levels_of_images
from .blank_normals import leave_out_blank
from .calibrate import calibrate, choose_offset, with_samples
from .copies import copies_of_pictures, copies_of_vectors
from .far_cells import with_rows
from .feature_cache import cached_features
from .fit_input import checked_input
from .folds import enough_to_hold_out, spare
from .known_defects import can_be_corrected, correct_by_known_defects, known_defects
from .known_regions import check_common_parts, in_regions_of_classes
from .listeners import Listeners
from .parts import Parts
from .pictures import remembered, seen_at_fit
from .processes import Processes
from .recipe import Recipe
from .repeats import repeats_of
from .samples import LabelledSamples
from .schedule import training_plan
from .synthetic_anomalies import synthetic_anomalies
from .tell import Decisions
from .unclean import lowest_left_out, most_isolated, share_left_out
from .warn import (
    warn_of_anomalies_outside,
    warn_of_columns,
    warn_of_copies,
    warn_of_enlarged_images,
    warn_of_far_cells,
    warn_of_few_calibrating,
    warn_of_labels,
    warn_of_repeats,
    warn_of_samples_apart,
    warn_of_small_classes,
    warn_of_unused_loss,
    warn_of_wrong_names,
    warn_uncalibrated,
)
from .wide_tables import place_rows
from .wrong_names import find_wrong_names


def fit_detector(
    detector,
    X,
    y=None,
    *,
    masks=None,
    roi=None,
    groups=None,
    listeners=None,
    on_pass=None,
    correct=correct_by_known_defects,
):
    """Return the fitted attributes of a detector, as a dict; see `HGADDetector.fit`.

    Only `n_features_in_` and `feature_names_in_` are set on the detector itself.
    `listeners` tells the callbacks of the start and of each pass. The caller that passes them calls
    their `end` when the attributes are set. on_pass(info, levels), with a PassInfo, is called after
    each pass of the training. `correct` replaces `correct_by_known_defects`: benchmarks try many
    choices of known defects on one fit.
    """
    keep_to_one_thread_if_forked()
    listeners = Listeners() if listeners is None else listeners
    processes = Processes.current()
    processes.meet()
    given = checked_input(detector, X, y, masks, roi, groups, processes)
    listeners.start(detector, processes)
    parameters, reader, random_state = given.parameters, given.reader, given.random_state
    shapes, device = reader.level_shapes(given.X), reader.device
    seed = int(random_state.randint(2**31 - 1))
    numbers = given.parts
    if groups is None and not given.takes_images:
        numbers = copies_of_vectors(given.X, given.codes)
        if processes.is_first:
            warn_of_copies(numbers, given.codes, given.classes, "X[{}]".format)
    parts = Parts.drawn(numbers, given.codes, random_state)

    normal, far, anomalies, cells = given.groups()
    if processes.is_first:
        warn_of_labels(given.classes, marks_anomalies=len(anomalies) > 0)
        if not given.takes_images:
            warn_of_far_cells(given.X, cells, given.feature_names)
            warn_of_columns(given.X[normal], given.codes[normal], given.feature_names)
    given = given.rounded(normal)
    if given.takes_images:
        check_levels_of_images(parameters, shapes)
    corrects = len(anomalies) > 0 and can_be_corrected(parameters)
    observed = ObservedSource(given.X, given.regions) if given.takes_images else given.X
    with processes.agree():
        if corrects:
            check_common_parts(given.X, anomalies, given.regions)
        seen, rows, pictures = seen_at_fit(
            reader, observed, given.codes, normal, parameters, given.regions,
            with_anomalies=corrects,
        )  # fmt: skip

    with cached_features(reader, seen, rows, parameters["cache_budget"], processes) as cache:
        sizes = processes.gather_rows(cache.sizes, np.arange(len(rows)))
        if processes.is_first and given.takes_images and parameters["tile_size"] is None:
            warn_of_enlarged_images(seen, rows, sizes, parameters)
        looks = None
        if given.takes_images:  # each process read its own pictures; fmax passes over NaN
            looks = np.fmax.reduce(processes.gather([observed.appearance]))
        if groups is None and given.takes_images:
            numbers = copies_of_pictures(looks, given.codes)
            if processes.is_first:
                warn_of_copies(numbers, given.codes, given.classes, given.X.name)
            parts = Parts.drawn(numbers, given.codes, random_state)
        of_rows = normal if pictures is None else normal[pictures.samples]
        samples = LabelledSamples(
            cache, np.arange(len(rows)), given.codes[of_rows], len(given.classes), pictures,
            None if parts is None else parts.of(of_rows),
        )  # fmt: skip
        if given.takes_images:
            samples, normal = without_blank(samples, normal, looks, given, processes)
        samples, classes, apart = find_classes(
            samples, given.classes, parameters["n_classes"], random_state
        )
        if processes.is_first:
            warn_of_samples_apart(normal[apart], len(normal))
        normal = normal[~apart]
        codes = samples.of_pictures(samples.codes)
        if groups is None:
            repeats = repeats_of(samples)
            if processes.is_first:
                warn_of_repeats(repeats, classes)
        if processes.is_first and parameters["n_classes"] == "discover":
            warn_of_small_classes(codes, normal)

        plan = training_plan(parameters, len(samples), shapes, device)
        if processes.is_first:
            warn_of_unused_loss(parameters, plan.n_passes)
        enough = enough_to_hold_out(
            codes, is_trained=plan.n_passes > 0,
            n_features=None if given.takes_images else shapes[0][0],
            is_plain=len(classes) == 1 and not corrects,
        )  # fmt: skip
        recipe = Recipe(parameters, plan, shapes, reader.extractor, device, seed)
        unclean = None
        if share := share_left_out(parameters, len(given.classes), given.takes_images):
            is_unclean = find_unclean(recipe, given, normal, samples, share, random_state)
            samples, unclean = samples.kept(~is_unclean), samples.kept(is_unclean)
            normal, codes = normal[~is_unclean], codes[~is_unclean]
        fraction = parameters["validation_fraction"]
        of_normal = samples.parts_of_pictures()
        spared = spare(codes, fraction, enough=enough, random_state=random_state, parts=of_normal)
        if processes.is_first and fraction != 0:
            warn_uncalibrated(codes, classes, spared.any(axis=0), of_normal)
        is_judged = True if of_normal is None else of_normal.judged
        is_judged = np.broadcast_to(is_judged, codes.shape)
        model, evidence, calibration, history = fit_and_calibrate(
            recipe, given, normal, samples, spared, listeners.before(on_pass)
        )
        known = None
        given_codes = given.codes if classes is given.classes else None  # None: discovered
        is_named = given_codes is not None and len(classes) > 1
        if processes.is_first and is_named and len(spared):
            wrong = find_wrong_names(samples, evidence, calibration)
            warn_of_wrong_names(wrong, given.X, normal, classes)
        if corrects:
            fitted = model, evidence, calibration
            seen = in_regions_of_classes(
                reader, seen, anomalies, given.regions, model, parameters, samples
            )
            with known_defects(
                reader, seen, anomalies, given.masks, parameters, samples, parts
            ) as defects:
                if processes.is_first and defects.outside:
                    warn_of_anomalies_outside(defects.outside)
                model, calibration, known = correct(fitted, samples, defects, parameters, classes)
        # So many of what the fit left out calibrate, too; of parts, those that are drawn.
        calibrating = len(calibration.scores) / max(1, np.count_nonzero(is_judged))
        judged = far if parts is None else far[parts.judged[far]]
        if len(judged):
            far_codes = None if given_codes is None else given_codes[judged]
            calibration = with_rows(
                calibration, calibrating, model, given.X[judged], far_codes, device
            )
        if unclean is not None:
            calibration = with_samples(calibration, calibrating, model, unclean, device)
        offset = choose_offset(
            model, (samples, unclean), calibration, parameters["contamination"], device,
            others=given.X[far] if len(far) else (),
        )  # fmt: skip
    processes.share_state(model)  # machines that differ round differently
    calibration, offset = processes.broadcast((calibration, offset))

    kept = appearances = sides = None
    if given.takes_images:
        appearances = appearances_of(looks[normal], codes)
        sizes = np.maximum.reduce(processes.gather([observed.sizes]))
        sides = least_sides(sizes[normal], codes, len(classes))
    else:
        own, own_codes = normal, codes
        if given_codes is not None:  # with rows that are left out
            own = np.flatnonzero(given_codes >= 0)
            own_codes = given_codes[own]
        own_parts = None if parts is None else parts.numbers[own]
        kept = KeptVectors.of(given.X[own], own_codes, own_parts)
        fitted_to = normal[~spared[0]] if len(spared) == 1 else normal
        place_rows(model, np.searchsorted(own, fitted_to), len(own))
    fitted = FittedModel(
        reader.extractor,
        model,
        calibration,
        classes,
        parameters_of_fit(parameters),
        roi=remembered(given.regions, len(classes)),
        kept=kept,
        appearances=appearances,
        least_sides=sides,
    )
    keeps_flow = plan.n_passes > 0 and any(len(level.flow.blocks.mix) for level in model.levels)
    n_unclean = 0 if unclean is None else int(is_unclean.sum())
    decisions = Decisions(
        classes, codes, spared & is_judged, len(anomalies), n_unclean, plan.n_passes, keeps_flow
    )
    listeners.decisions = decisions
    if processes.is_first:
        warn_of_few_calibrating(decisions.n_held_out, classes, parameters, len(spared))
        if parameters["verbose"] >= 1:
            print(decisions.text(parameters["max_iter"], fitted, known), flush=True)
    return {
        "model_": fitted,
        "classes_": classes,
        "offset_": offset,
        "class_offsets_": {},
        "history_": history,
        "known_anomalies_": known,
        "n_iter_": passes_done(parameters, plan),
    }


def fit_and_calibrate(recipe, given, normal, samples, spared, on_pass=None):
    """Fit a model to samples, and calibrate it by those that are `spared`.

    Parameters
    ----------
    recipe : Recipe
    given : FitInput
    normal : ndarray of shape (n_samples,), int
        Rows of the samples in the X given.
    samples : LabelledSamples
    spared : ndarray of shape (n_groups, n_samples), bool
        From `folds.spare`.
    on_pass : callable, default=None
        See `fit_detector`.

    Returns
    -------
    tuple (model, evidence, calibration, history)
        As from `Recipe.fit`, and the Calibration.
    """
    parameters, regions = recipe.parameters, regions_by_code(given.regions, given.codes)
    parts = samples.parts_of_pictures()
    judged = spared if parts is None else spared & parts.judged
    with synthetic_anomalies(
        given.reader, given.X, normal, judged, samples, parameters, regions, recipe.seed
    ) as synthetic:
        model, evidence, of_synthetic, history = recipe.fit(
            samples,
            samples.by_row(spared),
            synthetic,
            on_pass=on_pass,
            verbose=parameters["verbose"],
        )
    weigh = None if synthetic is None else synthetic.weigh(model, of_synthetic)
    return model, evidence, calibrate(model, evidence, parameters, weigh), history


def without_blank(samples, normal, looks, given, processes):
    """Return the samples and their rows without pictures that are blank, see `leave_out_blank`."""
    found = None
    if processes.is_first:
        found = leave_out_blank(
            looks[normal], given.codes[normal], given.classes, lambda i: given.X.name(normal[i])
        )
    found = processes.broadcast(found)
    return (samples.kept(~found), normal[~found]) if found.any() else (samples, normal)


def find_unclean(recipe, given, normal, samples, share, random_state):
    """Return which normal samples look most anomalous: this share of each class, a bool ndarray.

    An isolation forest finds such vectors. Such images are found by a first fit, whose models judge
    the images that they were not fitted to. For the other parameters, see `fit_and_calibrate`.
    """
    codes = samples.of_pictures(samples.codes)
    if not given.takes_images:
        return most_isolated(given.X[normal], codes, share, recipe.seed)
    parts = samples.parts_of_pictures()
    folds = spare(codes, "cross", enough=0, random_state=random_state, parts=parts)
    samples = samples.all_judged()
    _, evidence, calibration, _ = fit_and_calibrate(recipe, given, normal, samples, folds)
    return lowest_left_out(samples, evidence, calibration, share)


def passes_done(parameters, plan):
    """Return `n_iter_`. The closed form that "auto" chooses counts as one, as scikit-learn asks."""
    return 1 if parameters["max_iter"] == "auto" and not plan.n_passes else plan.n_passes


def find_classes(samples, classes, n_classes, random_state):
    """Return the classes to fit: those of y, or discovered ones where `n_classes` asks for it.

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

    if samples.parts is None:
        codes = discover_classes(samples, n_classes, random_state)
    else:  # repeats of a part look like a class: one tells the class of all
        first, part = samples.parts_of_pictures().firsts()
        is_first = np.isin(np.arange(len(part)), first)
        of_parts = np.empty(len(first), dtype=np.int64)
        of_parts[np.argsort(first)] = discover_classes(
            samples.kept(is_first), n_classes, random_state
        )
        codes = of_parts[part]
    classes, is_apart = np.arange(codes.max() + 1), codes < 0
    samples = replace(samples, codes=samples.by_row(codes), n_classes=len(classes))
    return samples.kept(~is_apart) if is_apart.any() else samples, classes, is_apart
