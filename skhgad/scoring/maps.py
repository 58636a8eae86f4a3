"""Operations on anomaly maps: blur, resizing and sums."""

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


def added(parts):
    """Add the maps of several kinds of evidence; the peak is the sum of the parts' own peaks.

    Kinds of evidence that are strongest at different places of an image count in full. What the
    peak of the plain sum lacks is added to it, and to the other positions in proportion to how far
    they rise above the mean of the sum.

    Parameters
    ----------
    parts : Tensor of shape (n_parts, n, height, width)

    Returns
    -------
    Tensor of shape (n, height, width)
    """
    if len(parts) == 1:
        return parts[0]
    total = parts.sum(0)
    peak, mean = total.amax((1, 2), keepdim=True), total.mean((1, 2), keepdim=True)
    lacking = parts.amax((2, 3)).sum(0)[:, None, None] - peak
    height = ((total - mean) / (peak - mean)).clamp(0, 1)
    return total + lacking * torch.where(total >= peak, torch.ones_like(total), height)
