"""A detector's findings compared with labels."""

import math
import warnings
from typing import NamedTuple

import numpy as np

from ..datasets.folders import chosen_samples
from ..datasets.loaders import load_folder
from ..metrics.per_image import image_metrics, miss_rates
from ..metrics.per_pixel import PixelMetrics
from ..scoring.appearances import known_pictures
from ..scoring.calibration import FALSE_ALARM_RATE
from ..scoring.thresholds import thresholds_text
from ..text import printable
from ..validation import listed, written_alike
from .product_warnings import expected_false_alarm_rate, expected_own_rates, product_warnings

# Headings, and names of the figures in `skhgad.metrics`.
_IMAGE_COLUMNS = {
    "AUROC": "auroc",
    "AP": "ap",
    "F1-max": "f1_max",
    "false alarms": "false_alarm_rate",
    "misses": "miss_rate",
}
_MISSES_AT = (0.01, 0.05, 0.1)  # false-alarm rates
_PIXEL_COLUMNS = {"pixel AUROC": "auroc", "AUPRO": "aupro"}


class ResultsRow(NamedTuple):
    """A row of results: of a class, or a summary ("mean", "pooled"). Missing `values` are nan."""

    name: str
    is_summary: bool
    values: list


def labelled_images(detector, folder, classes):
    """Read test images as `load_folder` does; `classes` None = all.

    Classes get the names that the detector has for them, see `written_alike`. A UserWarning names
    the classes that the detector does not know, whose images are left out. If it knows none,
    ValueError is raised.
    """
    data = load_folder(folder, classes=classes, split="test")
    known = [str(name) for name in detector.classes_]
    names = {name: written_alike(name, known) or name for name in data.classes.tolist()}
    data["class_label"] = np.array([names[name] for name in data.class_label.tolist()])
    data["classes"] = np.unique(data.class_label)
    unknown = sorted(set(data.class_label.tolist()) - set(known))
    if not unknown:
        return data
    is_known = np.isin(data.class_label, known)
    said = f"{folder!r} holds the classes {unknown}, which the model does not know"
    if not is_known.any():
        raise ValueError(
            f"{said}, and no other; it knows {known}. Fit a model on them, or add them to this one."
        )
    warnings.warn(
        f"{said}: {np.sum(~is_known)} of {len(is_known)} images are left out.",
        UserWarning,
        stacklevel=2,
    )
    return chosen_samples(data, is_known)


