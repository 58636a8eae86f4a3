"""Heat maps over grey images, on the detector's scale: a normal image stays grey."""

from typing import NamedTuple

import numpy as np
from PIL import Image

from ..images.source import ImageSource
from ..scoring.thresholds import offset_of
from ..storage.files import whole_file

# Opacity and colour at these values of heat, linear between them. The colour jumps at 1/2, the
# threshold; 3/4 is 7 times the threshold's excess, 0.9 is 511 times. For the colour-blind, too,
# colours below and above the threshold differ by a CIEDE2000 of at least 19, on dark to light grey.
# Red must not end in purple: without red cones, purple looks like blue.
_HEAT = (0.0, 0.25, np.nextafter(0.5, 0), 0.5, 0.75, 0.9)
_OPACITY = (0.0, 0.08, 0.25, 0.45, 0.55, 0.75)
_BLUE, _YELLOW, _RED, _DARK_RED = (30, 90, 255), (255, 225, 0), (235, 0, 0), (140, 0, 10)
_COLOR = np.array([_BLUE, _BLUE, _BLUE, _YELLOW, _RED, _DARK_RED])
_LUMINANCE = (0.299, 0.587, 0.114)


class HeatScale(NamedTuple):
    """The scale of a detector, by which anomaly scores become heat.

    Attributes
    ----------
    typical : float
        Anomaly score of the median held-out normal sample; heat 0.
    threshold : float
        Anomaly score from which an image is flagged, ``-offset_``; heat 1/2.

    Examples
    --------
    >>> scale = HeatScale(typical=1.0, threshold=3.0)
    >>> scale.heat([0.0, 1.0, 3.0, 7.0]).round(3).tolist()
    [0.0, 0.0, 0.5, 0.667]
    >>> float(scale.score(0.5))
    3.0
    """

    typical: float
    threshold: float

    @classmethod
    def of(cls, detector, label=None):
        """Return the scale of a fitted detector; that of a class, with its own threshold."""
        typical = -float(np.median(detector.model_.calibration.scores))
        return cls(typical, -offset_of(detector, label))

    def heat(self, scores):
        """Return the heat of anomaly scores, in [0, 1).

        It is logarithmic, because defects reach a thousand times the threshold's excess.
        """
        excess = (np.asarray(scores, dtype=np.float64) - self.typical) / self._span()
        return 1 - 1 / (1 + np.log2(1 + np.maximum(excess, 0)))

    def score(self, heat):
        """Return the anomaly score of heat in [0, 1), the inverse of `heat`."""
        return self.typical + self._span() * (2.0 ** (1 / (1 - np.asarray(heat)) - 1) - 1)

    def _span(self):
        return max(self.threshold - self.typical, np.finfo(np.float32).tiny)


def heat_colors(heat):
    """Return an ndarray of shape (*heat.shape, 4) for heat in [0, 1].

    Red, green and blue are from 0 to 255, opacity from 0 to 1.
    """
    channels = [np.interp(heat, _HEAT, channel) for channel in _COLOR.T]
    return np.stack([*channels, np.interp(heat, _HEAT, _OPACITY)], axis=-1)


def luminance(pixels):
    """Return the luminance, float64 of shape (height, width), from 0 to 255.

    `pixels` have shape (height, width[, 3]) and are uint8, or float in [0, 1].
    """
    grey = pixels.astype(np.float64) * (1 if pixels.dtype == np.uint8 else 255)
    return grey @ _LUMINANCE if grey.ndim == 3 else grey


def overlay(pixels, heat):
    """Lay heat, of shape (height, width), in [0, 1], over a grey image.

    `pixels` are as in `luminance`. Returns uint8 of shape (height, width, 3).

    Examples
    --------
    >>> import numpy as np
    >>> overlay(np.full((1, 2), 255, dtype=np.uint8), np.array([[0.0, 1.0]])).tolist()
    [[[255, 255, 255], [169, 64, 71]]]
    """
    colors = heat_colors(heat)
    color, opacity = colors[..., :3], colors[..., 3:]
    return np.rint((1 - opacity) * luminance(pixels)[..., None] + opacity * color).astype(np.uint8)


def write_heat_map(target, image, anomaly_map, scale, *, value_range=None):
    """Write the image at path `image` with its heat as PNG, whole or not at all.

    `anomaly_map` has the image's size, and `value_range` is the detector's. A missing folder
    is made.
    """
    pixels = ImageSource([image], value_range=value_range).read(0)
    target.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(target) as part:
        Image.fromarray(overlay(pixels, scale.heat(anomaly_map))).save(part, format="PNG")
