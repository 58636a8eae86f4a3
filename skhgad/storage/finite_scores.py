"""Refuse a stored model that cannot give finite scores."""

import math

import torch

# Of model and extractor: what values are divided by, or logarithms are taken of.
_POSITIVE = {
    "likelihood_scale", "log_entropy_scale", "peak_scale", "score_scale", "std", "lengths",
    "rest_scale", "units", "shifts", "level_weights",
}  # fmt: skip


def check_constants(tensors):
    """Refuse tensors that are not finite, and scales that are not positive.

    Two things may be infinite: the floor of a background that there is not, and tensors of a
    backbone of the user's own, such as masks.
    """
    for name, tensor in tensors.items():
        if torch.isnan(tensor).any():
            raise ValueError(f"{name} holds nan.")
        if name == "background_floor":
            tensor = tensor[tensor != -torch.inf]
        if not name.startswith("backbone.") and not torch.isfinite(tensor).all():
            raise ValueError(f"{name} is not finite.")
        if name.rpartition(".")[2] in _POSITIVE and not (tensor > 0).all():
            raise ValueError(f"{name} must be positive, is {float(tensor.min()):g} somewhere.")


def check_dtypes(module, tensors):
    """Refuse tensors of other types than those of the module that they are loaded into."""
    for name, own in module.state_dict().items():
        if name in tensors and tensors[name].dtype != own.dtype:
            raise ValueError(f"{name} is of type {tensors[name].dtype}, expected {own.dtype}.")


@torch.inference_mode()
def check_scores(model):
    """Refuse a scoring model that does not give a finite score to its own mean.

    The features of every position are those in which the start of the level is centred. They are
    scored once as a whole, and one position of each level under every class. Matrices must have an
    inverse where one is taken later.
    """
    means = [level.start.mean.expand(1, math.prod(level.map_shape), -1) for level in model.levels]
    maps, _ = model(means)
    _require_finite(maps, "the score of its own mean")
    for index, (level, features) in enumerate(zip(model.levels, means, strict=True)):
        z, _ = level.latent(features)
        z = z[:, :1]
        _require_finite(level.class_log_likelihood(z), f"the class likelihood of level {index}")
        for code in range(model.n_classes):
            density = level.log_density(z, torch.tensor([code]))
            _require_finite(density, f"the likelihood of class {code} in level {index}")
        _check_matrices(level, index)


def _check_matrices(level, index):
    """Refuse matrices that have no inverse, which explanations of vectors need."""
    if not level.start.has_rest:
        _require_inverse(level.start.matrix, f"start.matrix of level {index}")
    if level.has_one_position and level.densities is not None:
        for number, whitener in enumerate(level.densities.whiteners):
            _require_inverse(whitener, f"whitener {number} of level {index}")


def _require_inverse(matrix, name):
    inverse, info = torch.linalg.inv_ex(matrix)
    if info or not torch.isfinite(inverse).all():
        raise ValueError(f"it cannot be explained: {name} has no inverse.")


def _require_finite(values, name):
    if not torch.isfinite(values).all():
        raise ValueError(f"it gives no finite scores: {name} is {float(values.min())}.")
