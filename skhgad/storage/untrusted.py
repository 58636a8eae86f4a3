"""Check what a model file from a stranger claims, before it costs memory."""

import math
from typing import NamedTuple

import numpy as np
import torch

from ..features.backbones import create_backbone
from ..features.outline import outline
from ..images.appearance import STATISTICS
from ..images.roi import ProductMasks
from ..model.level import prior_components
from ..parameters import image_size
from ..scoring.calibration import Calibration
from ..scoring.kept_vectors import KeptVectors
from ..scoring.known_anomalies import KnownAnomalies
from ..scoring.scoring_model import check_levels_of_images
from ..validation import check_known_label, check_y

LARGEST_TABLES = 1 << 30  # bytes; index tables and masks that a backbone makes for its image size
_MOST_PASSES = 10**9
_LARGEST_NUMBER = 1e308  # of thresholds, scores and losses


def check_names(parameters, expected):
    """Raise ValueError if the description lacks a parameter, which would take its default."""
    missing = sorted(set(expected) - set(parameters))
    if missing:
        raise ValueError(f"its description lacks the parameters {', '.join(missing)}.")


def read_offset(offset):
    """Return `offset_`, which must be a finite number."""
    if not _is_number(offset):
        raise ValueError(f"offset must be a finite number, is {offset!r:.80}.")
    return float(offset)


def read_classes(classes):
    """Return `classes_` from its JSON list, which must be as `check_y` gives it."""
    _, found = check_y(classes, len(classes))
    if found.tolist() != classes:
        raise ValueError(f"classes {classes!r:.80} are not sorted, or some are twice.")
    return found


def read_images(fitted):
    """Return whether the model takes images; refuse counts and names that do not fit that."""
    images, n_features = fitted["images"], fitted["n_features_in"]
    names = fitted["feature_names_in"]
    if type(images) is not bool or images is not (n_features is None):
        raise ValueError(f"images is {images!r:.80} and n_features_in is {n_features!r:.80}.")
    if not images and not (type(n_features) is int and n_features > 0):
        raise ValueError(f"n_features_in is {n_features!r:.80}.")
    if names is not None:
        is_text = isinstance(names, list) and all(isinstance(name, str) for name in names)
        if images or not is_text or len(names) != n_features:
            raise ValueError(f"feature_names_in {names!r:.80} are not {n_features} names.")
    return images


def read_training(fitted):
    """Return `n_iter_` and `history_` from their JSON values; null stands for nan."""
    n_iter, history = fitted["n_iter"], fitted["history"]
    if type(n_iter) is not int or not 0 <= n_iter <= _MOST_PASSES:
        raise ValueError(f"n_iter is {n_iter!r:.80}.")
    if not isinstance(history, list) or not all(_is_record(record, history) for record in history):
        raise ValueError(f"history {history!r:.80} is no list of passes.")
    return n_iter, [
        {name: math.nan if value is None else float(value) for name, value in record.items()}
        for record in history
    ]


def _is_record(record, history):
    return (
        isinstance(record, dict)
        and record.keys() == history[0].keys()
        and all(value is None or _is_number(value) for value in record.values())
    )


def _is_number(value):
    return type(value) in (int, float) and abs(value) < _LARGEST_NUMBER


def check_device_of_file(device):
    """Refuse a device that `save` does not write: which one it is depends on this machine."""
    if device not in ("auto", "cpu"):
        raise ValueError(f"device is {device!r:.80}, expected 'auto' or 'cpu'.")


def read_class_offsets(pairs, classes):
    """Return `class_offsets_` from its JSON list of pairs (label, offset)."""
    found = {}
    for label, offset in pairs:
        if label in found or type(offset) is not float or not _is_number(offset):
            raise ValueError(f"class_offsets {pairs!r:.80} are no thresholds.")
        found[check_known_label(label, classes, "class_offsets")] = offset
    return found


