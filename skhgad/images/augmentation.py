"""Harmless changes of pictures: what a camera, its mount and its light do between two shots."""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Mapping
from numbers import Real
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .batches import unit_range
from .decoding import Pixels
from .source import ImageSource

__all__ = ["MILD", "SLIGHT", "AugmentedSource", "augmented", "check_augmentation"]

_Floats: TypeAlias = NDArray[np.float32]

# What a camera that is fixed, with a lamp that ages, may do.
MILD: dict[str, float] = {
    "shift": 1 / 64,
    "rotation": 1.5,
    "brightness": 0.1,
    "blur": 1 / 256,
    "noise": 0.012,
    "jpeg_quality": 40.0,
}
# About half of what moves a picture or changes its light.
SLIGHT = MILD | {"shift": 1 / 128, "rotation": 0.7, "brightness": 0.05}
_NAMED = {"slight": SLIGHT, "mild": MILD}
_ALLOWED = f"augmentation must be None, {', '.join(map(repr, _NAMED))} or a dict"
# The smallest and the largest value of each change.
_RANGES = {
    "shift": (0, 0.25),
    "rotation": (0, 45),
    "brightness": (0, 0.9),
    "blur": (0, 0.05),
    "noise": (0, 0.5),
    "jpeg_quality": (1, 100),
}
_BEST_QUALITY = 95  # of JPEG that is drawn
_LONGEST_JPEG = 65_500  # pixels along a side


def check_augmentation(value: Any) -> dict[str, float] | None:
    """Return the changes that a value of the parameter `augmentation` asks for, or None.

    Parameters
    ----------
    value : None, "slight", "mild" or mapping of str to float
        "slight" is `SLIGHT`, "mild" is `MILD`.

    Raises
    ------
    TypeError
        If the value, or a number in it, has another type.
    ValueError
        If a change is not known or out of its range.
    """
    if value is None:
        return None
    if isinstance(value, str):
        if value not in _NAMED:
            raise ValueError(f"{_ALLOWED}, got {value!r:.80}.")
        return dict(_NAMED[value])
    if not isinstance(value, Mapping):
        raise TypeError(f"{_ALLOWED}, got {value!r:.80}.")
    for name, amount in value.items():
        if name not in _RANGES:
            raise ValueError(
                f"augmentation[{name!r:.80}] is not known; the changes are {', '.join(_RANGES)}."
            )
        is_number = isinstance(amount, Real) and not isinstance(amount, bool)
        if not is_number:
            raise TypeError(f"augmentation[{name!r}] must be a number, got {amount!r:.80}.")
        low, high = _RANGES[name]
        if not low <= amount <= high:
            raise ValueError(
                f"augmentation[{name!r}] must lie in [{low}, {high}], got {amount!r:.80}."
            )
    return {str(name): float(amount) for name, amount in value.items()}


class AugmentedSource(ImageSource):
    """An ImageSource that changes each picture by chance when it is read.

    A picture is changed in the same way whenever it is read, wherever it stands among the others.

    Parameters
    ----------
    images : ImageSource
    amounts : dict of str to float
        As from `check_augmentation`.
    """

    def __init__(self, images: ImageSource, amounts: Mapping[str, float]) -> None:
        # The images were checked when `images` was made.
        self.__dict__.update(images.__dict__)
        self.images, self.amounts = images, amounts

    def read(self, i: int) -> Pixels:
        """Decode image `i`, as `ImageSource.read` documents, and change it."""
        return augmented(self.images.read(i), self.amounts)


