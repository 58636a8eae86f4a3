"""What a detector finds in image files, one file after the other."""

import sys
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from ..images.source import ImageSource

_CHUNK = 64  # images scored at a time; as many maps are in memory


class Finding(NamedTuple):
    """What a detector says of one image.

    Attributes
    ----------
    path : str
    class_label : str or int
    score : float
    p_value : float
    is_anomaly : bool
    anomaly_map : ndarray of shape (height, width), float32, or None
        Of the image's size.
    """

    path: str
    class_label: str | int
    score: float
    p_value: float
    is_anomaly: bool
    anomaly_map: np.ndarray | None

    @property
    def verdict(self):
        """In a word."""
        return "anomaly" if self.is_anomaly else "normal"


def inspect_files(detector, paths, class_label=None, *, maps=False):
    """Yield a Finding for every image, in order.

    Parameters
    ----------
    detector : HGADDetector
        Fitted.
    paths : list of str
    class_label : str or int, default=None
        Class of all images; None = inferred.
    maps : bool, default=False
        Whether to give anomaly maps.
    """
    ImageSource(paths, value_range=detector.value_range)  # names a missing file before the work
    quiet = not sys.stderr.isatty()
    with tqdm(total=len(paths), desc="images", unit="image", disable=quiet) as bar:
        for first in range(0, len(paths), _CHUNK):
            chunk = paths[first : first + _CHUNK]
            labels = None if class_label is None else [class_label] * len(chunk)
            with naming_files(chunk):
                inspection = detector.inspect(chunk, class_labels=labels, maps=maps)
            columns = [values.tolist() for values in inspection[:4]]
            anomaly_maps = inspection.maps or [None] * len(chunk)
            for fields in zip(chunk, *columns, anomaly_maps, strict=True):
                yield Finding(*fields)
                bar.update()


@contextmanager
def naming_files(paths):
    """Let errors name a file as "a.png", not as "X[3] (a.png)": a command has no X."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        message = str(error)
        for index, path in enumerate(paths):
            message = message.replace(f"X[{index}] ({path})", str(path))
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise kind(message.replace("leave it out of X", "leave it out")) from error
