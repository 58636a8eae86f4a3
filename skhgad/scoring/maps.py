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
    if not sigma or maps.shape[-1] * maps.shape[-2] == 1:
        return maps
    maps = _blur_rows(maps[:, None], sigma)
    return _blur_rows(maps.transpose(2, 3), sigma).transpose(2, 3)[:, 0]


def _blur_rows(maps, sigma):
    """Blur along the last axis. Takes at most three times the memory of the maps."""
    offsets = torch.arange(-math.ceil(4 * sigma), math.ceil(4 * sigma) + 1)
    kernel = torch.exp(-0.5 * (offsets.to(maps) / sigma) ** 2)
    kernel = kernel / kernel.sum()
    # All weights that lie beyond the edge from every position go to the same edge value.
    beyond = len(kernel) // 2 - maps.shape[-1]
    if beyond > 0:
        inner = kernel[beyond:-beyond].clone()
        inner[0] += kernel[:beyond].sum()
        inner[-1] += kernel[-beyond:].sum()
        kernel = inner
    maps = F.pad(maps, (len(kernel) // 2,) * 2 + (0, 0), mode="replicate")
    return F.conv2d(maps, kernel.view(1, 1, 1, -1))


def resize(maps, size):
    """Bilinear resizing of maps (n, height, width) to `size`."""
    if tuple(maps.shape[1:]) == tuple(size):
        return maps
    return F.interpolate(maps[:, None], tuple(size), mode="bilinear", align_corners=False)[:, 0]


def added(parts, inside=None, peaks=None):
    """Add the maps of several kinds of evidence; the peak is the sum of the parts' own peaks.

    Kinds of evidence that are strongest at different places of an image count in full. What the
    peak of the plain sum lacks is added to it, and to the other positions in proportion to how far
    they rise above the mean of the sum.

    Parameters
    ----------
    parts : Tensor of shape (n_parts, n, height, width)
    inside : bool Tensor of shape (n, height, width), default=None
        What counts for the mean; None = everything.
    peaks : Tensor of shape (n_parts, n), default=None
        Own peaks of the parts, where their maps are too coarse or too smooth to show them; None =
        the largest values of the maps.

    Returns
    -------
    Tensor of shape (n, height, width)
    """
    if len(parts) == 1 and peaks is None:
        return parts[0]
    peaks = parts.amax((2, 3)) if peaks is None else peaks
    total = parts.sum(0)
    peak = total.amax((1, 2), keepdim=True)
    if inside is None:
        mean = total.mean((1, 2), keepdim=True)
    else:
        n_inside = inside.sum((1, 2), keepdim=True)
        mean = (total * inside).sum((1, 2), keepdim=True) / n_inside
    lacking = peaks.sum(0)[:, None, None] - peak
    rise = torch.where(peak > mean, peak - mean, 1)  # in a flat map, 0 / 0 would spoil gradients
    height = ((total - mean) / rise).clamp(0, 1)
    return total + lacking * torch.where(total >= peak, torch.ones_like(total), height)
