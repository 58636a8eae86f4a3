"""A fitted detector as tensors and JSON values, and back."""

from numbers import Integral

import numpy as np
import torch

from ..features.extractor import build_extractor
from ..model.feature_powers import FeaturePowers
from ..model.level import empty_level, room_for_densities, room_for_nearest
from ..parameters import (
    check_parameters,
    parameters_now,
    parameters_of_fit,
    plain_parameters,
)
from ..scoring.defect_terms import DefectTerm
from ..scoring.fitted import FittedModel
from ..scoring.scoring_model import build_scoring_model
from .finite_scores import check_constants, check_dtypes, check_scores
from .short_tables import with_axes, without_axes
from .short_tensors import lengthened, narrowed, shortened, widened
from .untrusted import (
    check_device_of_file,
    check_extractor,
    check_names,
    has_defect_terms,
    level_sizes,
    read_appearances,
    read_calibration,
    read_class_offsets,
    read_classes,
    read_images,
    read_kept,
    read_known_anomalies,
    read_least_sides,
    read_levels,
    read_offset,
    read_roi,
    read_training,
)


def pack(detector):
    """Take a fitted detector apart: a dict of tensors, and a JSON-serialisable description."""
    fitted = detector.model_
    tensors = {f"model.{name}": t for name, t in fitted.model.state_dict().items()}
    tensors = shortened(narrowed(tensors))
    if fitted.takes_images:
        state = fitted.extractor.state_dict()
        tensors.update({f"extractor.{name}": t for name, t in state.items()})
    for name, values in fitted.calibration._asdict().items():
        tensors[f"calibration.{name}"] = torch.from_numpy(values)
    for index, mask in enumerate(() if fitted.roi is None else fitted.roi.masks):
        tensors[f"roi.{index}"] = torch.from_numpy(mask.astype(np.uint8))
    for part, found in (("kept", fitted.kept), ("appearances", fitted.appearances)):
        for name, values in () if found is None else found._asdict().items():
            if values is not None:
                tensors[f"{part}.{name}"] = torch.from_numpy(values)
    if fitted.least_sides is not None:
        tensors["sizes.least_sides"] = torch.from_numpy(fitted.least_sides)
    tensors = narrowed(without_axes(tensors))
    class_offsets = [
        [label, read_offset(float(offset))] for label, offset in detector.class_offsets_.items()
    ]
    read_class_offsets(class_offsets, detector.classes_)  # else it could not be loaded
    attributes = {
        "classes": detector.classes_.tolist(),
        "offset": read_offset(float(detector.offset_)),
        "class_offsets": class_offsets,
        "known_anomalies": _packed_known(getattr(detector, "known_anomalies_", None)),
        "n_iter": int(detector.n_iter_),
        "history": [
            {name: value if value == value else None for name, value in record.items()}
            for record in detector.history_
        ],
        "levels": [[level.n_features, *level.map_shape] for level in fitted.model.levels],
        "images": fitted.takes_images,
        # Which mask each class has, by code.
        "roi": None if fitted.roi is None else list(fitted.roi.of_class),
        "n_features_in": getattr(detector, "n_features_in_", None),
        "feature_names_in": getattr(detector, "feature_names_in_", np.empty(0)).tolist() or None,
    }
    return tensors, {
        "n_classes": len(fitted.classes),
        "n_calibration_samples": len(fitted.calibration.scores),
        "parameters": _saved_parameters(detector),
        "fitted": attributes,
    }


def unpack(cls, tensors, description, backbone):
    """Rebuild a fitted detector of the estimator class `cls` from what `pack` returned.

    `backbone` is for detectors whose backbone was a module. Raises ValueError, KeyError, TypeError
    or RuntimeError if the parts do not fit each other.
    """
    attributes = description["fitted"]
    takes_images = read_images(attributes)
    tensors = lengthened(tensors)
    parts = _by_part(tensors if takes_images else with_axes(widened(tensors)))
    parts["model"] = _with_novelty(_with_strengths(_with_level_weights(parts["model"])))
    detector = _new_detector(cls, description["parameters"], backbone)
    parameters = detector.get_params(deep=False)
    classes = read_classes(attributes["classes"])
    calibration = read_calibration(parts["calibration"], len(classes))
    counts = description["n_classes"], description["n_calibration_samples"]
    if counts != (len(classes), len(calibration.scores)):
        raise ValueError(f"n_classes and n_calibration_samples {counts} are not those stored.")
    level_shapes = read_levels(attributes, parameters, parts["model"], len(classes))
    check_constants(parts["model"])
    check_constants(parts["extractor"])
    extractor = None
    if takes_images:
        check_extractor(parameters, parts["extractor"])
        extractor = build_extractor(parameters, weights=None, levels=level_shapes)
        extractor.room_for_projections(parts["extractor"])
        check_dtypes(extractor, parts["extractor"])
        extractor.load_state_dict(parts["extractor"])
    model = _empty_model(parameters, level_shapes, len(classes), extractor, parts["model"])
    check_dtypes(model, parts["model"])
    model.load_state_dict(parts["model"])
    check_scores(model)
    roi = read_roi(
        parts["roi"], attributes.get("roi"), len(classes), is_images=attributes["images"]
    )
    kept = None
    if extractor is None:
        kept = read_kept(parts["kept"], level_shapes[0][0], len(classes))
    appearances = read_appearances(parts["appearances"], extractor, len(classes))
    detector.model_ = FittedModel(
        extractor, model, calibration, classes, parameters_of_fit(parameters), roi=roi, kept=kept,
        appearances=appearances,
        least_sides=read_least_sides(parts["sizes"], extractor, len(classes)),
    )  # fmt: skip
    detector.classes_ = classes
    _set_attributes(detector, attributes)
    return detector


