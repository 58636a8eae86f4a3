"""New product classes for a fitted detector."""

import copy
from dataclasses import replace
from numbers import Real

import numpy as np
import torch
from sklearn.utils import check_random_state

from ..features.framing import product_masks, regions_by_code
from ..images.roi import ProductMasks
from ..model.level import LevelModel
from ..model.nearest import NearestNormals
from ..scoring.appearances import appearances_of, same_regions
from ..scoring.calibration import threshold_after
from ..scoring.picture_sizes import least_sides
from ..validation import check_parts, check_scored_X, check_y
from .blank_normals import leave_out_blank
from .calibrate import calibrate_new_classes, evidence_of, judges
from .changeable import parameters_of_change
from .class_covariances import fit_new_classes
from .copies import find_copies
from .far_cells import check_largest, far_cells, with_rows
from .feature_cache import cached_features
from .folds import enough_to_hold_out, spare
from .new_map_classes import modes_of_new_classes, new_map_classes, takes_new_maps
from .novelty import keep_new_classes
from .parts import Parts
from .pictures import seen_at_fit
from .repeats import repeats_of
from .samples import LabelledSamples
from .synthetic_anomalies import synthetic_anomalies
from .unclean import centers_to_find
from .warn import (
    warn_of_columns,
    warn_of_copies,
    warn_of_enlarged_images,
    warn_of_far_cells,
    warn_of_few_calibrating,
    warn_of_labels,
    warn_of_repeats,
    warn_uncalibrated,
)

_FIRST_IMAGES = 16  # of each class: enough to find about where it lies


def add_class(detector, X, y, roi=None, groups=None):
    """Return the fitted attributes that a new class changes; see `HGADDetector.add_class`.

    The detector itself does not change.
    """
    parameters = parameters_of_change(detector, "add_class")
    fitted, reader = detector.model_, detector.feature_reader()
    X = check_scored_X(X, detector, takes_images=fitted.takes_images)
    codes, labels = new_labels(y, fitted.classes, len(X))
    numbers = check_parts(groups, codes, labels)
    normal = np.flatnonzero(codes >= 0)
    warn_of_labels(labels, marks_anomalies=len(normal) < len(codes))
    far = normal[:0]  # rows with cells that are no measurement: they calibrate alone
    if not fitted.takes_images:
        names = getattr(detector, "feature_names_in_", None)
        cells = far_cells(X, codes)
        warn_of_far_cells(X, cells, names)
        far = np.unique([cell.row for cell in cells]).astype(np.int64)
        normal = np.setdiff1d(normal, far)
        check_largest(X[normal], names)
        warn_of_columns(X[normal], codes[normal], names)
    masks = product_masks(roi, len(X), labels, takes_images=fitted.takes_images)
    if masks is None and fitted.roi is not None and fitted.roi.is_common:
        masks = fitted.roi._replace(of_class=fitted.roi.of_class[:1] * len(labels))
    observed = fitted.observed(X) if fitted.takes_images else X
    if groups is None:
        numbers = find_copies(observed, codes)
        name = X.name if fitted.takes_images else "X[{}]".format
        warn_of_copies(numbers, codes, labels, name)
    if fitted.takes_images:
        named = normal
        blank = leave_out_blank(
            observed.looks(named), codes[named], labels, lambda i: X.name(named[i])
        )
        normal = named[~blank]
    seen, rows, pictures = seen_at_fit(reader, observed, codes, normal, parameters, masks)
    random_state = check_random_state(parameters["random_state"])
    parts = Parts.drawn(numbers, codes, random_state)
    regions, far_codes, codes = regions_by_code(masks, codes), codes[far], codes[normal]
    of_normal = None if parts is None else parts.of(normal)
    fraction = parameters["validation_fraction"]
    # Whatever was trained stays: the new classes alone are fitted.
    enough = enough_to_hold_out(
        codes, is_trained=False, is_plain=False,
        n_features=None if fitted.takes_images else X.shape[1],
    )  # fmt: skip
    spared = spare(codes, fraction, enough=enough, random_state=random_state, parts=of_normal)
    if fraction != 0:
        is_spared = spared.any(axis=0)
        warn_uncalibrated(codes, labels, is_spared, of_normal, knows_others=True)
    is_judged = np.ones(len(codes), dtype=bool) if parts is None else of_normal.judged
    classes, order = np.unique(np.concatenate([fitted.classes, labels]), return_index=True)
    known_places, new_places = np.split(np.argsort(order), [len(fitted.classes)])
    known = _on_cpu(fitted.model)
    with cached_features(reader, seen, rows, parameters["cache_budget"]) as cache:
        if fitted.takes_images and parameters["tile_size"] is None:
            warn_of_enlarged_images(seen, rows, cache.sizes, parameters)
        of_rows = slice(None) if pictures is None else pictures.samples
        samples = LabelledSamples(
            cache, np.arange(len(rows)), codes[of_rows], len(labels), pictures,
            None if parts is None else of_normal.of(of_rows),
        )  # fmt: skip
        if groups is None:
            warn_of_repeats(repeats_of(samples), labels, "add_class")
        extension = _Extension(known, order, new_places, parameters, reader.device)
        fit = extension.fit_maps if takes_new_maps(known) else extension.fit
        with synthetic_anomalies(
            reader, X, normal, spared & is_judged, samples, parameters, regions, extension.seed
        ) as synthetic:
            model, evidence, of_synthetic = fit(samples, spared[:, of_rows], synthetic)
        weigh = None if synthetic is None else synthetic.weigh(model, of_synthetic)
        added = calibrate_new_classes(model, evidence, parameters, known, new_places, weigh)
    judged = np.ones(len(far), dtype=bool) if parts is None else parts.judged[far]
    if judged.any():
        share = len(added.scores) / max(1, np.count_nonzero(is_judged))
        of_far = new_places[far_codes[judged]]
        added = with_rows(added, share, model, X[far[judged]], of_far, reader.device)
    before = fitted.calibration
    before = before._replace(
        codes=known_places[before.codes], inferred=known_places[before.inferred]
    )
    calibration = before.joined(added)
    if parameters["class_calibration"]:  # else all classes share what calibrates the known ones
        calibrates = spared.any(axis=0) & is_judged
        counts = np.bincount(codes[calibrates], minlength=len(labels))
        warn_of_few_calibrating(counts, labels, parameters, len(spared))
    kept = fitted.kept
    if kept is not None:
        rows = np.concatenate((normal, far))
        own_parts = None if numbers is None else numbers[rows]
        own_codes = new_places[np.concatenate((codes, far_codes))]
        kept = kept.recoded(known_places).joined(X[rows], own_codes, own_parts)
    roi = joined_masks(fitted.roi, masks, (len(fitted.classes), len(labels)), order)
    appearances = sides = None
    if fitted.least_sides is not None:
        sides = np.zeros((len(classes), 2), dtype=np.int64)
        sides[known_places] = fitted.least_sides
        sides = least_sides(observed.sizes[normal], new_places[codes], len(classes), sides)
    if fitted.takes_images and same_regions(fitted.roi, roi):  # else they are not comparable
        known_looks = fitted.appearances
        known_looks = None if known_looks is None else known_looks.recoded(known_places)
        looks = observed.appearance[normal]
        appearances = appearances_of(looks, new_places[codes], known_looks)
    extended = replace(
        fitted,
        model=model,
        calibration=calibration,
        classes=classes,
        roi=roi,
        kept=kept,
        appearances=appearances,
        least_sides=sides,
    )
    offset = threshold_after(detector, calibration)
    return {"model_": extended, "classes_": classes, "offset_": offset}


