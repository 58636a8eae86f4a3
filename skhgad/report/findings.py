"""What a detector finds in image files."""

import sys
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from ..images.picture_error import PictureError
from ..images.source import ImageSource
from ..scoring.explanation import Explanation
from ..text import printable

_CHUNK = 64  # images whose maps are in memory at once


class Finding(NamedTuple):
    """What a detector says of one image.

    `anomaly_map` is None or an ndarray of shape (height, width), float32, of the image's size.
    `explanation` is None where no reasons were asked for. `appearance` holds brightness, contrast
    and sharpness, where they were asked for.
    """

    path: str
    class_label: str | int
    score: float
    p_value: float
    is_anomaly: bool
    anomaly_map: np.ndarray | None
    explanation: Explanation | None = None
    appearance: tuple[float, ...] | None = None

    @property
    def verdict(self):
        """In a word."""
        return "anomaly" if self.is_anomaly else "normal"


class Unreadable(NamedTuple):
    """An image that cannot be read, or not be judged, and why."""

    path: str
    error: str


def inspect_files(
    detector,
    paths,
    class_label=None,
    *,
    maps=False,
    reasons=False,
    skip_unreadable=False,
    roi=None,
):
    """Yield a Finding for every image, in order; with `maps`, with its anomaly map.

    With `reasons`, also with its explanation.

    `class_label` is the class of all images; None = inferred. `roi` is one mask for all images, or
    a mapping from class to mask. An image that cannot be read raises
    ValueError or FileNotFoundError; with `skip_unreadable` it yields an Unreadable.
    """
    if not skip_unreadable:
        with naming_files(paths):  # of a missing file before the work
            ImageSource(paths, value_range=detector.model_.value_range)
    quiet = not sys.stderr.isatty()
    with tqdm(total=len(paths), desc="images", unit="image", disable=quiet) as bar:
        for first in range(0, len(paths), _CHUNK):
            chunk = paths[first : first + _CHUNK]
            find = findings_of if skip_unreadable else _inspect
            how = {"maps": maps, "reasons": reasons, "roi": roi}
            for found in find(detector, chunk, class_label, **how):
                yield found
                bar.update()


def _inspect(detector, paths, class_label, *, maps, reasons, roi, source_of=None):
    """Return a Finding of each image."""
    labels = None if class_label is None else [class_label] * len(paths)
    with naming_files(paths):
        if reasons:
            X = paths if source_of is None else source_of(paths)
            explanations = detector.explain(X, class_labels=labels, maps=maps, roi=roi)
            looks = [None] * len(paths)
            if source_of is not None:
                looks = [tuple(row) for row in X.appearance.tolist()]
            return [
                Finding(path, *found[:4], found.anomaly_map, found, look)
                for path, found, look in zip(paths, explanations, looks, strict=True)
            ]
        inspection = detector.inspect(paths, class_labels=labels, maps=maps, roi=roi)
    columns = [values.tolist() for values in inspection[:4]]
    anomaly_maps = inspection.maps or [None] * len(paths)
    return [Finding(*fields) for fields in zip(paths, *columns, anomaly_maps, strict=True)]


def observed_findings(detector, paths, class_label=None):
    """Return what `findings_of` does, with reasons and with how each image looks."""
    source_of = detector.model_.observed
    return findings_of(detector, paths, class_label, reasons=True, source_of=source_of)


def findings_of(
    detector, paths, class_label=None, *, maps=False, reasons=False, roi=None, source_of=None
):
    """Return a Finding of each image that can be read, an Unreadable of the others, in order.

    `source_of` makes an ObservedSource of paths, where the appearance of images is asked for.
    """
    how = {"maps": maps, "reasons": reasons, "roi": roi, "source_of": source_of}
    unreadable = {}
    while readable := [path for path in paths if path not in unreadable]:
        try:
            findings = iter(_inspect(detector, readable, class_label, **how))
        except (ValueError, FileNotFoundError) as error:
            broken = _unreadable_among(readable, detector.model_.value_range)
            if not broken and isinstance(error, PictureError):
                broken = _unfit_among(detector, readable, class_label, how)
            if not broken:  # something else is wrong
                raise
            unreadable.update(broken)
        else:
            return [unreadable.get(path) or next(findings) for path in paths]
    return list(map(unreadable.get, paths))


def _unreadable_among(paths, value_range):
    """Decode every image; return {path: Unreadable} of those that cannot be read."""
    broken = {}
    for path in paths:
        try:
            with naming_files([path]):
                ImageSource([path], value_range=value_range).read(0)
        except (ValueError, FileNotFoundError) as error:
            broken[path] = Unreadable(path, str(error))
    return broken


def _unfit_among(detector, paths, class_label, how):
    """Inspect every image alone; return {path: Unreadable} of those that raise a PictureError."""
    broken = {}
    for path in paths:
        try:
            _inspect(detector, [path], class_label, **how)
        except PictureError as error:
            broken[path] = Unreadable(path, str(error))
    return broken


@contextmanager
def naming_files(paths):
    """Let errors name a file "a.png", not "X[3] (a.png)": a command has no X."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        message = str(error)
        for index, path in enumerate(paths):
            message = message.replace(f"X[{index}] ({path})", printable(path))
        kinds = (FileNotFoundError, PictureError, ValueError)
        kind = next(kind for kind in kinds if isinstance(error, kind))
        raise kind(message.replace("leave it out of X", "leave it out")) from error