def _with_level_weights(tensors):
    """Give models of older versions what their levels count: part of the known defects, or 1."""
    if "level_weights" in tensors:
        return tensors
    rest = {name: t for name, t in tensors.items() if not name.endswith(".level_weights")}
    weights = torch.ones_like(tensors["peak_scale"])
    for index in range(len(weights) - 1):
        weights[index] = tensors.get(f"defect_terms.{index}.level_weights", weights[index])
    return {**rest, "level_weights": weights}


def _with_novelty(tensors):
    """Give models of older versions, which keep no rows of a table, constants that add nothing."""
    zero = tensors["score_scale"].new_zeros(())
    no_copies = {
        name.removesuffix("counts") + "has_copies": torch.zeros((), dtype=torch.bool)
        for name in tensors
        if name.endswith("nearest.counts")
    }
    return {"novelty_location": zero, "novelty_weight": zero, **no_copies, **tensors}


def _with_strengths(tensors):
    """Give models of older versions the strength of the shrinkage of their levels, which is 1."""
    ones = {
        name.removesuffix("shrinkages") + "strength": values.new_ones(())
        for name, values in tensors.items()
        if name.endswith("densities.shrinkages")
    }
    return {**ones, **tensors}


def _by_part(tensors):
    names = ("model", "extractor", "calibration", "roi", "kept", "appearances", "sizes")
    parts = {name: {} for name in names}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = tensor
    return parts


def _new_detector(cls, parameters, backbone):
    parameters = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in parameters.items()
    }
    # Models of older versions know no such parameters.
    unknown = {
        "known_anomalies": "ignore", "callbacks": None, "bank_size": 0,
        "synthetic_anomalies": "none", "augmentation": None,
    }  # fmt: skip
    parameters = {**unknown, **parameters}
    check_names(parameters, cls._get_param_names())
    # Never the file's choice: `memory` is a place on this machine, `n_jobs` starts threads, and
    # callbacks are code.
    parameters |= {"memory": None, "n_jobs": None, "callbacks": None}
    if parameters["backbone"] is None:
        if backbone is None:
            raise ValueError(
                "the detector was fitted with a module as its backbone: pass "
                "load(folder, backbone=module)."
            )
        parameters["backbone"] = backbone
    check_device_of_file(parameters["device"])
    detector = cls(**parameters)
    check_parameters(detector.get_params(deep=False))
    return detector


def _empty_model(parameters, level_shapes, n_classes, extractor, stored):
    levels = []
    for index, (n_features, *shape) in enumerate(level_shapes):
        sizes = level_sizes(stored, index)
        level = empty_level(
            parameters, n_features, tuple(shape), n_classes,
            n_blocks=sizes.n_blocks, n_axes=sizes.n_axes, has_rest=sizes.has_rest, has_means=False,
        )  # fmt: skip
        if f"levels.{index}.start.powers.units" in stored:
            level.start.powers = FeaturePowers.identity(n_features)
        weights = stored.get(f"levels.{index}.start.row_weights")
        if weights is not None and extractor is None:
            level.start.register_buffer("row_weights", torch.zeros_like(weights))
        if parameters["class_covariance"]:
            room_for_densities(
                level,
                n_centers=sizes.n_centers,
                n_whiteners=sizes.n_whiteners,
                has_background=f"levels.{index}.densities.background_mean" in stored,
                n_own_backgrounds=sizes.n_own_backgrounds,
            )
        if sizes.nearest is not None:
            room_for_nearest(level, *sizes.nearest)
        levels.append(level)
    model = build_scoring_model(parameters, levels, extractor)
    if has_defect_terms(stored, levels, n_classes):
        sizes = [level.mixture.means.shape for level in levels]
        model.defect_terms.extend(
            DefectTerm(torch.zeros(size), torch.zeros(n_classes)) for size in sizes
        )
    return model.to(torch.float64 if extractor is None else torch.float32)


def _set_attributes(detector, attributes):
    detector.offset_ = read_offset(attributes["offset"])
    # Models of older versions have none.
    detector.class_offsets_ = read_class_offsets(
        attributes.get("class_offsets", []), detector.classes_
    )
    detector.n_iter_, detector.history_ = read_training(attributes)
    detector.known_anomalies_ = read_known_anomalies(
        attributes.get("known_anomalies"), detector.classes_
    )
    if attributes["n_features_in"] is not None:
        detector.n_features_in_ = attributes["n_features_in"]
    if attributes["feature_names_in"] is not None:
        detector.feature_names_in_ = np.array(attributes["feature_names_in"], dtype=object)


def _packed_known(found):
    """Turn `known_anomalies_` into lists; JSON has no nan."""
    if found is None:
        return None
    return [[None if value != value else value for value in verdict] for verdict in found]


def _saved_parameters(detector):
    parameters = parameters_now(detector)
    parameters |= {"memory": None, "n_jobs": None}  # of this machine
    if not isinstance(parameters["random_state"], Integral | None):
        parameters["random_state"] = None  # a generator: state, not a setting
    if parameters["weights"] is not None:
        parameters["weights"] = str(parameters["weights"])
    # Another machine may not have this GPU.
    parameters["device"] = "cpu" if str(parameters["device"]) == "cpu" else "auto"
    saved = plain_parameters(parameters)
    # Some may be set after the fit, to what `load` would refuse. A module is None here.
    check_parameters({**saved, "backbone": saved["backbone"] or ""})
    return saved
