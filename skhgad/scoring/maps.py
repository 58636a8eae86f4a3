"""Operations on anomaly maps: blur and resizing."""

import math

import torch
from torch.nn import functional as F


def gaussian_blur(maps, sigma):
    """Blur maps with a Gaussian cut at four sigma, edges replicated.

    Parameters
    ----------
    maps : Tensor of shape (n, height, width)
    sigma : float
        In positions.

    Returns
    -------
    Tensor of shape (n, height, width)
    """
    radius = math.ceil(4 * sigma)
    if not radius or maps.shape[-1] * maps.shape[-2] == 1:
        return maps
    offsets = torch.arange(-radius, radius + 1, dtype=maps.dtype, device=maps.device)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    maps = F.pad(maps[:, None], (radius,) * 4, mode="replicate")
    maps = F.conv2d(F.conv2d(maps, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))
    return maps[:, 0]


def resize(maps, size):
    """Bilinear resizing of maps (n, height, width) to `size`."""
    if tuple(maps.shape[1:]) == tuple(size):
        return maps
    return F.interpolate(maps[:, None], tuple(size), mode="bilinear", align_corners=False)[:, 0]
