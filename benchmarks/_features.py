"""Features of a part, extracted once and read by every peer in blocks of bounded memory."""

import time
from contextlib import contextmanager

import numpy as np
import torch
from torch.nn import functional as F

from skhgad.features.reader import FeatureReader
from skhgad.fitting.feature_cache import cached_features
from skhgad.images import ImageSource
from skhgad.parameters import check_parameters
from skhgad.scoring.maps import gaussian_blur, resize
from skhgad.scoring.scoring_model import BLUR_REFERENCE, GRID_STRIDE

_BLOCK_BYTES = 64 << 20


class Features:
    """Levels of feature vectors of many samples.

    Parameters
    ----------
    cache : FeatureCache
    shapes : list of tuples (n_features, height, width)
        One a level; a table is one level of one position.
    map_size : tuple (height, width)
        The detector's grid of anomaly maps.
    blur_sigma : float
        In positions of that grid.
    device : torch.device
        Where blocks go.
    seconds : float
        What the extraction took.
    n_scales : int
        Image scales, of which each has equally many levels, one after the other.
    first_level : int
        Number of the first level in the cache.
    """

    def __init__(
        self, cache, shapes, map_size, blur_sigma, device, seconds=0.0, *, n_scales=1, first_level=0
    ):
        self.cache = cache
        self.shapes = shapes
        self.n_scales = n_scales
        self.first_level = first_level
        self.map_size = tuple(map_size)
        self.blur_sigma = blur_sigma
        self.device = device
        self.seconds = seconds

    def __len__(self):
        return len(self.cache)

    def of_scale(self, index):
        """Return the levels of one image scale alone."""
        n = len(self.shapes) // self.n_scales
        shapes = self.shapes[index * n : (index + 1) * n]
        return Features(
            self.cache, shapes, self.map_size, self.blur_sigma, self.device,
            first_level=self.first_level + index * n,
        )  # fmt: skip

    @property
    def is_table(self):
        """Whether a sample is one vector."""
        return self.map_size == (1, 1)

    @property
    def fine_shape(self):
        """Positions of the finest level, (height, width)."""
        return max((shape[1:] for shape in self.shapes), key=np.prod)

    def blocks(self, rows):
        """Iterate over (rows, levels): parts of `rows`, a Tensor (n, positions, d) a level."""
        height, width = self.fine_shape
        sample = 4 * height * width * sum(d for d, _, _ in self.shapes)
        step = max(1, _BLOCK_BYTES // sample)
        for first in range(0, len(rows), step):
            chosen = rows[first : first + step]
            levels = [
                self.cache.read(self.first_level + i, chosen) for i in range(len(self.shapes))
            ]
            yield chosen, [level.to(self.device) for level in levels]

    def joined(self, levels):
        """Join levels at the positions of the finest, the coarser ones interpolated bilinearly.

        Returns
        -------
        Tensor of shape (n, fine positions, sum of n_features)
        """
        parts = []
        for x, (_, height, width) in zip(levels, self.shapes, strict=True):
            if (height, width) != self.fine_shape:
                maps = x.mT.unflatten(2, (height, width))
                maps = F.interpolate(maps, self.fine_shape, mode="bilinear", align_corners=False)
                x = maps.flatten(2).mT
            parts.append(x)
        return torch.cat(parts, dim=2)

    def on_grid(self, values, shape):
        """Bilinear resizing of values (n, positions), laid out as `shape`, to the map grid."""
        return resize(values.unflatten(1, tuple(shape)), self.map_size)

    def blur(self, maps):
        """Blur maps as the detector does."""
        return gaussian_blur(maps, self.blur_sigma)


@contextmanager
def extract(detector, X, is_images):
    """Extract the features of X as `detector` would, into its memory and into one cache.

    Parameters
    ----------
    detector : HGADDetector
        Unfitted; its parameters say how.
    X : ndarray
    is_images : bool

    Yields
    ------
    Features
        Valid inside the context.
    """
    parameters = detector.get_params(deep=False)
    check_parameters(parameters)
    start = time.perf_counter()
    if is_images:
        source = ImageSource(list(X), value_range=detector.value_range)
    else:
        source = X.astype(np.float64)
    reader = FeatureReader.for_fit(parameters, source)
    shapes, map_size, n_scales = reader.level_shapes(source), (1, 1), 1
    if is_images:
        n_scales = len(reader.extractor.spec["image_scales"])
        map_size = [max(1, side // GRID_STRIDE) for side in reader.extractor.spec["image_size"]]
    with cached_features(reader, source, np.arange(len(X)), detector.cache_budget) as cache:
        sigma = detector.blur_sigma * map_size[0] / BLUR_REFERENCE
        seconds = time.perf_counter() - start
        yield Features(cache, shapes, map_size, sigma, reader.device, seconds, n_scales=n_scales)