def read_known_anomalies(verdicts, classes):
    """Return `known_anomalies_` from its JSON list, or None.

    There may be fewer than classes, because `add_class` adds classes later.
    """
    if verdicts is None:
        return None
    found = []
    for label, n_anomalies, gain, error, is_kept in verdicts:
        label = check_known_label(label, classes, "known_anomalies")
        numbers = [math.nan if value is None else value for value in (gain, error)]
        if type(n_anomalies) is not int or n_anomalies < 0 or type(is_kept) is not bool:
            raise ValueError(f"known_anomalies {verdicts!r:.80} are no verdicts.")
        if any(type(value) is not float or math.isinf(value) for value in numbers):
            raise ValueError(f"known_anomalies {verdicts!r:.80} are no verdicts.")
        found.append(KnownAnomalies(label, n_anomalies, *numbers, is_kept))
    return found


def has_defect_terms(tensors, levels, n_classes):
    """Whether the stored model corrects by known defects; ValueError if terms do not fit levels."""
    stored = {name: t for name, t in tensors.items() if name.startswith("defect_terms.")}
    if not stored:
        return False
    for index, level in enumerate(levels):
        sizes = {
            "directions": tuple(level.mixture.means.shape),
            "offsets": (n_classes,),
        }
        for part, size in sizes.items():
            name = f"defect_terms.{index}.{part}"
            if name not in stored or tuple(stored[name].shape) != size:
                raise ValueError(f"{name} of shape {size} is missing.")
            if not torch.isfinite(stored[name]).all():
                raise ValueError(f"{name} is not finite.")
    return True


def read_levels(fitted, parameters, tensors, n_classes):
    """Return (n_features, height, width) of each level, as the stored tensors must have."""
    shapes = [_read_level(shape) for shape in fitted["levels"]]
    if not fitted["images"] and shapes != [(fitted["n_features_in"], 1, 1)]:
        raise ValueError(f"levels {shapes!r:.80} are not those of feature vectors.")
    if fitted["images"]:
        check_levels_of_images(parameters, shapes)
    for index, shape in enumerate(shapes):
        sizes = level_sizes(tensors, index)
        _check_centers(parameters, tensors, index, sizes)
        _check_nearest(tensors, f"levels.{index}.nearest.", sizes.nearest)
        expected = _tensor_shapes(parameters, shape, n_classes, sizes)
        expected = {f"levels.{index}.{name}": size for name, size in expected.items()}
        expected[f"likelihood_profile_{index}"] = (math.prod(shape[1:]), n_classes)
        for name, size in expected.items():
            found = tuple(tensors[name].shape)
            if found != size:
                raise ValueError(f"{name} has shape {found}, declared is {size}.")
    return shapes


class LevelSizes(NamedTuple):
    """Sizes of a level that fit decided: read from the stored tensors."""

    n_axes: int
    has_rest: bool  # whether the last axis is the length of what the others leave out
    n_blocks: int
    n_centers: int
    n_whiteners: int
    n_own_backgrounds: int
    # Axes of a set, vectors of all classes that are kept, sets of axes, and type of the numbers.
    nearest: tuple[int, int, int, torch.dtype] | None


def level_sizes(tensors, index):
    """Return the LevelSizes of a level."""
    prefix = f"levels.{index}."
    name = prefix + "densities.whitened_centers"
    n_centers = len(tensors[name]) if name in tensors else 0
    n_whiteners = len(tensors[prefix + "densities.whiteners"]) if n_centers else 0
    nearest = tensors.get(prefix + "nearest.vectors")
    n_sets = len(tensors.get(prefix + "nearest.axes", ()))
    return LevelSizes(
        tensors[prefix + "mixture.means"].shape[1],
        prefix + "start.rest_scale" in tensors,
        len(tensors[prefix + "flow.blocks.hidden_weight"]),
        n_centers,
        n_whiteners,
        len(tensors.get(prefix + "densities.own_background_log_dets", ())),
        None if nearest is None else (nearest.shape[1], nearest.shape[0], n_sets, nearest.dtype),
    )


