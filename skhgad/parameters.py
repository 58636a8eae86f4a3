"""The parameters of the estimator: groups, allowed values, and the published configuration."""

import os
from collections.abc import Mapping
from numbers import Integral, Real

import numpy as np
from sklearn.utils import check_random_state, check_scalar
from torch import nn

from .budget import LONGEST_SIDE, MOST_CLASSES, MOST_PIXELS, check_pixels
from .devices import check_device
from .images.augmentation import check_augmentation
from .images.source import check_value_range
from .validation import check_rate

_SMALLEST_TILE = 8  # pixels a side; a smaller one has no overlap worth its name

# In the order of the signature of `HGADDetector`; each parameter is in one group.
PARAMETER_GROUPS = {
    "Images": (
        "backbone", "weights", "out_indices", "image_size", "image_scales", "resize", "tile_size",
        "value_range", "augmentation",
    ),
    "Features": ("pool_size", "fuse_stages", "feature_power", "max_features"),
    "Start and flow": (
        "start", "whitening_shrinkage", "n_blocks", "hidden_ratio", "clamp", "position_channels",
    ),
    "Classes and mixture": (
        "n_classes", "n_components", "class_separation", "center_scale", "class_covariance",
        "background_weight", "bank_size",
    ),
    "Training": (
        "max_iter", "batch_size", "position_fraction", "learning_rate", "center_lr_factor",
        "betas", "weight_decay", "warmup_fraction", "final_lr_fraction", "first_stage_fraction",
    ),
    "Losses": (
        "loss", "lambda_inter", "lambda_mi", "lambda_entropy", "lambda_intra", "label_smoothing",
    ),
    "Scores and maps": (
        "criterion", "entropy_weight", "map_normalization", "blur_sigma", "class_calibration",
        "synthetic_anomalies", "known_anomalies",
    ),
    "Thresholds": ("validation_fraction", "contamination", "unknown_rate"),
    "Running": (
        "cache_budget", "device", "mixed_precision", "memory", "n_jobs", "random_state", "verbose",
        "callbacks",
    ),
}  # fmt: skip

# A fitted detector reads these as they are now, and all others as they were at its fit.
SETTABLE_AFTER_FIT = ("unknown_rate", "cache_budget", "device", "memory", "n_jobs", "verbose")

MOST_THREADS = 512
SCALES = (2 / 3, 1.0)  # with image_scales="auto", of a backbone that takes any size

STARTS = ("whitened", "published")
CRITERIA = ("likelihood_entropy", "likelihood", "entropy")
NORMALIZATIONS = ("standardized", "exponential")
RESIZES = ("stretch", "pad")
CALLBACK_METHODS = ("on_fit_start", "on_pass_end", "on_fit_end", "on_fit_error")

# Yao et al., ECCV 2024: `HGADDetector.paper`.
PUBLISHED = {
    "backbone": "tf_efficientnet_b6",
    "out_indices": (3,),
    "image_size": 1024,
    "image_scales": (1.0, 0.5, 0.25),
    "pool_size": 1,
    "fuse_stages": False,
    "feature_power": 1.0,
    "max_features": None,
    "start": "published",
    "n_blocks": 12,
    "hidden_ratio": 2.0,
    "clamp": 1.9,
    "position_channels": 256,
    "n_components": 10,
    "class_separation": 5.0,
    "center_scale": 1.0,
    "class_covariance": False,
    "background_weight": 0.0,
    "bank_size": 0,
    "max_iter": 200,
    "batch_size": 8,
    "position_fraction": 1.0,
    "learning_rate": 2e-4,
    "center_lr_factor": 3.0,
    "betas": (0.95, 0.99),
    "weight_decay": 1e-4,
    "warmup_fraction": 0.08,
    "final_lr_fraction": 1e-3,
    "first_stage_fraction": 0.08,
    "lambda_inter": 1.0,
    "lambda_mi": 100.0,
    "lambda_entropy": 1.0,
    "lambda_intra": 1.0,
    "label_smoothing": 0.02,
    "criterion": "likelihood_entropy",
    "map_normalization": "exponential",
    "class_calibration": False,
    "synthetic_anomalies": "none",
    "blur_sigma": 4.0,
}

_TRANSFORMER = {
    "out_indices": (3, 6, 9),  # blocks of 12, numbered from 0
    "image_scales": (1.0,),
    "fuse_stages": False,  # all blocks have the same grid
    "pool_size": 1,
    "max_features": 768,  # nothing is projected
}
# Self-supervised vision transformers of timm, see `HGADDetector.with_backbone`. Images have 32 x 32
# patches. The normalisation is that of timm's configuration of the model.
BACKBONE_RECIPES = {
    name: {"backbone": model, "image_size": size, **_TRANSFORMER}
    for name, model, size in (
        ("dinov2-small", "vit_small_patch14_reg4_dinov2.lvd142m", 448),
        ("dinov2-base", "vit_base_patch14_reg4_dinov2.lvd142m", 448),
        ("dinov3-small", "vit_small_patch16_dinov3.lvd1689m", 512),
        ("dinov3-base", "vit_base_patch16_dinov3.lvd1689m", 512),
    )
}