def augmented(pixels: Pixels, amounts: Mapping[str, float]) -> Pixels:
    """Return a picture after changes of random size, which its pixels alone decide.

    It is shifted and turned; then blurred, made brighter or darker, noisy and compressed. One of
    two pictures is blurred, and one of two compressed. A grey picture stays grey. Bytes and floats
    of one picture are changed alike, but for rounding.

    Parameters
    ----------
    pixels : ndarray of shape (height, width, channels), uint8, or float32 in [0, 1]
    amounts : mapping of str to float
        The largest size of each change; what is missing is left out. See `HGADDetector`.

    Returns
    -------
    ndarray of the same shape and dtype
    """
    values = unit_range(pixels)
    n_channels = values.shape[2]
    if (values == values[..., :1]).all():
        values = values[..., :1]
    values = np.repeat(_changed(values, amounts), n_channels // values.shape[2], axis=2)
    return _bytes(values) if pixels.dtype == np.uint8 else values


def _changed(values: _Floats, amounts: Mapping[str, float]) -> _Floats:
    """Do the work of `augmented` for pixels that are floats."""
    rng = np.random.default_rng(zlib.crc32(np.ascontiguousarray(_bytes(values))))
    # All are drawn, so that one change does not depend on which others are asked for.
    across, down, turn, light = rng.uniform(-1, 1, size=4).tolist()
    sharpness, grain, quality = rng.uniform(0, 1, size=3).tolist()
    is_blurred, is_compressed = (rng.uniform(size=2) < 0.5).tolist()
    height, width = values.shape[:2]
    shift = amounts.get("shift", 0.0) * np.array([across * width, down * height])
    values = _moved(values, shift, math.radians(turn * amounts.get("rotation", 0.0)))
    if is_blurred:
        values = _blurred(values, sharpness * amounts.get("blur", 0.0) * min(height, width))
    values = values * np.float32(1 + light * amounts.get("brightness", 0.0))
    if deviation := grain * amounts.get("noise", 0.0):
        values += np.float32(deviation) * rng.standard_normal(values.shape, dtype=np.float32)
    values = values.clip(0, 1)
    if is_compressed and "jpeg_quality" in amounts and max(height, width) <= _LONGEST_JPEG:
        lowest = amounts["jpeg_quality"]
        best = max(lowest, _BEST_QUALITY)
        values = _compressed(values, round(lowest + quality * (best - lowest)))
    return values


def _bytes(values: _Floats) -> NDArray[np.uint8]:
    return np.rint(values * np.float32(255)).astype(np.uint8)


def _moved(values: _Floats, shift: NDArray[np.float64], angle: float) -> _Floats:
    """Turn a picture around its middle and shift it, (x, y) in pixels; its edges are mirrored."""
    if not angle and not shift.any():
        return values
    height, width = values.shape[:2]
    reach = abs(math.sin(angle)) * math.hypot(height, width) / 2 + float(abs(shift).max())
    margin = math.ceil(reach) + 1
    middle = np.array([width, height]) / 2
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    start = middle + margin - turn @ (middle + shift)
    coefficients = (*turn[0], start[0], *turn[1], start[1])
    moved = np.empty_like(values)
    for channel in range(values.shape[2]):
        # As floats: Pillow rounds bytes down here, and the picture would be darker.
        plane = Image.fromarray(np.pad(values[..., channel], margin, mode="symmetric"))
        plane = plane.transform(
            (width, height), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR
        )
        moved[..., channel] = np.asarray(plane)
    return moved


def _blurred(values: _Floats, sigma: float) -> _Floats:
    """Blur a picture by a Gaussian of this standard deviation in pixels; its edges are mirrored."""
    if not sigma:
        return values
    from scipy import ndimage  # which nothing else at import time needs

    blurred: _Floats = ndimage.gaussian_filter(values, (sigma, sigma, 0))
    return blurred


def _compressed(values: _Floats, quality: int) -> _Floats:
    """Return a picture without what a JPEG file of its 8 bits would lose."""
    before = _bytes(values)
    is_colour = values.shape[2] == 3
    planes = [before] if is_colour else list(np.moveaxis(before, 2, 0))
    after = []
    for plane in planes:
        file = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(plane)).save(file, "JPEG", quality=quality)
        after.append(np.asarray(Image.open(file)))
    found = after[0] if is_colour else np.stack(after, axis=2)
    lost = (found.astype(np.float32) - before) / np.float32(255)
    return (values + lost).clip(0, 1)
