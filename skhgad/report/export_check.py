"""An exported ONNX file beside the model that it was exported from, on the user's own pictures."""

import copy
from typing import NamedTuple

import numpy as np

from ..images.source import ImageSource
from ..text import printable
from .findings import inspect_files

TOLERANCE = 1e-3  # of scores and maps, of their size or of 1 where that is larger


class Comparison(NamedTuple):
    """How far an exported file is from its model.

    Attributes
    ----------
    n_images : int
    score, anomaly_map : float
        Largest difference of scores and of maps, as a share of the size of the score, or of 1.
    other_class, other_verdict : list of str
        The images for which the two disagree. Of verdicts, those whose score is closer to the
        threshold than the tolerance do not count.
    """

    n_images: int
    score: float
    anomaly_map: float
    other_class: list
    other_verdict: list

    @property
    def agrees(self):
        """Whether all is within the tolerance."""
        worst = max(self.score, self.anomaly_map)
        return worst <= TOLERANCE and not self.other_class and not self.other_verdict


def check_same_model(opened, detector):
    """Raise ValueError if a file was exported from a model with other classes or thresholds."""
    classes, offsets = opened.of_file("classes"), opened.of_file("class_offsets")
    own = detector.classes_.tolist()
    if classes != own:
        raise ValueError(f"the ONNX file knows the classes {classes}, the model {own}.")
    expected = [detector.class_offsets_.get(label, detector.offset_) for label in own]
    if not np.allclose(offsets, expected, rtol=1e-6):
        raise ValueError(
            f"the ONNX file has the thresholds {offsets}, the model {expected}: export it again."
        )


def compare(opened, detector, paths):
    """Score images by a model and by its OpenFile; return a Comparison.

    The file names the most likely class of every image, as the model does without `unknown_rate`.
    """
    detector = copy.copy(detector).set_params(unknown_rate=None)
    value_range, classes = detector.model_.value_range, detector.classes_.tolist()
    worst_score = worst_map = 0.0
    other_class, other_verdict = [], []
    for finding in inspect_files(detector, paths, maps=True):
        pixels = ImageSource([finding.path], value_range=value_range).read(0)
        score, index, found = opened.run(_raw(pixels, value_range)[None])
        size = max(1.0, abs(finding.score))
        worst_score = max(worst_score, abs(float(score[0]) - finding.score) / size)
        difference = np.abs(found[0].astype(np.float64) - finding.anomaly_map).max()
        worst_map = max(worst_map, float(difference) / size)
        label = classes[int(index[0])]
        if label != finding.class_label:
            other_class.append(finding.path)
        offset = detector.class_offsets_.get(label, detector.offset_)
        is_close = abs(finding.score - offset) <= TOLERANCE * size
        if (float(score[0]) < offset) != finding.is_anomaly and not is_close:
            other_verdict.append(finding.path)
    return Comparison(len(paths), worst_score, worst_map, other_class, other_verdict)


def comparison_text(found):
    """Write a Comparison for a terminal."""
    lines = [
        f"{found.n_images} images",
        f"largest difference of scores: {found.score:.2g}, of maps: {found.anomaly_map:.2g}, as a "
        f"share of the score's size (at most {TOLERANCE:g})",
    ]
    for name, paths in (("class", found.other_class), ("verdict", found.other_verdict)):
        example = f", e.g. {printable(paths[0])}" if paths else ""
        lines.append(f"another {name}: {len(paths)} images{example}")
    lines.append("the file agrees with the model" if found.agrees else "the file DIFFERS")
    return "\n".join(lines)


def _raw(pixels, value_range):
    """Return pixels as the graph takes them."""
    if value_range is None:
        if pixels.dtype != np.uint8:
            raise ValueError("the exported file takes 8-bit images only.")
        return pixels
    low, high = value_range
    share = pixels / 255 if pixels.dtype == np.uint8 else pixels
    return (low + share * (high - low)).astype(np.float32)