# One scale of the default's two: `HGADDetector.fast`.
FAST = {"image_size": 256, "image_scales": (1.0,)}

# Every number has a smallest and a largest value: a model file of a stranger may hold any.
# name: (type, smallest, largest, which of the bounds belong to the range)
_NUMBERS = {
    "pool_size": (Integral, 1, 255, "both"),
    "feature_power": (Real, 0, 4, "right"),
    "n_blocks": (Integral, 0, 128, "both"),
    "hidden_ratio": (Real, 0, 8, "right"),
    "clamp": (Real, 0, 10, "right"),
    "position_channels": (Integral, 0, 1024, "both"),
    "class_separation": (Real, 0, 1e3, "right"),
    "center_scale": (Real, 0, 1e3, "both"),
    "background_weight": (Real, 0, 1, "both"),
    "bank_size": (Integral, 0, 10**6, "both"),
    "position_fraction": (Real, 0, 1, "right"),
    "center_lr_factor": (Real, 0, 1e4, "both"),
    "weight_decay": (Real, 0, 1e2, "both"),
    "warmup_fraction": (Real, 0, 1, "left"),
    "final_lr_fraction": (Real, 0, 1, "both"),
    "first_stage_fraction": (Real, 0, 1, "both"),
    "lambda_inter": (Real, 0, 1e6, "both"),
    "lambda_mi": (Real, 0, 1e6, "both"),
    "lambda_entropy": (Real, 0, 1e6, "both"),
    "lambda_intra": (Real, 0, 1e6, "both"),
    "label_smoothing": (Real, 0, 1, "left"),
    "entropy_weight": (Real, 0, 1e3, "right"),
    "blur_sigma": (Real, 0, 64, "both"),
    "verbose": (Integral, 0, 10**6, "both"),
}
# As above, or a word that lets the data decide.
_NUMBERS_OR_WORD = {
    "n_classes": (("auto", "discover"), Integral, 1, MOST_CLASSES, "both"),
    "n_components": (("auto",), Integral, 1, 10**4, "both"),
    "max_iter": (("auto",), Integral, 0, 10**6, "both"),
    "batch_size": (("auto",), Integral, 1, 10**7, "both"),
    "learning_rate": (("auto",), Real, 0, 10, "right"),
    "whitening_shrinkage": (("auto", "ledoit_wolf"), Real, 0, 1, "both"),
    "contamination": (("auto",), Real, 0, 0.5, "right"),
    "validation_fraction": (("auto", "cross"), Real, 0, 1, "left"),
    "cache_budget": (("auto",), Integral, 0, 1 << 60, "both"),
}
_SWITCHES = ("class_covariance", "class_calibration", "fuse_stages")
# name: (type, smallest, largest, which bounds belong to the range, most entries)
_SEQUENCES = {
    "out_indices": (Integral, -64, 64, "both", 64),
    "image_scales": (Real, 0, 8, "right", 16),
}
_CHOICES = {
    "start": STARTS,
    "criterion": ("auto", *CRITERIA),
    "map_normalization": NORMALIZATIONS,
    "synthetic_anomalies": ("auto", "none"),
    "known_anomalies": ("auto", "ignore"),
    "resize": RESIZES,
}


def check_parameters(parameters):
    """Check every parameter that can be checked without the data.

    Parameters
    ----------
    parameters : dict
        As from ``get_params(deep=False)``.

    Raises
    ------
    TypeError, ValueError
        Naming the parameter, what it is and what it may be.
    """
    for name, limits in _NUMBERS.items():
        _check_number(name, parameters[name], *limits)
    for name, (words, *limits) in _NUMBERS_OR_WORD.items():
        _check_number_or_word(name, parameters[name], words, *limits)
    for name, choices in _CHOICES.items():
        if not isinstance(parameters[name], str) or parameters[name] not in choices:
            raise ValueError(f"{name} must be one of {choices}, got {parameters[name]!r}.")
    for name, limits in _SEQUENCES.items():
        _check_sequence(name, parameters[name], *limits)
    for name in _SWITCHES:
        if not isinstance(parameters[name], bool | np.bool_):
            raise TypeError(f"{name} must be True or False, got {parameters[name]!r}.")
    for name, check in _CHECKS.items():
        check(parameters[name])
    check_image_budget(parameters)
    _check_tiles(parameters)