class Measurement:
    """Compute the figures of findings in labelled images.

    `data` is as from `load_folder`, `offset` the threshold, `expected_rate` the share of normal
    images that should be flagged. `class_offsets` and `own_rates` are dicts of both for the classes
    with a threshold of their own. `masked` is the set of classes with pixel figures, whose findings
    need maps; `unmasked` lists the others. Images of which there is no finding count nowhere.
    """

    def __init__(
        self, data, offset, expected_rate=FALSE_ALARM_RATE, *, class_offsets=None, own_rates=None
    ):
        self.data, self.offset, self.expected_rate = data, offset, expected_rate
        self.class_offsets, self.own_rates = class_offsets or {}, own_rates or {}
        self.masked = masked_classes(data)
        self.unmasked = [name for name in np.unique(data.class_label) if name not in self.masked]
        self.fitted = None  # the FittedModel, which knows its own pictures
        self._scores, self._inferred, self._pixels = [], [], PixelMetrics()
        self._thresholds, self._indices = [], []

    @classmethod
    def of(cls, detector, data):
        """Return the Measurement of a detector's findings in `data`."""
        found = cls(
            data,
            detector.offset_,
            expected_false_alarm_rate(detector),
            class_offsets=detector.class_offsets_,
            own_rates=expected_own_rates(detector),
        )
        found.fitted = detector.model_
        return found

    def update(self, index, finding):
        """Add the finding in image `index`; images come in order."""
        data, label = self.data, self.data.class_label[index]
        self._indices.append(index)
        self._scores.append(finding.score)
        # The verdict as a threshold: classes may have thresholds of their own.
        self._thresholds.append(math.inf if finding.is_anomaly else -math.inf)
        self._inferred.append(str(finding.class_label))
        if label in self.masked:
            self._pixels.update(data.mask[index], finding.anomaly_map, label, y=data.y[index])

    @property
    def y(self):
        """1 or -1 of each image that has a finding, an ndarray."""
        return self.data.y[self._indices]

    def figures(self):
        """Compute the figures; there must be a finding.

        Returns
        -------
        dict
            `n_images`, `n_unreadable` (images without a finding), `n_anomalies`, `offset`,
            `class_offsets`, `class_found` (share of the images whose class is inferred rightly),
            `counts` (false alarms and misses, of how many, as a list of two pairs for each class
            and for "pooled"), `image` (from `image_metrics`), `misses_at` (from `miss_rates`),
            `pixel` (from `PixelMetrics`; None if no class has masks), `expected_false_alarm_rate`,
            `warnings` (from `product_warnings`, and one where test pictures are those of the fit,
            of the class None), and `notes` (list of str: what figures mean, and
            why some are missing).
        """
        y, class_label = self.y, self.data.class_label[self._indices]
        n_unreadable = len(self.data.y) - len(y)
        is_anomaly, is_flagged = y == -1, np.array(self._thresholds) > 0
        counts = _counts(is_anomaly, is_flagged, class_label)
        notes = _notes(is_anomaly, class_label, self.offset, self.class_offsets, counts)
        if n_unreadable:
            notes.append(f"images that could not be read, and count nowhere: {n_unreadable}")
        return {
            "n_images": len(self._scores),
            "n_unreadable": n_unreadable,
            "n_anomalies": int(np.sum(is_anomaly)),
            "offset": self.offset,
            "class_offsets": self.class_offsets,
            "counts": counts,
            "class_found": float(np.mean(np.array(self._inferred) == class_label)),
            "image": image_metrics(y, self._scores, class_label, offset=self._thresholds),
            "misses_at": miss_rates(y, self._scores, class_label, false_alarm_rates=_MISSES_AT),
            "pixel": self._pixels.compute() if self.masked.intersection(class_label) else None,
            "expected_false_alarm_rate": self.expected_rate,
            "warnings": [
                *self._warnings_of_known(),
                *product_warnings(
                    is_anomaly, is_flagged, class_label, self.expected_rate, self.own_rates
                ),
            ],
            "notes": notes,
        }

    def _warnings_of_known(self):
        """Return a warning, a list of dict, where normal test pictures are those of the fit."""
        normal = [index for index in self._indices if self.data.y[index] == 1]
        if self.fitted is None or not normal:
            return []
        n_known = int(known_pictures(self.fitted, self.data.images[normal].tolist()).sum())
        if not n_known:
            return []
        text = (
            f"{n_known} of {len(normal)} normal test pictures were among those of the fit: the "
            "figures flatter the model. Test on pictures that it has not seen."
        )
        kind = "pictures of the fit"
        counts = {"n_known": n_known, "n_images": len(normal)}
        return [{"class": None, "kind": kind, **counts, "text": text}]


def _counts(is_anomaly, is_flagged, class_labels):
    """Return (false alarms, normals) and (misses, anomalies) of each class and pooled."""

    def of(inside):
        flagged, missed = is_flagged[inside & ~is_anomaly], ~is_flagged[inside & is_anomaly]
        return [(int(found.sum()), len(found)) for found in (flagged, missed)]

    per_class = {label: of(class_labels == label) for label in np.unique(class_labels)}
    return {"per_class": per_class, "pooled": of(np.full(len(class_labels), True))}


