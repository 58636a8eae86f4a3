"""What tests ask of mixtures and densities."""

import torch

from skhgad.model.class_densities import ClassDensities


def log_density_within(source, z):
    """`log_density_of` every class, Tensor of shape (..., n_classes).

    `source` is a HierarchicalMixture, ClassDensities, or a LevelModel with densities.
    """
    source = getattr(source, "densities", source)
    n_classes = len(source.origins if isinstance(source, ClassDensities) else source.means)
    return torch.stack([source.log_density_of(z, k) for k in range(n_classes)], -1)
