"""Anomaly maps as colours over images, on one scale for all images of a detector."""

from typing import NamedTuple

import numpy as np
from PIL import Image

from ..images.source import ImageSource
from ..storage.files import whole_file

# Heat, opacity and colour: blue below the threshold, yellow at it, red and purple far beyond.
_HEAT = (0.0, 0.5, 0.75, 1.0)
_OPACITY = (0.0, 0.35, 0.5, 0.75)
_COLOR = np.array([(40, 80, 220), (255, 225, 0), (235, 0, 0), (110, 0, 130)])
_LUMINANCE = (0.299, 0.587, 0.114)


class HeatScale(NamedTuple):
    """What turns anomaly values into heat.

    No image is scaled by its own maximum: a normal image then looks normal.

    Attributes
    ----------
    typical : float
        Anomaly score of the median held-out normal sample: no heat.
    threshold : float
        Anomaly score from which an image is flagged, ``-offset_``: half heat.
    """

    typical: float
    threshold: float

    @classmethod
    def of(cls, detector):
        """Return the scale of a fitted detector."""
        return cls(-float(np.median(detector.model_.calibration.scores)), -detector.offset_)

    def heat(self, anomaly_map):
        """Heat in [0, 1) of an anomaly map: 0 to `typical`, 1/2 at `threshold`, then towards 1.

        The excess over `typical`, in units of the threshold's, counts by its logarithm: defects
        reach a thousand times that.
        """
        span = max(self.threshold - self.typical, np.finfo(np.float32).tiny)
        excess = np.maximum((np.asarray(anomaly_map, dtype=np.float64) - self.typical) / span, 0)
        return 1 - 1 / (1 + np.log2(1 + excess))


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
    [[[255, 255, 255], [146, 64, 161]]]
    """
    grey = pixels.astype(np.float64) * (1 if pixels.dtype == np.uint8 else 255)
    grey = grey @ _LUMINANCE if grey.ndim == 3 else grey
    opacity = np.interp(heat, _HEAT, _OPACITY)[..., None]
    color = np.stack([np.interp(heat, _HEAT, channel) for channel in _COLOR.T], axis=-1)
    return np.rint((1 - opacity) * grey[..., None] + opacity * color).astype(np.uint8)


def write_heat_map(target, image, anomaly_map, scale, *, value_range=None):
    """Write an image with its heat as PNG, whole or not at all.

    Parameters
    ----------
    target : Path
        The folder is made if need be.
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