def _check_centers(parameters, tensors, index, sizes):
    """Refuse counts and names that do not fit the stored centers and whiteners."""
    if sizes.n_blocks not in (0, parameters["n_blocks"]):
        raise ValueError(f"level {index} has {sizes.n_blocks} coupling blocks.")
    if not parameters["class_covariance"]:
        return
    prefix = f"levels.{index}.densities."
    counts, names = (tensors[prefix + name] for name in ("center_counts", "center_whiteners"))
    if counts.dtype != torch.int64 or names.dtype != torch.int64:
        raise ValueError(f"{prefix}center_counts or center_whiteners are not whole numbers.")
    if len(counts) and int(counts.min()) < 1 or int(counts.sum()) != sizes.n_centers:
        raise ValueError(f"{prefix}center_counts do not add up to the centers.")
    if len(names) and not 0 <= int(names.min()) <= int(names.max()) < sizes.n_whiteners:
        raise ValueError(f"{prefix}center_whiteners names whiteners that there are not.")
    for name, high in (("n_vectors", 1e15), ("shrinkages", 1.0), ("strength", 1e3)):
        values = tensors[prefix + name].reshape(-1)
        if len(values) and not (0 <= float(values.min()) <= float(values.max()) <= high):
            raise ValueError(f"{prefix}{name} must be finite, from 0 to {high:g}.")
        if not torch.isfinite(values).all():
            raise ValueError(f"{prefix}{name} is not finite.")
    own = tensors.get(prefix + "own_backgrounds", torch.zeros(0, dtype=torch.int64))
    if own.dtype != torch.int64:
        raise ValueError(f"{prefix}own_backgrounds are not whole numbers.")
    if len(own) and not 0 <= int(own.min()) <= int(own.max()) <= sizes.n_own_backgrounds:
        raise ValueError(f"{prefix}own_backgrounds names backgrounds that there are not.")


def _check_nearest(tensors, prefix, nearest):
    """Refuse kept vectors, counts and weights that cannot be those of a fit."""
    if nearest is None:
        return
    names = ("axes", "axes_of", "vectors", "weights", "scales", "origins", "counts")
    parts = {name: tensors.get(prefix + name) for name in names}
    if any(part is None for part in parts.values()):
        raise ValueError(f"a part of {prefix[:-1]} is missing.")
    if parts["vectors"].dtype not in (torch.int8, torch.int16):
        raise ValueError(f"{prefix}vectors is of type {parts['vectors'].dtype}.")
    for name in ("axes", "weights", "scales", "origins"):
        if not torch.isfinite(parts[name]).all():
            raise ValueError(f"{prefix}{name} is not finite.")
    for name in ("weights", "scales"):
        if (parts[name] < 0).any():
            raise ValueError(f"{prefix}{name} has a negative value.")
    counts, axes_of = parts["counts"], parts["axes_of"]
    if counts.dtype != torch.int64 or axes_of.dtype != torch.int64:
        raise ValueError(f"{prefix}counts or axes_of are not whole numbers.")
    if (axes_of < 0).any() or (axes_of >= nearest[2]).any():
        raise ValueError(f"{prefix}axes_of names axes that there are not.")
    if (counts < 0).any() or sum(counts.tolist()) != nearest[1]:
        raise ValueError(f"{prefix}counts names vectors that there are not.")


def check_extractor(parameters, tensors):
    """Refuse a named backbone that takes more memory than what is stored."""
    if isinstance(parameters["backbone"], str):
        _check_backbone(parameters, tensors)