def _on_cpu(model):
    """Return a frozen model itself, or a copy if it is on another device."""
    if model.score_scale.device.type == "cpu":
        return model
    model = copy.deepcopy(model).cpu()
    model.freeze()
    return model


class _Extension:
    """Fits new classes beside those of a scoring model, which does not change.

    Parameters
    ----------
    known : ScoringModel
        Frozen, on the CPU.
    order : ndarray of shape (n_classes,)
        Where each class of the result stands in the known classes, then the new.
    new_places : ndarray of shape (n_new,)
        Codes of the new classes in the result.
    parameters : dict
        Of the estimator.
    device : torch.device
    """

    def __init__(self, known, order, new_places, parameters, device):
        self.known, self.order, self.new_places = known, order, new_places
        self.parameters, self.device = parameters, device
        self.seed = int(check_random_state(parameters["random_state"]).randint(2**31 - 1))

    def fit(self, samples, spared, synthetic=None):
        """Return the model, and the evidence of normals judged by models that did not see them.

        The codes of `samples` count the new classes from 0. `spared` is as from `folds.spare`, bool
        (n_groups, n_rows). Without a ``validation_fraction``, the model judges what it saw. The
        evidence of `synthetic`, if not None, comes third.
        """
        seen = samples if len(spared) != 1 else samples.chosen(np.flatnonzero(~spared[0]))
        model, evidence, of_synthetic = self._extended(seen), [], []
        if len(spared) or self._judges_all:
            for group, (judge, rows) in enumerate(judges(self._extended, model, samples, spared)):
                evidence += self._evidence(judge, samples.chosen(rows))
                of_synthetic += self._evidence_of_group(judge, synthetic, group)
        return model, evidence, of_synthetic

    def fit_maps(self, samples, spared, synthetic=None):
        """As `fit`, for classes of maps with a background of their own."""
        model = self._extended(samples.first_of_each_class(_FIRST_IMAGES))
        seen = samples if len(spared) != 1 else samples.chosen(np.flatnonzero(~spared[0]))
        modes = [
            {int(self.new_places[code]): rows for code, rows in of_level.items()}
            for of_level in modes_of_new_classes(seen, self.parameters, self.seed, self.device)
        ]
        levels = new_map_classes(
            self.known, model, self._recoded(samples), _groups(spared), self.parameters, modes
        )
        evidence, of_synthetic = [], []
        for group, chosen in enumerate(spared):
            _write(levels, group)
            judged = samples.judged(np.flatnonzero(chosen))
            evidence += self._evidence(model, samples.chosen(judged))
            of_synthetic += self._evidence_of_group(model, synthetic, group)
        if len(spared) != 1:  # else the model is to be without the group
            _write(levels)
        if self._judges_all:
            evidence = self._evidence(model, samples.chosen(samples.judged(samples.rows)))
        return model, evidence, of_synthetic

    @property
    def _judges_all(self):
        return self.parameters["validation_fraction"] == 0

    def _extended(self, samples):
        n_components, order = centers_to_find(self.parameters), torch.from_numpy(self.order)
        bank_size = self.parameters["bank_size"]
        model = extended_model(self.known, samples, order, n_components, self.seed, bank_size)
        model.to(self.device)
        model.freeze()
        return model

    def _evidence(self, model, samples):
        return evidence_of(model, self._recoded(samples), self.device)

    def _evidence_of_group(self, model, synthetic, group):
        return [] if synthetic is None else self._evidence(model, synthetic.of_group(group))

    def _recoded(self, samples):
        """Return samples with their codes in the result."""
        codes = self.new_places[samples.codes]
        return replace(samples, codes=codes, n_classes=len(self.order))


