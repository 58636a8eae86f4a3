"""The published anomaly maps, from the evidence that `benchmarks.reference` gathers."""

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch.nn import functional as F


def normality(values, size, peaks=None):
    """Sum over levels of exp(value - peak), upsampled to `size`.

    Parameters
    ----------
    values : list of Tensor of shape (n, h, w)
    size : tuple (height, width)
    peaks : list of float, default=None
        None = the maximum of each level over all images given, as published.

    Returns
    -------
    maps : ndarray of shape (n, height, width)
    peaks : list of float
    """
    peaks = [float(value.max()) for value in values] if peaks is None else peaks
    maps = [
        F.interpolate(
            torch.exp(value - peak).clamp_max(1)[:, None], size, mode="bilinear", align_corners=True
        )[:, 0].numpy()
        for value, peak in zip(values, peaks, strict=True)
    ]
    return sum(maps), peaks


def anomaly_maps(likelihoods, entropies, size, constants=None):
    """Published anomaly maps: likelihood map times entropy map, each blurred.

    Parameters
    ----------
    likelihoods, entropies : list of Tensor of shape (n, h, w)
        From `ReferenceHGAD.evidence`, images of one class.
    size : tuple (height, width)
    constants : list of two pairs (peaks, ceiling), default=None
        None = maxima over the images given, so that an image's map depends on its companions.

    Returns
    -------
    maps : ndarray of shape (n, height, width)
        An image's score is the maximum of its map.
    constants : list of two pairs (peaks, ceiling)
        Those used, to freeze them for other images.
    """
    used, factors = [], []
    for index, values in enumerate((likelihoods, entropies)):
        peaks, ceiling = (None, None) if constants is None else constants[index]
        maps, peaks = normality(values, size, peaks)
        ceiling = maps.max() if ceiling is None else ceiling
        used.append((peaks, ceiling))
        factors.append(np.stack([gaussian_filter(m, sigma=4) for m in ceiling - maps]))
    return factors[0] * factors[1], used
