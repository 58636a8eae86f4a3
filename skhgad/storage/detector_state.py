"""A fitted detector as tensors and JSON values, and back."""

import math

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from ..features.backbones import create_backbone
from ..features.extractor import build_extractor
from ..model.level import empty_level, room_for_densities
from ..parameters import check_parameters, image_size
from ..scoring.calibration import Calibration
from ..scoring.fitted import FittedModel
from ..scoring.scoring_model import build_scoring_model
from ..validation import check_y

_LARGEST_IMAGE = 1 << 26  # pixels; a backbone may ask for memory by it before its weights are read
_LARGEST_TABLES = 1 << 30  # bytes; index tables and masks that a backbone makes for its image size


def pack(detector):
    """Take a fitted detector apart.

    Parameters
    ----------
    detector : HGADDetector

    Returns
    -------
    tensors : dict of str to Tensor
    description : dict
        JSON-serialisable: parameters and fitted attributes.
    """
    fitted = detector.model_
    tensors = {f"model.{name}": t for name, t in fitted.model.state_dict().items()}
    if fitted.takes_images:
        state = fitted.extractor.state_dict()
        tensors.update({f"extractor.{name}": t for name, t in state.items()})
    for name, values in fitted.calibration._asdict().items():
        tensors[f"calibration.{name}"] = torch.from_numpy(values)
    attributes = {
        "classes": detector.classes_.tolist(),
        "offset": detector.offset_,
        "n_iter": detector.n_iter_,
        "history": [
            {name: value if value == value else None for name, value in record.items()}
            for record in detector.history_
        ],
        "levels": [[level.n_features, *level.map_shape] for level in fitted.model.levels],
        "images": fitted.takes_images,
        "n_features_in": getattr(detector, "n_features_in_", None),
        "feature_names_in": getattr(detector, "feature_names_in_", np.empty(0)).tolist() or None,
    }
    return tensors, {"parameters": _saved_parameters(detector), "fitted": attributes}


def unpack(cls, tensors, description, backbone):
    """Rebuild a fitted detector.

    Parameters
    ----------
    cls : type
        The estimator class.
    tensors, description : dict
        From `pack`.
    backbone : torch.nn.Module or None
        For detectors whose backbone was a module.

    Returns
    -------
    HGADDetector

    Raises
    ------
    ValueError, KeyError, TypeError, RuntimeError
        If the parts do not fit each other.
    """
    parameters, fitted = description["parameters"], description["fitted"]
    parameters = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in parameters.items()
    }
    parameters["memory"] = None  # never the file's choice: joblib unpickles what it finds there
    if parameters["backbone"] is None:
        if backbone is None:
            raise ValueError(
                "the detector was fitted with a module as its backbone: pass "
                "load(folder, backbone=module)."
            )
        parameters["backbone"] = backbone
    detector = cls(**parameters)
    check_parameters(detector.get_params(deep=False))
    parts = {"model": {}, "extractor": {}, "calibration": {}}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = tensor
    classes = _read_classes(fitted["classes"])
    level_shapes = [_read_level(shape) for shape in fitted["levels"]]
    if fitted["images"] is not True and level_shapes != [(fitted["n_features_in"], 1, 1)]:
        raise ValueError(f"levels {level_shapes!r:.80} are not those of feature vectors.")
    for index, shape in enumerate(level_shapes):
        _check_sizes(parameters, parts["model"], f"levels.{index}", shape, len(classes))
        profile = tuple(parts["model"][f"likelihood_profile_{index}"].shape)
        if profile != (math.prod(shape[1:]), len(classes)):
            raise ValueError(f"likelihood_profile_{index} has shape {profile}.")
    extractor = None
    if fitted["images"]:
        pixels = math.prod(image_size(parameters["image_size"]))
        if pixels * max(parameters["image_scales"]) ** 2 > _LARGEST_IMAGE:
            raise ValueError(f"image_size={parameters['image_size']} is too large.")
        if isinstance(parameters["backbone"], str):
            _check_backbone(parameters, parts["extractor"])
        extractor = build_extractor(parameters, weights=None, levels=level_shapes)
        extractor.load_state_dict(parts["extractor"])
    levels = [
        empty_level(parameters, n_features, tuple(shape), len(classes))
        for n_features, *shape in level_shapes
    ]
    model = build_scoring_model(parameters, levels, extractor)
    if detector.class_covariance:
        for index, level in enumerate(levels):
            mean = f"levels.{index}.densities.background_mean"
            room_for_densities(level, has_background=mean in parts["model"])
    model.to(torch.float32 if fitted["images"] else torch.float64)
    model.load_state_dict(parts["model"])
    model.freeze()
    calibration = _read_calibration(parts["calibration"], len(classes))
    detector.model_ = FittedModel(extractor, model, calibration, classes)
    detector.classes_ = classes
    detector.offset_ = float(fitted["offset"])
    detector.n_iter_ = int(fitted["n_iter"])
    detector.history_ = [
        {name: float("nan") if value is None else value for name, value in record.items()}
        for record in fitted["history"]
    ]
    if fitted["n_features_in"] is not None:
        detector.n_features_in_ = int(fitted["n_features_in"])
    if fitted["feature_names_in"] is not None:
        detector.feature_names_in_ = np.array(fitted["feature_names_in"], dtype=object)
    return detector


