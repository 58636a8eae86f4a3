r"""The five loss terms of HGAD, each one value per feature vector.

Logits (..., K) are :math:`-\|z - \mu_k\|^2/2`. Source: Yao et al., "Hierarchical Gaussian
Mixture Normalizing Flow Modeling for Unified Anomaly Detection", ECCV 2024.
"""

import torch
from torch.nn import functional as F

from .mixture import entropy, log_likelihood


def smooth_one_hot(codes, n_classes, smoothing):
    """Smoothed float32 targets (n, K): 1 - smoothing on the class, plus smoothing / K on all."""
    # Not F.one_hot: it reads the codes on the host, which would wait for the device.
    is_class = codes[:, None] == torch.arange(n_classes, device=codes.device)
    return is_class.float() * (1 - smoothing) + smoothing / n_classes


def inter_class_loss(logits, log_prior, log_det, n_features):
    """L_g: negative log-likelihood under the mixture of classes, per dimension."""
    return -(torch.logsumexp(logits + log_prior, dim=-1) + log_det) / n_features


def mutual_information(logits, log_prior, targets):
    """L_mi, to be MAXIMISED: sum_k q_k [log posterior_k - log prior_k]; no gradient into the prior.

    `targets` has shape (..., K), broadcast against `logits`.
    """
    log_prior = log_prior.detach()
    log_posterior = (logits + log_prior).log_softmax(-1)
    return (targets * (log_posterior - log_prior)).sum(-1)


def entropy_loss(logits):
    """L_e: entropy of softmax(logits), in nats."""
    return entropy(logits)


def intra_class_loss(log_density, log_det, n_features):
    """L_in: -a / d with a = log_density + log_det of the own class."""
    return -(log_density + log_det) / n_features


def likelihood_margin_loss(log_density, log_det, n_features):
    """L_z: -log sigmoid(a / d - ln(2 pi) / 2)."""
    return -F.logsigmoid(log_likelihood(log_density, log_det, n_features))
