"""Which part of an anomaly map is likeness to known anomalies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from .scores import ScoredBatch
    from .scoring_model import ScoringModel


@torch.inference_mode()
def known_share(model: ScoringModel, batch: ScoredBatch) -> torch.Tensor | None:
    """Return the share of known anomalies in the height of maps over the mean of normal samples.

    Parameters
    ----------
    model : ScoringModel
    batch : ScoredBatch

    Returns
    -------
    Tensor of shape (n, height, width), or None
        On the grid of ``batch.maps``, from 0 to 1: all levels together. None where no known
        anomalies correct the evidence.
    """
    evidence = batch.evidence
    added = model.defect_share(evidence)
    if added is None:
        return None
    codes, likelihood = evidence.codes, model.terms(evidence).likelihood
    mean = -model.peak_location[:-1, codes] / model.peak_scale[:-1, codes]
    height = (likelihood - mean[:, :, None, None]).sum(0)
    share: torch.Tensor = added.sum(0) / height.clamp_min(1e-6)
    return share.clamp(0, 1)