def _read_classes(classes):
    """Return `classes_` from its JSON list, which must be as `check_y` gives it."""
    _, found = check_y(classes, len(classes))
    if found.tolist() != classes:
        raise ValueError(f"classes {classes!r:.80} are not sorted, or some are twice.")
    return found


def _read_level(shape):
    """Return (n_features, height, width)."""
    if len(shape) != 3 or not all(type(side) is int and side > 0 for side in shape):
        raise ValueError(f"a level of shape {shape!r:.80}.")
    return tuple(shape)


def _check_sizes(parameters, tensors, level, shape, n_classes):
    """Refuse sizes that are declared but not stored, before anything of that size is made."""
    n_features, height, width = shape
    n_conditions = parameters["position_channels"] if height * width > 1 else 0
    n_passive = n_features - n_features // 2
    n_hidden = max(1, round(parameters["hidden_ratio"] * (n_passive + n_conditions)))
    expected = {
        "flow.blocks.hidden_weight": (parameters["n_blocks"], n_hidden, n_passive),
        "start.matrix": (n_features, n_features),
        "mixture.offsets": (n_classes, parameters["n_components"] - 1, n_features),
    }
    if parameters["class_covariance"]:
        expected["densities.whiteners"] = (n_classes, n_features, n_features)
        expected["densities.shared_precision"] = (n_features, n_features)
    if n_conditions:
        expected["flow.column_codes"] = (width, n_conditions // 2)
        expected["flow.row_codes"] = (height, n_conditions // 2)
    for name, size in expected.items():
        found = tuple(tensors[f"{level}.{name}"].shape)
        if found != size:
            raise ValueError(f"{level}.{name} has shape {found}, declared is {size}.")


def _check_backbone(parameters, tensors):
    """Refuse a backbone whose weights are not the stored ones, before it takes any memory."""
    name, size = parameters["backbone"], image_size(parameters["image_size"])
    try:
        with torch.device("meta"), _SequencesOnCpu():
            backbone = create_backbone(name, None, parameters["out_indices"], size)
    except ValueError as error:
        if "meta" in str(error.__cause__):
            # It computes with values while it is built: nest and efficientformerv2 of older timm,
            # 70 million weights at most. What is loaded is compared all the same.
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
    if sum(table.nbytes for table in tables) > _LARGEST_TABLES:
        raise ValueError(f"image_size={parameters['image_size']} is too large for {name!r}.")


class _SequencesOnCpu(TorchFunctionMode):
    """Keep linspace off the meta device: timm reads drop-path rates from it."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.linspace:
            kwargs = {"device": "cpu", **(kwargs or {})}
        return func(*args, **(kwargs or {}))


def _read_calibration(tensors, n_classes):
    """Return what was found in the held-out normals."""
    found = Calibration(*(tensors[name].numpy() for name in Calibration._fields))
    n_samples = len(found.scores)
    for name, values in found._asdict().items():
        is_code = name in ("codes", "inferred")
        if not n_samples or values.shape != (n_samples,):
            raise ValueError(f"calibration.{name} has shape {values.shape}.")
        if values.dtype != (np.int64 if is_code else np.float64):
            raise ValueError(f"calibration.{name} is of type {values.dtype}.")
        if is_code and not 0 <= values.min() <= values.max() < n_classes:
            raise ValueError(f"calibration.{name} names classes that there are not.")
    return found


def _saved_parameters(detector):
    """Parameters as JSON values."""
    parameters = detector.get_params(deep=False)
    parameters["memory"] = None  # a place on this machine
    for name in ("backbone", "random_state"):
        if not isinstance(parameters[name], str | int | None):
            parameters[name] = None  # a module or a generator: state, not a setting
    if parameters["weights"] is not None:
        parameters["weights"] = str(parameters["weights"])
    # A GPU of this machine may be none of the next one's.
    parameters["device"] = "cpu" if str(parameters["device"]) == "cpu" else "auto"
    return {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in parameters.items()
    }
