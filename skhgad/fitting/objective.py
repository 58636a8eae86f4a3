"""What training minimises: the published objective, or a function of the user's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

if TYPE_CHECKING:
    from ..model.mixture import HierarchicalMixture


class TrainingStep(NamedTuple):
    """What a loss is computed from: one level of features in one training step.

    The tensors are valid during the call only, because the next step overwrites their memory.

    Attributes
    ----------
    z : Tensor of shape (n_images, n_positions, n_features)
        Latent vectors of the images of the step at the positions drawn.
    log_det : Tensor of shape (n_images, n_positions)
        Log-determinants of the flow, without those of the linear start, which is not trained.
    codes : Tensor of shape (n_images,), int64
        Class of each image, an index into `classes_`.
    mixture : torch.nn.Module
        The prior that is trained with the flow, with ``class_logits(z)``, ``log_prior()`` and
        ``log_density_within_class(z, codes)``.
    terms : dict of 0-d Tensor
        The published terms, each a mean over the step, unweighted: "inter_class",
        "mutual_information" (to be maximised), "entropy"; and, when `first_stage_fraction` of the
        steps are done and `lambda_intra` is not 0, "intra_class" and "likelihood_margin".
    weights : dict of float
        `lambda_inter`, `lambda_mi`, `lambda_entropy` and `lambda_intra` of the detector.
    """

    z: torch.Tensor
    log_det: torch.Tensor
    codes: torch.Tensor
    mixture: HierarchicalMixture
    terms: Mapping[str, torch.Tensor]
    weights: Mapping[str, float]


def hgad_loss(step: TrainingStep) -> torch.Tensor:
    """Return the published objective, which ``loss=None`` minimises.

    Parameters
    ----------
    step : TrainingStep

    Returns
    -------
    Tensor, 0-d
        The weighted sum of the terms; the mutual information counts negative.

    Examples
    --------
    A term of one's own is added to it. This one keeps the latent vectors short:

    >>> from skhgad import HGADDetector, hgad_loss
    >>> def with_short_vectors(step):
    ...     return hgad_loss(step) + 0.1 * step.z.square().mean()
    >>> detector = HGADDetector(loss=with_short_vectors, max_iter=10)
    """
    terms, weights = step.terms, step.weights
    loss = (
        weights["lambda_inter"] * terms["inter_class"]
        - weights["lambda_mi"] * terms["mutual_information"]
        + weights["lambda_entropy"] * terms["entropy"]
    )
    if "intra_class" in terms:
        intra = terms["intra_class"] + terms["likelihood_margin"]
        loss = loss + weights["lambda_intra"] * intra
    return loss


def step_loss(loss: Callable[[TrainingStep], Any] | None, step: TrainingStep) -> torch.Tensor:
    """Return what a loss, None = `hgad_loss`, says of a step; TypeError if it cannot be used."""
    if loss is None:
        return hgad_loss(step)
    value = loss(step)
    if not isinstance(value, torch.Tensor) or value.ndim or not value.is_floating_point():
        found = type(value).__name__
        if isinstance(value, torch.Tensor):
            found = f"a {value.dtype} Tensor of shape {tuple(value.shape)}"
        raise TypeError(
            f"loss must return a 0-d floating-point Tensor, such as step.z.square().mean(), got "
            f"{found}."
        )
    if torch.is_grad_enabled() and not value.requires_grad:
        raise TypeError(
            "loss returned a Tensor without a gradient: compute it from step.z, step.log_det or "
            "step.terms with torch, without detach(), item() or no_grad()."
        )
    return value


def check_trainable(loss: Any) -> None:
    """Raise ValueError for the name of a loss, which is what a model file keeps of it."""
    if isinstance(loss, str):
        raise ValueError(
            f"loss={loss!r} is a name, which is all that a model file keeps of a function. Pass "
            "the function itself, set_params(loss=...), or loss=None for the published objective."
        )
