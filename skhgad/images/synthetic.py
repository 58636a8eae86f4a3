"""Pictures with a defect painted in: synthetic anomalies, after CutPaste and DRAEM."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .batches import resize
from .decoding import Pixels
from .source import ImageSource

__all__ = ["SyntheticAnomalies"]

# Of a part of a picture: what is painted (height, width, channels), and how much of it is seen.
_Painted: TypeAlias = tuple[NDArray[np.float32], NDArray[np.float32]]

_AREAS = 1e-3, 5e-2  # of a defect, as shares of the picture
_MARGIN = 1 / 6  # of a side: where no defect has its center, unless a region asks for it
_BLUR = 0.03  # of the shorter side: details that a blurred defect loses
_WIDTHS = 0.004, 0.015  # of a scratch, as shares of the shorter side
_SHADES = 0.1, 0.85  # of scratches, dark and bright
_OPACITY = 0.7  # of a scratch


class SyntheticAnomalies(ImageSource):
    """Pictures of another source, each with one defect painted in when it is read.

    A defect is a spot of irregular outline that shows another place of the same picture, a spot
    that is blurred, or a scratch. Position, size, outline and kind are drawn at random, the same
    for the same seed and the same number of the picture.

    Parameters
    ----------
    images : ImageSource
    seed : int
    regions : list of Region or None, default=None
        Of each picture: where the center of its defect may lie. None = anywhere but at the edge.

    References
    ----------
    .. [1] Li et al., "CutPaste: Self-Supervised Learning for Anomaly Detection and Localization",
       CVPR 2021.
    .. [2] Zavrtanik et al., "DRAEM - A Discriminatively Trained Reconstruction Embedding for
       Surface Anomaly Detection", ICCV 2021.
    """

    def __init__(self, images: ImageSource, seed: int, regions: list[Any] | None = None) -> None:
        # The images were checked when `images` was made.
        self.__dict__.update(images.__dict__)
        self.seed, self.regions = seed, regions

    def read(self, i: int) -> Pixels:
        """Decode image `i`, as `ImageSource.read` documents, and paint its defect."""
        pixels = super().read(i)
        region = None if self.regions is None else self.regions[i]
        inside = None if region is None else region.read(pixels.shape[:2], self.name(i))
        return with_defect(pixels, np.random.default_rng((self.seed, i)), inside)


def with_defect(
    pixels: Pixels, rng: np.random.Generator, inside: NDArray[np.bool_] | None = None
) -> Pixels:
    """Return a picture (height, width, channels), uint8 or float32 in [0, 1], with one defect.

    `inside`, bool (height, width), is where its center may lie; None = anywhere but at the edge.
    """
    height, width = pixels.shape[:2]
    center = _center((height, width), rng, inside)
    area = np.exp(rng.uniform(*np.log(_AREAS)))
    kinds: tuple[Callable[..., Any], ...] = (_moved, _blurred, _scratched)
    paint = kinds[rng.integers(len(kinds))]
    box = _Box.around(center, (area * height * width) ** 0.5, (height, width))
    painted, opacity = paint(pixels, box, rng)
    old = _floats(pixels[box.place])
    new = (old + opacity[..., None] * (painted - old)).clip(0, 1)
    result = pixels.copy()
    result[box.place] = np.rint(new * 255) if pixels.dtype == np.uint8 else new
    return result


class _Box(NamedTuple):
    """The part of a picture that holds a defect.

    `down` (height, 1) and `across` (1, width) are distances from the center of the defect, of the
    area `reach` ** 2, in pixels.
    """

    place: tuple[slice, slice]
    down: NDArray[Any]
    across: NDArray[Any]
    reach: float

    @classmethod
    def around(cls, center: tuple[int, int], reach: float, size: tuple[int, int]) -> _Box:
        """Leave room for the outline of a spot, twice its radius, or for half of a scratch."""
        half = max(2, int(np.ceil(1.2 * reach)))
        rows, columns = (
            slice(max(0, middle - half), min(side, middle + half + 1))
            for middle, side in zip(center, size, strict=True)
        )
        down, across = np.ogrid[rows, columns]
        return cls((rows, columns), down - center[0], across - center[1], reach)


def _center(
    size: tuple[int, int], rng: np.random.Generator, inside: NDArray[np.bool_] | None
) -> tuple[int, int]:
    if inside is None:
        row, column = (int(side * rng.uniform(_MARGIN, 1 - _MARGIN)) for side in size)
        return row, column
    places = np.flatnonzero(inside)
    row, column = divmod(int(places[rng.integers(len(places))]), size[1])
    return row, column


def _spot(box: _Box, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return the opacity of a spot with an irregular outline."""
    # Steps of the outline are about half a radius long.
    steps = rng.standard_normal((6, 6, 1)).astype(np.float32) * 0.1 + 0.5
    outline = resize(steps.clip(0, 1), (len(box.down), box.across.shape[1]))[0]
    radii = np.hypot(box.down, box.across) * np.pi**0.5 / box.reach
    edge = max(1.0, box.reach / 16)  # pixels over which a spot fades
    faded = (1 - radii + 5 * (outline - 0.5)) * box.reach / edge
    return faded.clip(0, 1).astype(np.float32)


def _moved(pixels: Pixels, box: _Box, rng: np.random.Generator) -> _Painted:
    """Show another place of the picture in a spot."""
    sides = pixels.shape[:2]
    steps = [int(side * rng.uniform(0.2, 0.8)) for side in sides]
    rows, columns = (
        (np.arange(side)[part] + step) % side
        for part, step, side in zip(box.place, steps, sides, strict=True)
    )
    return _floats(pixels[np.ix_(rows, columns)]), _spot(box, rng)


def _blurred(pixels: Pixels, box: _Box, rng: np.random.Generator) -> _Painted:
    """Take the details of a spot away."""
    sharp = pixels[box.place]
    detail = max(2.0, _BLUR * min(pixels.shape[:2]))
    height, width = (max(1, round(side / detail)) for side in sharp.shape[:2])
    coarse = np.moveaxis(resize(sharp, (height, width)), 0, -1)
    blurred = np.moveaxis(resize(coarse, (sharp.shape[0], sharp.shape[1])), 0, -1)
    return blurred, _spot(box, rng)


def _scratched(pixels: Pixels, box: _Box, rng: np.random.Generator) -> _Painted:
    """Draw a dark or bright line."""
    angle = rng.uniform(0, np.pi)
    along = box.down * np.sin(angle) + box.across * np.cos(angle)
    beside = box.down * np.cos(angle) - box.across * np.sin(angle)
    beyond = np.maximum(np.abs(along) - 0.75 * box.reach, 0)
    thickness = max(1.0, rng.uniform(*_WIDTHS) * min(pixels.shape[:2]))
    line = (thickness / 2 + 0.5 - np.hypot(beyond, beside)).clip(0, 1)
    shade = (_floats(pixels[::8, ::8]).mean() + _SHADES[rng.integers(2)]) / 2
    painted = np.full((*line.shape, pixels.shape[2]), shade, dtype=np.float32)
    return painted, (_OPACITY * line).astype(np.float32)


def _floats(pixels: Pixels) -> NDArray[np.float32]:
    """Return pixels as float32 in [0, 1]."""
    white = np.float32(255 if pixels.dtype == np.uint8 else 1)
    result: NDArray[np.float32] = pixels.astype(np.float32) / white
    return result