def backbone_recipe(name):
    """Return a copy of the parameters that `BACKBONE_RECIPES` has of a name; ValueError without."""
    if not isinstance(name, str) or name not in BACKBONE_RECIPES:
        raise ValueError(
            f"there are no settings for the backbone {name!r}, only for "
            f"{', '.join(BACKBONE_RECIPES)}. HGADDetector(backbone=...) takes any model of timm."
        )
    return dict(BACKBONE_RECIPES[name])


def checked_names():
    """Return the names of the parameters that `check_parameters` knows."""
    tables = (_NUMBERS, _NUMBERS_OR_WORD, _CHOICES, _SWITCHES, _SEQUENCES, _CHECKS)
    return {name for table in tables for name in table}


def check_image_budget(parameters):
    """Raise ValueError if one image takes more pixels than `budget.MOST_PIXELS`."""
    scales = parameters["image_scales"]
    check_pixels(image_size(parameters["image_size"]), SCALES if scales == "auto" else scales)


def plain_parameters(parameters):
    """Return a dict of parameters without scalars and arrays of NumPy: numbers and tuples.

    torch refuses some of them, and JSON all.
    """
    plain = {name: _plain(value) for name, value in parameters.items()}
    return plain | {"betas": tuple(map(float, plain["betas"]))}


def _plain(value):
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    return tuple(map(_plain, value)) if isinstance(value, tuple | list) else value


def parameters_of_fit(parameters):
    """Return the parameters that a fitted model keeps, as dict.

    Parameters
    ----------
    parameters : dict
        All parameters, as given to fit.

    Returns
    -------
    dict
        Without those of `SETTABLE_AFTER_FIT`. A backbone that is a module becomes None, because
        the feature extractor has its own copy. A loss becomes its name. Callbacks become None.
    """
    kept = {name: v for name, v in parameters.items() if name not in SETTABLE_AFTER_FIT}
    if not isinstance(kept["backbone"], str):
        kept["backbone"] = None
    kept["loss"] = name_of(kept["loss"])
    kept["callbacks"] = None
    return kept


def asks_for_training(parameters):
    """Whether a fit trains the flow; else it is the closed form alone."""
    return parameters["max_iter"] not in ("auto", 0)


def name_of(function):
    """Return module and qualified name of a function, or of the class of another callable."""
    if function is None or isinstance(function, str):
        return function
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


def parameters_now(detector):
    """Return all parameters of a fitted detector, as dict: of its fit, or as they are set now.

    `SETTABLE_AFTER_FIT` are as they are set now. A backbone that is a module is None, a loss its
    name, and callbacks are None.
    """
    return {**detector.get_params(deep=False), **detector.model_.parameters}


def memory_folder(memory):
    """Turn None, a folder or a `joblib.Memory` into a folder, or None where nothing is kept.

    Of a Memory only its location is used. Raises TypeError for anything else.
    """
    if hasattr(memory, "cache") and hasattr(memory, "location"):
        memory = memory.location
    if memory is None or isinstance(memory, str | os.PathLike):
        return memory
    raise TypeError(
        f"memory must be None, a folder or a joblib.Memory, got {type(memory).__name__}."
    )


def _check_max_features(value):
    if value is not None:
        _check_number("max_features", value, Integral, 1, 1 << 16, "both")


def _check_mixed_precision(value):
    is_switch = isinstance(value, bool | np.bool_)
    if not is_switch and not (isinstance(value, str) and value == "auto"):
        raise ValueError(f"mixed_precision must be 'auto', True or False, got {value!r}.")


def _check_pool_size(value):
    if value % 2 == 0:
        raise ValueError(f"pool_size must be odd, got {value}.")


def _check_position_channels(value):
    if value % 4:
        raise ValueError(
            "position_channels must be a multiple of 4 (sine and cosine of row and column), got "
            f"{value}."
        )


def _check_unknown_rate(value):
    if value is not None:
        check_rate(value, "unknown_rate")


def _check_loss(value):
    if not (value is None or callable(value) or isinstance(value, str)):
        raise TypeError(
            "loss must be None or a function that takes a skhgad.TrainingStep and returns a 0-d "
            f"Tensor, got {value!r}."
        )


def callback_methods(callback):
    """Return the names of the methods of `CALLBACK_METHODS` that an object has, as list."""
    return [name for name in CALLBACK_METHODS if callable(getattr(callback, name, None))]


def _check_callbacks(value):
    several = value if isinstance(value, list | tuple) else [value]
    for index, callback in enumerate([] if value is None else several):
        name = f"callbacks[{index}]" if several is value else "callbacks"
        if isinstance(callback, type):
            raise TypeError(f"{name} is a class: write {callback.__name__}(...).")
        if not callable(callback) and not callback_methods(callback):
            raise TypeError(
                f"{name} must be a function or have one of the methods "
                f"{', '.join(CALLBACK_METHODS)}, got {callback!r:.80}."
            )