def joined_masks(known, new, n_classes, order):
    """Return the regions of interest of known and new classes, in their common order, or None.

    A class whose pictures had regions of their own has none.
    """
    parts, masks, names = [], (), ()
    for part, n in zip((known, new), n_classes, strict=True):
        if isinstance(part, ProductMasks):
            parts += [which if which < 0 else which + len(masks) for which in part.of_class]
            masks, names = masks + part.masks, names + part.names
        else:
            parts += [-1] * n
    if not masks:
        return None
    if known is not None and isinstance(new, ProductMasks) and new.masks is known.masks:
        return known._replace(of_class=known.of_class[:1] * len(order))
    return ProductMasks(masks, tuple(parts[place] for place in order.tolist()), names)


def _groups(spared):
    """Return the group of each sample, the number of groups for one in none."""
    if not len(spared):
        return np.zeros(spared.shape[1], dtype=np.int64)
    return np.where(spared.any(axis=0), spared.argmax(axis=0), len(spared))


def _write(levels, without=None):
    for level in levels:
        level.write(without)


def extended_model(known, samples, order, n_components="auto", seed=0, bank_size=0):
    """Fit new classes and join them to a scoring model, which is not changed, nor shared.

    The codes of `samples` count the new classes from 0. `order` tells where each class of the
    result stands in the known classes, then the new. `bank_size` vectors of a new class of a table
    are kept at most, where those of the known ones are.
    """
    levels = []
    for index, level in enumerate(known.levels):
        mixture, densities = fit_new_classes(level, samples.level(index), n_components, seed)
        nearest = level.nearest
        if level.keeps_rows:
            nearest = keep_new_classes(level, samples.level(index), order, bank_size, seed)
        elif nearest is not None:
            axes, kind = nearest.axes[0], nearest.vectors.dtype
            none_yet = NearestNormals.along(axes, len(mixture.means), kind)
            nearest = nearest.joined(none_yet, order)
        levels.append(
            LevelModel(
                copy.deepcopy(level.start),
                copy.deepcopy(level.flow),
                level.mixture.joined(mixture, order),
                level.map_shape,
                level.densities.joined(densities, order),
                nearest,
            )
        )
    return known.extended(levels, order)


def new_labels(y, classes, n_samples):
    """Return codes and sorted labels of the new classes, from one label a sample or one for all.

    A known anomaly gets the code -1. Raises as `check_y`, and ValueError for a label that is
    missing, known already, or of another type than the classes.
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
            f"y names classes that the detector knows: {known.tolist()[:10]}. More normals of "
            "these are for update; add_class takes new classes alone."
        )
    return codes, labels
