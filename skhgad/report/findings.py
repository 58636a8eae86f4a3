"""What a detector finds in image files."""

import sys
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from ..images.source import ImageSource

_CHUNK = 64  # images whose maps are in memory at once


class Finding(NamedTuple):
    """What a detector says of one image.

    `anomaly_map` is None or an ndarray of shape (height, width), float32, of the image's size.
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
    """Yield a Finding for every image, in order; with `maps`, with its anomaly map.

    `class_label` is the class of all images; None = inferred.
    """
    # Names a missing file before the work.
    ImageSource(paths, value_range=detector.model_.value_range)
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
    """Let errors name a file "a.png", not "X[3] (a.png)": a command has no X."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        message = str(error)
        for index, path in enumerate(paths):
            message = message.replace(f"X[{index}] ({path})", str(path))
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise kind(message.replace("leave it out of X", "leave it out")) from error
