"""What tests ask of mixtures."""

import torch


def log_density_within(mixture, z):
    """`log_density_of` every class, Tensor of shape (..., n_classes)."""
    return torch.stack([mixture.log_density_of(z, k) for k in range(len(mixture.means))], -1)