def read_calibration(tensors, n_classes):
    """Return what fit found in the held-out normal samples."""
    found = Calibration(*(tensors[name].numpy() for name in Calibration._fields))
    n_samples = len(found.scores)
    for name, values in found._asdict().items():
        is_code = name in ("codes", "inferred")
        n_terms = values.shape[1:] if name == "peaks" and values.ndim == 2 else ()
        if not n_samples or values.shape != (n_samples, *n_terms):
            raise ValueError(f"calibration.{name} has shape {values.shape}.")
        if values.dtype != (np.int64 if is_code else np.float64):
            raise ValueError(f"calibration.{name} is of type {values.dtype}.")
        if is_code and not 0 <= values.min() <= values.max() < n_classes:
            raise ValueError(f"calibration.{name} names classes that there are not.")
        if not np.isfinite(values).all():
            raise ValueError(f"calibration.{name} is not finite.")
    return found


def read_roi(tensors, of_class, n_classes, *, is_images):
    """Return the ProductMasks of a model, or None."""
    if of_class is None and not tensors:
        return None
    masks = [tensors.get(str(index)) for index in range(len(tensors))]
    is_sound = is_images and isinstance(of_class, list) and len(of_class) == n_classes
    if not is_sound or any(
        type(which) is not int or not -1 <= which < len(masks) for which in of_class
    ):
        raise ValueError(f"roi {of_class!r:.80} does not name a mask for each class.")
    for index, mask in enumerate(masks):
        if mask is None or mask.ndim != 2 or mask.dtype != torch.uint8 or not mask.any():
            raise ValueError(f"roi.{index} is no mask.")
    names = tuple(f"roi, mask {index} of the saved model" for index in range(len(masks)))
    return ProductMasks(tuple(mask.numpy() != 0 for mask in masks), tuple(of_class), names)


def read_appearances(tensors, extractor, n_classes):
    """Return how the normal pictures looked; None of models of older versions and of vectors."""
    if not tensors:
        return None
    if extractor is None:
        raise ValueError("a model of feature vectors has appearances of pictures.")
    return read_kept(tensors, len(STATISTICS), n_classes, "appearances")


def read_least_sides(tensors, extractor, n_classes):
    """Return the least sides of the normal pictures; None of older versions and of vectors."""
    if not tensors:
        return None
    found = tensors["least_sides"]
    if extractor is None or found.shape != (n_classes, 2) or found.dtype != torch.int64:
        raise ValueError(f"sizes.least_sides are {found.dtype} of shape {tuple(found.shape)}.")
    if found.min() < 0:
        raise ValueError("sizes.least_sides are negative.")
    return found.numpy()


def read_kept(tensors, n_features, n_classes, name="kept"):
    """Return the normal feature vectors that the model keeps."""
    parts = tensors["parts"].numpy() if "parts" in tensors else None
    found = KeptVectors(tensors["x"].numpy(), tensors["codes"].numpy(), parts)
    n_kept = len(found.codes)
    if parts is not None and (parts.shape != (n_kept,) or parts.dtype != np.int64):
        raise ValueError(f"{name}.parts are {parts.dtype} of shape {parts.shape}.")
    if parts is not None and n_kept and not 0 <= parts.min() <= parts.max() < 2**62:
        raise ValueError(f"{name}.parts are no numbers of parts.")
    if found.x.shape != (n_kept, n_features) or found.codes.shape != (n_kept,):
        raise ValueError(f"{name}.x has shape {found.x.shape}, {name}.codes {found.codes.shape}.")
    if found.x.dtype != np.float64 or found.codes.dtype != np.int64:
        raise ValueError(f"{name}.x is of type {found.x.dtype}, {name}.codes {found.codes.dtype}.")
    if n_kept and not 0 <= found.codes.min() <= found.codes.max() < n_classes:
        raise ValueError(f"{name}.codes names classes that there are not.")
    if not np.isfinite(found.x).all():
        raise ValueError(f"{name}.x is not finite.")
    return found


def _read_level(shape):
    if len(shape) != 3 or not all(type(side) is int and side > 0 for side in shape):
        raise ValueError(f"a level of shape {shape!r:.80}.")
    return tuple(shape)