def check_n_jobs(value):
    """Raise TypeError or ValueError unless this is None or a number of threads that can be."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, Integral)):
        raise TypeError(f"n_jobs must be None or an int, got {value!r}.")
    if value == 0:
        raise ValueError("n_jobs must be None, a number of threads or -1 for all cores, got 0.")
    if value is not None:
        _check_number("n_jobs", value, Integral, -MOST_THREADS, MOST_THREADS, "both")


def _check_random_state(value):
    try:
        check_random_state(value)
    except (ValueError, TypeError) as error:  # of a tuple, which it cannot put into its message
        raise ValueError(
            "random_state must be None, an int from 0 to 2**32 - 1 or a numpy.random.RandomState, "
            f"got {value!r}."
        ) from error


def _check_betas(value):
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise ValueError(f"betas must be two numbers, got {value!r}.")
    for beta in value:
        _check_number("betas", beta, Real, 0, 1, "left")


def _check_backbone(value):
    if not isinstance(value, str | nn.Module):
        raise TypeError(
            f"backbone must be a timm model name or a torch.nn.Module, got {type(value).__name__}."
        )


def _check_weights(value):
    if not isinstance(value, str | os.PathLike | None):
        raise TypeError(f"weights must be 'auto', None or a path, got {value!r}.")


def image_size(value):
    """Turn `image_size` (int or pair) into (height, width)."""
    sides = (value, value) if isinstance(value, Integral) else value
    if not isinstance(sides, tuple | list) or len(sides) != 2:
        raise ValueError(f"image_size must be an int or (height, width), got {value!r}.")
    for side in sides:
        _check_number("image_size", side, Integral, 1, LONGEST_SIDE, "both")
    return int(sides[0]), int(sides[1])


def tile_size(value):
    """Turn `tile_size` (None, int or pair) into None or (height, width)."""
    if value is None:
        return None
    sides = (value, value) if isinstance(value, Integral) else value
    if not isinstance(sides, tuple | list) or len(sides) != 2:
        raise ValueError(f"tile_size must be None, an int or (height, width), got {value!r}.")
    for side in sides:
        _check_number("tile_size", side, Integral, _SMALLEST_TILE, LONGEST_SIDE, "both")
    if sides[0] * sides[1] > MOST_PIXELS:
        raise ValueError(f"tile_size={sides} has more than {MOST_PIXELS:,} pixels.")
    return int(sides[0]), int(sides[1])


def _check_tiles(parameters):
    """Refuse tiles whose proportions `resize="pad"` would have to change."""
    tile, (height, width) = tile_size(parameters["tile_size"]), image_size(parameters["image_size"])
    if tile is None or parameters["resize"] != "pad":
        return
    if abs(tile[0] * width - tile[1] * height) > max(height, width):
        raise ValueError(
            f"resize='pad' keeps proportions, but tile_size={tile} has others than image_size="
            f"{(height, width)}: give both the same, or leave resize='stretch'."
        )


def _check_number(name, value, kind, low, high, bounds):
    if isinstance(value, bool):
        raise TypeError(f"{name} must be a number, got {value}.")
    check_scalar(value, name, kind, min_val=low, max_val=high, include_boundaries=bounds)
    if value != value:
        raise ValueError(f"{name} must be a number, got nan.")


def _check_sequence(name, values, kind, low, high, bounds, most):
    if isinstance(values, str):
        if values != "auto":
            raise ValueError(f"{name} must be a tuple of numbers or 'auto', got {values!r}.")
        return
    if not isinstance(values, tuple | list) or not values:
        raise ValueError(f"{name} must be a tuple with at least one entry, got {values!r}.")
    if len(values) > most:
        raise ValueError(f"{name} may have {most} entries, has {len(values)}.")
    for value in values:
        _check_number(name, value, kind, low, high, bounds)


def _check_number_or_word(name, value, words, kind, low, high, bounds):
    if not isinstance(value, str):
        _check_number(name, value, kind, low, high, bounds)
    elif value not in words:
        known = " or ".join(map(repr, words))
        raise ValueError(f"{name} must be a number or {known}, got {value!r}.")


# Rules of single parameters that no table above expresses.
_CHECKS = {
    "max_features": _check_max_features,
    "mixed_precision": _check_mixed_precision,
    "pool_size": _check_pool_size,
    "position_channels": _check_position_channels,
    "unknown_rate": _check_unknown_rate,
    "loss": _check_loss,
    "callbacks": _check_callbacks,
    "n_jobs": check_n_jobs,
    "random_state": _check_random_state,
    "betas": _check_betas,
    "image_size": image_size,
    "tile_size": tile_size,
    "backbone": _check_backbone,
    "weights": _check_weights,
    "value_range": check_value_range,
    "augmentation": check_augmentation,
    "device": check_device,
    "memory": memory_folder,
}
