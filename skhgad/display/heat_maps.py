"""Heat maps: anomaly maps as colours over grey images, in files and in displays alike.

The colours answer one question: where is the image above the threshold? Anomaly scores become heat
on the detector's own scale, never on the image's own maximum, so that a normal image stays grey.
There is no colour up to the score of a typical normal image. From there to the threshold a
transparent blue grows stronger. At the threshold the colour changes to yellow at once, so that the
border shows without an outline; far above, it goes through red to dark red. The image below the
colours stays visible, because a map alone does not show what is anomalous.

Blue and yellow differ for colour-blind people, too. In simulations of the three kinds of colour
blindness, on dark, medium and light grey, every colour below the threshold has a CIEDE2000
difference of at least 19 from every colour above it. Red must not end in purple: without red
cones, purple looks like blue, and on a dark image like no colour at all.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image

from ..images.source import ImageSource
from ..storage.files import whole_file

# Opacity and colour at these values of heat, interpolated linearly between them. At 1/2, the
# threshold, the colour changes at once; 3/4 is 7 times the threshold's excess, 0.9 is 511 times.
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
        Anomaly score of the median held-out normal sample. Its heat is 0.
    threshold : float
        Anomaly score from which an image is flagged, ``-offset_``. Its heat is 1/2.

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
    def of(cls, detector):
        """Return the scale of a fitted detector."""
        return cls(-float(np.median(detector.model_.calibration.scores)), -detector.offset_)

    def heat(self, scores):
        """Return the heat of anomaly scores, in [0, 1).

        Heat grows with the logarithm of the excess over `typical`, because defects reach a
        thousand times the excess of the threshold.
        """
        excess = (np.asarray(scores, dtype=np.float64) - self.typical) / self._span()
        return 1 - 1 / (1 + np.log2(1 + np.maximum(excess, 0)))

    def score(self, heat):
        """Return the anomaly score of heat in [0, 1): the inverse of `heat`."""
        return self.typical + self._span() * (2.0 ** (1 / (1 - np.asarray(heat)) - 1) - 1)

    def _span(self):
        return max(self.threshold - self.typical, np.finfo(np.float32).tiny)


def heat_colors(heat):
    """Return colour and opacity of heat.

    Parameters
    ----------
    heat : ndarray, in [0, 1]

    Returns
    -------
    ndarray of shape (*heat.shape, 4)
        Red, green and blue from 0 to 255, and opacity from 0 to 1.
    """
    channels = [np.interp(heat, _HEAT, channel) for channel in _COLOR.T]
    return np.stack([*channels, np.interp(heat, _HEAT, _OPACITY)], axis=-1)


def luminance(pixels):
    """Return the luminance of an image, from 0 to 255.

    Parameters
    ----------
    pixels : ndarray of shape (height, width) or (height, width, 3), uint8 or float in [0, 1]

    Returns
    -------
    ndarray of shape (height, width), float64
    """
    grey = pixels.astype(np.float64) * (1 if pixels.dtype == np.uint8 else 255)
    return grey @ _LUMINANCE if grey.ndim == 3 else grey


def overlay(pixels, heat):
    """Lay heat over an image in grey.

    Parameters
    ----------
    pixels : ndarray of shape (height, width) or (height, width, 3), uint8 or float in [0, 1]
    heat : ndarray of shape (height, width), in [0, 1]

    Returns
    -------
    ndarray of shape (height, width, 3), uint8

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
    """Write an image with its heat as PNG, whole or not at all.

    Parameters
    ----------
    target : Path
        Its folder is made if there is none.
    image : str
        Path of the image.
    anomaly_map : ndarray of shape (height, width)
        Of the image's size.
    scale : HeatScale
    value_range : tuple (low, high), default=None
        As of the detector.
    """
    pixels = ImageSource([image], value_range=value_range).read(0)
    target.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(target) as part:
        Image.fromarray(overlay(pixels, scale.heat(anomaly_map))).save(part, format="PNG")