def _notes(is_anomaly, class_labels, offset, class_offsets, counts):
    """Say what the false alarms and misses of the table are, and why some are missing."""
    *rates, last = (f"{100 * rate:g}" for rate in _MISSES_AT)
    notes = [
        "false alarms, misses: at the model's own threshold "
        f"{thresholds_text(offset, class_offsets)}; these are {_counts_text(counts)}",
        f"at {', '.join(rates)} and {last} %: misses where the threshold flags at most this share "
        "of the test normals of the product (pooled: of all)",
    ]
    few, without = [], []
    for label in np.unique(class_labels):
        inside = class_labels == label
        n_anomalies = np.sum(is_anomaly[inside])
        n_normals = np.sum(inside) - n_anomalies
        if not n_anomalies:
            without.append(str(label))
        elif n_normals < 1 / min(_MISSES_AT):
            few.append(f"{label} has {n_normals}")
    if few:
        needed = ", ".join(f"{1 / rate:.0f} at {100 * rate:g} %" for rate in _MISSES_AT)
        notes.append(f"test normals of a product that this takes: {needed}; {listed(few)}")
    if without:
        notes.append(f"no misses of {listed(without)}: no anomalies among its test images")
    return notes


def _counts_text(counts):
    def text(found):
        (n_flagged, n_normals), (n_missed, n_anomalies) = found
        return f"{n_flagged} of {n_normals} normal images and {n_missed} of {n_anomalies} anomalies"

    each = [f"{name}: {text(found)}" for name, found in counts["per_class"].items()]
    return "; ".join([text(counts["pooled"]), *(each if len(each) > 1 else ())])


def masked_classes(data):
    """Return the set of classes with anomalies, all of them with masks."""
    lacking = {
        label
        for label, y, mask in zip(data.class_label, data.y, data.mask, strict=True)
        if y == -1 and mask is None
    }
    return set(data.class_label[data.y == -1]) - lacking


def results_table(figures):
    """Arrange `Measurement.figures` by class, then mean and pooled.

    Returns the columns' headings, a list of str, and a list of ResultsRow.
    """
    image, misses, pixel = figures["image"], figures["misses_at"], figures["pixel"]
    columns = [*_IMAGE_COLUMNS, *(f"at {100 * rate:g} %" for rate in _MISSES_AT)]
    columns += _PIXEL_COLUMNS if pixel is not None else ()

    def row(name, is_summary, of_images, of_misses, of_pixels):
        values = [of_images[key] for key in _IMAGE_COLUMNS.values()]
        values += [of_misses[rate] for rate in _MISSES_AT]
        if pixel is not None:
            values += [of_pixels.get(key, math.nan) for key in _PIXEL_COLUMNS.values()]
        return ResultsRow(name, is_summary, values)

    masked = {} if pixel is None else pixel.per_class
    rows = [
        row(str(name), False, of_images, misses.per_class[name], masked.get(name, {}))
        for name, of_images in image.per_class.items()
    ]
    for key in ("mean", "pooled"):
        # A product may have this name as well.
        name = f"{key} (all classes)" if key in image.per_class else key
        rows.append(row(name, True, image[key], misses[key], {} if pixel is None else pixel[key]))
    return columns, rows


def figures_text(figures, unmasked):
    """Write `Measurement.figures` as text; `unmasked` are the classes without pixel figures."""
    columns, rows = results_table(figures)
    rows = [row._replace(name=printable(row.name)) for row in rows]
    name_width = max(len(row.name) for row in rows) + 2
    widths = [max(len(column), len("0.000")) + 3 for column in columns]
    lines = [("", columns)]
    lines += [(row.name, [format_figure(value, "-") for value in row.values]) for row in rows]
    text = [
        f"{name:<{name_width}}"
        + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        for name, cells in lines
    ]
    text += [
        f"{figures['n_images']} images, {figures['n_anomalies']} of them anomalies; product class "
        f"inferred, rightly for {100 * figures['class_found']:.1f} %",
        *map(printable, figures["notes"]),
    ]
    if unmasked:
        rest = ", and not in their mean and pooled figures" if figures["pixel"] is not None else ""
        names = ", ".join(map(printable, unmasked))
        text.append(f"no pixel figures of {names}: anomalies without masks, or none{rest}")
    text += [f"warning: {printable(warning['text'])}" for warning in figures["warnings"]]
    return "\n".join(text)


def format_figure(value, missing):
    """Write a figure with three decimals, nan as `missing`."""
    return missing if math.isnan(value) else f"{value:.3f}"


def without_nan(value):
    """Prepare for JSON, which lacks nan: it becomes None, and keys become str."""
    if isinstance(value, dict):
        return {str(key): without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
