"""Wide features brought to a width that closed forms can afford.

Fitting inverts covariances, so its time grows with the cube of the width and its memory with the
square. Stages of a wide network, fused, have thousands of channels. A random projection with
orthonormal rows keeps the distances between them nearly as they are.
"""

import torch
from torch.nn import functional as F

_SEED = 0


def random_projection(n_features, n_components):
    """Return a float32 Tensor (n_components, n_features) with orthonormal rows, always the same."""
    generator = torch.Generator().manual_seed(_SEED)
    normal = torch.randn(n_features, n_components, dtype=torch.float64, generator=generator)
    return torch.linalg.qr(normal)[0].T.float().contiguous()


def project(maps, projection):
    """Project the channels of maps (n, n_features, height, width); None leaves them as they are.

    Raises ValueError if the projection is for maps of another width.
    """
    if projection is None:
        return maps
    if maps.shape[1] != projection.shape[1]:
        raise ValueError(
            f"the backbone gives maps of {maps.shape[1]} channels, but gave {projection.shape[1]} "
            "at fit: load the model with the backbone it was fitted with."
        )
    return F.conv2d(maps, projection[:, :, None, None])