def _tensor_shapes(parameters, shape, n_classes, sizes):
    """Return the shapes of the tensors that decide how much memory a level takes."""
    n_features, height, width = shape
    n_axes = sizes.n_axes
    if not 0 < n_axes <= n_features:
        raise ValueError(f"{n_axes} axes of {n_features} features.")
    n_conditions = parameters["position_channels"] if height * width > 1 else 0
    n_passive = n_axes - n_axes // 2
    n_hidden = max(1, round(parameters["hidden_ratio"] * (n_passive + n_conditions)))
    shapes = {
        "flow.blocks.hidden_weight": (sizes.n_blocks, n_hidden, n_passive),
        "start.matrix": (n_features, n_axes - sizes.has_rest),
        "mixture.means": (n_classes, n_axes),
        "mixture.center_logits": (n_classes, prior_components(parameters)),
        "mixture.offsets": (n_classes, prior_components(parameters) - 1, n_axes),
    }
    if parameters["class_covariance"]:
        for name in ("origins", "locations", "discriminants"):
            shapes[f"densities.{name}"] = (n_classes, n_axes)
        shapes["densities.whiteners"] = (sizes.n_whiteners, n_axes, n_axes)
        shapes["densities.whitened_centers"] = (sizes.n_centers, n_axes)
        shapes["densities.shared_centers"] = (sizes.n_centers, n_axes)
        shapes["densities.shared_precision"] = (n_axes, n_axes)
    if sizes.nearest is not None:
        if height * width == 1 and not sizes.nearest[1]:
            raise ValueError("rows of a table are kept, but there are none.")
        length = n_features if height * width == 1 else n_axes
        if sizes.nearest[0] > length:  # else classes times axes may be more than what is stored
            raise ValueError(f"kept vectors along {sizes.nearest[0]} of {length} axes.")
        shapes["nearest.axes"] = (sizes.nearest[2], length, sizes.nearest[0])
        shapes["nearest.origins"] = (n_classes, sizes.nearest[0])
        for name in ("axes_of", "counts", "scales", "weights"):
            shapes[f"nearest.{name}"] = (n_classes,)
    if sizes.n_own_backgrounds:
        shapes["densities.own_background_means"] = (sizes.n_own_backgrounds, n_axes)
        shapes["densities.own_background_whiteners"] = (sizes.n_own_backgrounds, n_axes, n_axes)
    if n_conditions:
        shapes["flow.column_codes"] = (width, n_conditions // 2)
        shapes["flow.row_codes"] = (height, n_conditions // 2)
    return shapes


def _check_backbone(parameters, tensors):
    """Refuse a backbone whose weights are not the stored ones; takes no memory for them."""
    name, size = parameters["backbone"], image_size(parameters["image_size"])
    try:
        with outline():
            backbone = create_backbone(name, None, parameters["out_indices"], size)
    except ValueError as error:
        if "meta" in str(error.__cause__):
            # nest and efficientformerv2 of older timm compute with values while they are built.
            # Their weights, 70 million at most, are compared when loaded.
            return
        raise
    expected = {f"backbone.{key}": tuple(t.shape) for key, t in backbone.state_dict().items()}
    found = {key: tuple(t.shape) for key, t in tensors.items() if key.startswith("backbone.")}
    different = sorted(set(expected.items()) ^ set(found.items()))
    if different:
        key = different[0][0]
        raise ValueError(
            f"backbone={name!r} does not fit the stored weights: extractor.{key} of shape "
            f"{found.get(key, 'none')} is stored, {expected.get(key, 'none')} is needed."
        )
    tables = (b for key, b in backbone.named_buffers() if f"backbone.{key}" not in expected)
    if sum(table.nbytes for table in tables) > LARGEST_TABLES:
        raise ValueError(f"image_size={parameters['image_size']} is too large for {name!r}.")
