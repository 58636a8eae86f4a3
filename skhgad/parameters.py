"""Which values each parameter of the estimator may take, checked in `fit`."""

import os
from numbers import Integral, Real

import torch
from sklearn.utils import check_random_state, check_scalar
from torch import nn

from .scoring.calibration import check_rate
from .scoring.scoring_model import CRITERIA, NORMALIZATIONS

STARTS = ("whitened", "published")

# name: (type, smallest, largest, which of the bounds belong to the range)
_NUMBERS = {
    "pool_size": (Integral, 1, None, "left"),
    "feature_power": (Real, 0, None, "neither"),
    "n_blocks": (Integral, 0, None, "left"),
    "hidden_ratio": (Real, 0, None, "neither"),
    "clamp": (Real, 0, None, "neither"),
    "position_channels": (Integral, 0, None, "left"),
    "n_components": (Integral, 1, None, "left"),
    "class_separation": (Real, 0, None, "neither"),
    "center_scale": (Real, 0, None, "left"),
    "background_weight": (Real, 0, 1, "both"),
    "position_fraction": (Real, 0, 1, "right"),
    "center_lr_factor": (Real, 0, None, "left"),
    "weight_decay": (Real, 0, None, "left"),
    "warmup_fraction": (Real, 0, 1, "left"),
    "final_lr_fraction": (Real, 0, 1, "both"),
    "first_stage_fraction": (Real, 0, 1, "both"),
    "lambda_inter": (Real, 0, None, "left"),
    "lambda_mi": (Real, 0, None, "left"),
    "lambda_entropy": (Real, 0, None, "left"),
    "lambda_intra": (Real, 0, None, "left"),
    "label_smoothing": (Real, 0, 1, "left"),
    "entropy_weight": (Real, 0, None, "neither"),
    "blur_sigma": (Real, 0, None, "left"),
    "validation_fraction": (Real, 0, 1, "left"),
    "verbose": (Integral, 0, None, "left"),
}
# As above, or a word that lets the data decide.
_NUMBERS_OR_WORD = {
    "n_classes": (("auto", "discover"), Integral, 1, None, "left"),
    "max_iter": (("auto",), Integral, 0, None, "left"),
    "batch_size": (("auto",), Integral, 1, None, "left"),
    "learning_rate": (("auto",), Real, 0, None, "neither"),
    "whitening_shrinkage": (("auto", "ledoit_wolf"), Real, 0, 1, "both"),
    "contamination": (("auto",), Real, 0, 0.5, "right"),
    "cache_budget": (("auto",), Integral, 0, None, "left"),
}
_CHOICES = {
    "start": STARTS,
    "criterion": ("auto", *CRITERIA),
    "map_normalization": NORMALIZATIONS,
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
    for name, (kind, low, high, bounds) in _NUMBERS.items():
        _check_number(name, parameters[name], kind, low, high, bounds)
    for name, (words, kind, low, high, bounds) in _NUMBERS_OR_WORD.items():
        value = parameters[name]
        if isinstance(value, str):
            if value not in words:
                known = " or ".join(map(repr, words))
                raise ValueError(f"{name} must be a number or {known}, got {value!r}.")
        else:
            _check_number(name, value, kind, low, high, bounds)
    for name, choices in _CHOICES.items():
        if not isinstance(parameters[name], str) or parameters[name] not in choices:
            raise ValueError(f"{name} must be one of {choices}, got {parameters[name]!r}.")
    for name in ("class_covariance", "class_calibration", "fuse_stages"):
        if not isinstance(parameters[name], bool):
            raise TypeError(f"{name} must be True or False, got {parameters[name]!r}.")
    precision = parameters["mixed_precision"]
    if not isinstance(precision, bool) and precision != "auto":
        raise ValueError(f"mixed_precision must be 'auto', True or False, got {precision!r}.")
    if parameters["pool_size"] % 2 == 0:
        raise ValueError(f"pool_size must be odd, got {parameters['pool_size']}.")
    if parameters["position_channels"] % 4:
        raise ValueError(
            "position_channels must be a multiple of 4 (sine and cosine of row and column), got "
            f"{parameters['position_channels']}."
        )
    if parameters["unknown_rate"] is not None:
        check_rate(parameters["unknown_rate"], "unknown_rate")
    n_jobs = parameters["n_jobs"]
    if n_jobs is not None and (isinstance(n_jobs, bool) or not isinstance(n_jobs, Integral)):
        raise TypeError(f"n_jobs must be None or an int, got {n_jobs!r}.")
    if n_jobs == 0:
        raise ValueError("n_jobs must be None, a number of threads or -1 for all cores, got 0.")
    try:
        check_random_state(parameters["random_state"])
    except ValueError as error:
        raise ValueError(
            "random_state must be None, an int from 0 to 2**32 - 1 or a numpy.random.RandomState, "
            f"got {parameters['random_state']!r}."
        ) from error
    betas = parameters["betas"]
    if not isinstance(betas, tuple | list) or len(betas) != 2:
        raise ValueError(f"betas must be two numbers, got {betas!r}.")
    for beta in betas:
        _check_number("betas", beta, Real, 0, 1, "left")
    _check_sequence("out_indices", parameters["out_indices"], Integral)
    _check_sequence("image_scales", parameters["image_scales"], Real, low=0)
    image_size(parameters["image_size"])
    if not isinstance(parameters["backbone"], str | nn.Module):
        raise TypeError(
            "backbone must be a timm model name or a torch.nn.Module, got "
            f"{type(parameters['backbone']).__name__}."
        )
    if not isinstance(parameters["weights"], str | os.PathLike | None):
        raise TypeError(f"weights must be 'auto', None or a path, got {parameters['weights']!r}.")


def image_size(value):
    """Turn `image_size` (int or pair) into (height, width)."""
    sides = (value, value) if isinstance(value, Integral) else value
    if not isinstance(sides, tuple | list) or len(sides) != 2:
        raise ValueError(f"image_size must be an int or (height, width), got {value!r}.")
    for side in sides:
        _check_number("image_size", side, Integral, 1, None, "left")
    return int(sides[0]), int(sides[1])


def on_device(module, device):
    """Move a module, unless it is there: asking every tensor would cost a tenth of a small call."""
    own = next(module.buffers()).device
    if own.type == device.type and device.index in (None, own.index):
        return module
    return module.to(device)


def sent(tensor, device):
    """Copy a tensor to a device; to a GPU without waiting for what it is computing."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def resolve_device(device):
    """Turn `device` into a torch.device; "auto" is the GPU where there is one.

    Of the processes that torchrun starts on a machine, each has a GPU of its own.

    Raises
    ------
    ValueError
        If the name is unknown or the device is not there.
    """
    if isinstance(device, str) and device == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        if "LOCAL_RANK" not in os.environ:
            return torch.device("cuda")
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
    except Exception as error:
        raise ValueError(
            f"device={device!r} cannot be used here: {error}. Pass 'auto' or 'cpu'."
        ) from error
    return resolved


def trains_in_mixed_precision(value, device):
    """Turn `mixed_precision` into whether the flow trains with bfloat16 products on a device.

    "auto": where the hardware multiplies in bfloat16; elsewhere it would be slower.
    """
    if value != "auto":
        return value
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    has_bfloat16 = getattr(torch.cpu, "_is_avx512_bf16_supported", bool)  # not public; else False
    return device.type == "cpu" and has_bfloat16()


def _check_number(name, value, kind, low, high, bounds):
    if isinstance(value, bool):
        raise TypeError(f"{name} must be a number, got {value}.")
    check_scalar(value, name, kind, min_val=low, max_val=high, include_boundaries=bounds)
    if value != value:
        raise ValueError(f"{name} must be a number, got nan.")


def _check_sequence(name, values, kind, low=None):
    if not isinstance(values, tuple | list) or not values:
        raise ValueError(f"{name} must be a tuple with at least one entry, got {values!r}.")
    for value in values:
        _check_number(name, value, kind, low, None, "neither")
