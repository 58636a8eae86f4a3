"""How a picture looks as a whole: its brightness, contrast and sharpness."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .decoding import Pixels
from .roi import ProductMasks
from .source import ImageSource

__all__ = ["STATISTICS", "ObservedSource", "appearance_of"]

STATISTICS = ("brightness", "contrast", "sharpness")
_N_POINTS = 1 << 15  # about as many pixels of a picture are looked at


def appearance_of(pixels: Pixels, inside: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
    """Return the statistics of a picture.

    Parameters
    ----------
    pixels : ndarray of shape (height, width, channels)
        As from `ImageSource.read`.
    inside : ndarray of shape (height, width), bool, default=None
        The pixels that count; None = all.

    Returns
    -------
    ndarray of shape (3,), float64
        Of the mean of the channels, in [0, 1]: the mean, the standard deviation, and the mean
        second difference of neighbouring pixels divided by their mean first difference. The last
        changes with focus and noise, and not with brightness or contrast; it is 0 where all pixels
        are equal.
    """
    step = max(1, round((pixels.shape[0] * pixels.shape[1] / _N_POINTS) ** 0.5))
    planes = _grey(pixels)[..., None] if step < 3 else pixels  # else few of them are looked at
    here = _grey(planes[::step, ::step])
    first, second = np.zeros_like(here), np.zeros_like(here)
    for axis in (0, 1):
        before, after = _neighbours(planes, here, step, axis)
        first += np.abs(after - here) + np.abs(here - before)
        second += np.abs(after - 2 * here + before)
    if inside is not None and inside[::step, ::step].any():
        counted = inside[::step, ::step]
        here, first, second = here[counted], first[counted], second[counted]
    white = 255 if pixels.dtype == np.uint8 else 1
    steepness = first.mean()
    sharpness = second.mean() / steepness if steepness > 0 else 0.0
    return np.array([here.mean() / white, here.std() / white, sharpness])


def _grey(pixels: NDArray[Any]) -> NDArray[np.float64]:
    """Return the mean over the last axis."""
    total = pixels[..., 0].astype(np.float64)
    for channel in range(1, pixels.shape[2]):
        total += pixels[..., channel]
    return total / pixels.shape[2]


def _neighbours(
    pixels: NDArray[Any], here: NDArray[np.float64], step: int, axis: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the grey pixels before and after those of `here`; at an edge a pixel itself."""
    pixels, own = np.moveaxis(pixels, axis, 0), np.moveaxis(here, axis, 0)
    before = np.concatenate((own[:1], _grey(pixels[step - 1 :: step, ::step])[: len(own) - 1]))
    after = _grey(pixels[1::step, ::step])
    after = np.concatenate((after, own[len(after) :]))
    return np.moveaxis(before, 0, axis), np.moveaxis(after, 0, axis)


class ObservedSource(ImageSource):
    """An ImageSource that notes how each picture looks when it is read.

    Parameters
    ----------
    images : ImageSource
    roi : ProductMasks or None, default=None
        Only what lies in the masks of all products counts.

    Attributes
    ----------
    appearance : ndarray of shape (n_images, 3), float64
        `STATISTICS` of each picture; NaN before it is read.
    sizes : ndarray of shape (n_images, 2), int64
        Height and width of each picture; 0 before it is read.
    """

    def __init__(self, images: ImageSource, roi: Any = None) -> None:
        # The images were checked when `images` was made.
        self.__dict__.update(images.__dict__)
        self.roi = roi if isinstance(roi, ProductMasks) else None
        self.appearance = np.full((len(images), len(STATISTICS)), np.nan)
        self.sizes = np.zeros((len(images), 2), dtype=np.int64)

    def read(self, i: int) -> Pixels:
        """Decode image `i`, as `ImageSource.read` documents."""
        pixels = super().read(i)
        if np.isnan(self.appearance[i]).any():
            self.appearance[i] = appearance_of(pixels, self._inside(i, pixels.shape[:2]))
            self.sizes[i] = pixels.shape[:2]
        return pixels

    def looks(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the `appearance` of some pictures, (n, 3); those not read yet are read."""
        for row in rows[np.isnan(self.appearance[rows]).any(axis=1)].tolist():
            self.read(row)
        return self.appearance[rows]

    def _inside(self, i: int, size: tuple[int, ...]) -> NDArray[np.bool_] | None:
        """Return what lies in the regions of all products, or None: the whole picture."""
        if self.roi is None:
            return None
        try:
            region = self.roi.common_part((size[0], size[1]), self.name(i))
        except ValueError:  # nothing lies in all of them
            return None
        return region.read((size[0], size[1]), self.name(i))
