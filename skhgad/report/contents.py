"""Rows, cards and pictures of the report."""

import os
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from ..datasets.masks import check_mask
from ..display import (
    AnomalyMapDisplay,
    DriftDisplay,
    LatentSpaceDisplay,
    ScoreDistributionDisplay,
    TrainingCurveDisplay,
)
from ..display.heat_maps import HeatScale
from ..display.maps import parts_seen
from ..monitor import DriftMonitor
from ..scoring.explanation import locate
from ..scoring.maps import resize
from ..scoring.thresholds import offset_of
from .clearest import Clearest
from .data_uris import jpeg_uri, png_uri, reduced
from .page import Table

_THUMBNAIL, _PICTURE = 72, 320  # longest side in pixels
_MOST_LATENT = 400  # images


class Row(NamedTuple):
    """What the table says of one image.

    `path` is relative to the report's folder, `thumbnail` a data URI. `true_class` and `defect`
    ("good" for a normal image) are None without labels. `peak` is (row, column) in the anomaly
    map; `n_regions` and `area`, a share of the image, are of what exceeds the threshold.
    `appearance` holds brightness, contrast and sharpness.
    """

    path: str
    thumbnail: str
    inferred_class: str
    true_class: str | None
    defect: str | None
    score: float
    p_value: float
    is_anomaly: bool
    peak: tuple
    n_regions: int
    area: float
    appearance: tuple | None = None

    @property
    def product(self):
        """The product class: as labelled, else as inferred."""
        return self.inferred_class if self.true_class is None else self.true_class

    @property
    def verdict(self):
        """In a word or two; with labels, whether it is right."""
        if self.defect is None or (self.defect == "good") != self.is_anomaly:
            return "anomaly" if self.is_anomaly else "normal"
        return "false alarm" if self.is_anomaly else "missed"


class Card(NamedTuple):
    """A drawn image; `uri` is a data URI."""

    row: Row
    uri: str

    @property
    def caption(self):
        """Class, label, verdict and figures."""
        row = self.row
        label = "" if row.defect is None else f", labelled {row.defect}"
        regions = f"{row.n_regions} region{'' if row.n_regions == 1 else 's'}"
        return (
            f"{row.inferred_class}{label}: {row.verdict}, score {row.score:.3g}, "
            f"p = {row.p_value:.3g}, {regions} above the threshold"
        )


class Picture(NamedTuple):
    """A picture of all images; `uri` is a data URI, `table` stands below it."""

    title: str
    uri: str
    caption: str
    table: Table | None = None


def collect(detector, findings, folder, measurement, n_clearest, roi=None):
    """Return a list of Row, in order, and of Group, `n_clearest` images in each.

    `findings` are pairs of an image's number, among all of the folder, and its Finding, with a map
    found with `roi`. `measurement` is given both; None without labels.
    """
    rows, clearest = [], Clearest(n_clearest)
    for number, finding in findings:
        source = detector.model_.observed([finding.path])
        pixels = source.read(0)
        location = locate(finding.anomaly_map, -offset_of(detector, finding.class_label))
        true_class = defect = mask = None
        if measurement is not None:
            measurement.update(number, finding)
            data = measurement.data
            true_class, defect = str(data.class_label[number]), str(data.defect[number])
            mask = data.mask[number]
        row = Row(
            path=os.path.relpath(finding.path, folder),
            thumbnail=jpeg_uri(reduced(pixels, _THUMBNAIL)),
            inferred_class=str(finding.class_label),
            true_class=true_class,
            defect=defect,
            score=finding.score,
            p_value=finding.p_value,
            is_anomaly=finding.is_anomaly,
            peak=location.peak_position,
            n_regions=len(location.regions),
            area=location.area,
            appearance=tuple(source.appearance[0].tolist()),
        )
        rows.append(row)
        region = partial(_region, detector, source, finding.class_label, roi)
        index = len(rows) - 1
        clearest.offer(index, row, partial(_page_size, pixels, finding.anomaly_map, mask, region))
    return rows, clearest.groups()


def draw_groups(groups, rows, detector):
    """Draw the images of the groups from `collect`; return the groups with a Card for each."""
    return [
        group._replace(images=[draw_card(clear, rows, detector) for clear in group.images])
        for group in groups
    ]


def draw_card(clear, rows, detector):
    """Draw an image; return a Card."""
    row = rows[-clear.minus_index]
    typical, threshold = HeatScale.of(detector, row.inferred_class)
    height, width = clear.anomaly_map.shape
    figure = _new_figure((6.2 * min(max(width / height, 0.6), 2.0) + 1.0, 2.6))
    AnomalyMapDisplay(
        image=clear.pixels,
        anomaly_map=clear.anomaly_map,
        threshold=threshold,
        mask=clear.mask,
        typical=typical,
        roi=clear.roi,
    ).plot(figure.subplots(1, 3))
    return Card(row, png_uri(figure))


def draw_pictures(detector, paths, rows, y, roi=None):
    """Draw scores, latent space, drift and training; return a list of Picture.

    `y` is 1 or -1 of each image, or None without labels; `roi` as in `inspect_files`.
    """
    pictures = [_draw_scores(detector, rows, y)]
    if detector.model_.parameters["tile_size"] is None:  # latent vectors of tiles overlap
        pictures.append(_draw_latent_space(detector, paths, y, roi))
    if y is None:
        pictures.append(_draw_drift(detector, rows))
    if detector.history_:
        figure = _new_figure((9.5, 5))
        TrainingCurveDisplay.from_estimator(detector, ax=figure.subplots(2, 3))
        caption = "Means over the steps of each pass."
        pictures.append(Picture("Training", png_uri(figure), caption))
    return pictures


def _draw_scores(detector, rows, y):
    labels = [row.true_class or row.inferred_class for row in rows]
    figure = _new_figure((9, 1.6 + 0.36 * len(set(labels))))
    ScoreDistributionDisplay.from_predictions(
        y,
        [row.score for row in rows],
        labels,
        offset=detector.offset_,
        class_offsets=detector.class_offsets_,
        ax=figure.subplots(),
    )
    source = "found" if y is None else "of the folder"
    caption = (
        "Every point is an image; left of the line it is flagged. Linear around zero, logarithmic "
        f"beyond. Rows are the product classes {source}."
    )
    return Picture("Scores", png_uri(figure), caption)


def _draw_drift(detector, rows):
    """Draw the evidence of drift, the images taken by their paths."""
    by_text = {str(label): label for label in detector.classes_.tolist()}
    labels = np.array([by_text.get(row.inferred_class) for row in rows], dtype=object)
    monitor = DriftMonitor(detector).update_scores(
        [row.score for row in rows], labels, [row.appearance for row in rows]
    )
    figure = _new_figure((9, 3))
    DriftDisplay.from_monitor(monitor, ax=figure.subplots())
    alarm, verdict = monitor.alarm_, "No drift is found."
    if alarm is not None:
        verdict = f"At image {alarm.n_seen} there is drift: {alarm.text}."
    caption = (
        f"{verdict} The images are taken in the order of their paths. The evidence is what a fair "
        "player would have made of 1 by betting that scores, brightness, contrast or sharpness "
        "have changed since the fit; without a "
        f"change it ever exceeds {1 / monitor.false_alarm_probability:g} with a probability of at "
        f"most {monitor.false_alarm_probability:g}, if the order is random and at most "
        f"{monitor.defect_rate:.0%} of the images show defects."
    )
    return Picture("Drift", png_uri(figure), caption)


def _draw_latent_space(detector, paths, y, roi):
    chosen = np.unique(np.linspace(0, len(paths) - 1, _MOST_LATENT).round().astype(int))
    figure = _new_figure((9, max(5.5, 1 + 0.25 * len(detector.classes_))))
    shown, of_shown = [paths[i] for i in chosen], None if y is None else y[chosen]
    display = LatentSpaceDisplay.from_estimator(
        detector, shown, of_shown, roi=roi, ax=figure.subplots()
    )
    share = "images" if len(chosen) == len(paths) else f"{len(chosen)} of {len(paths)} images"
    caption = (
        f"Mean latent vector of {share} at the coarsest level, in the plane of the two leading "
        "principal components; colours are the product classes found. The table says how Gaussian "
        f"the vectors of {'all' if y is None else 'the normal'} images of a class are, at 16 "
        "positions of each image, whitened as the model claims: the kurtosis over that of a "
        "Gaussian, and the skewness and kurtosis of Mardia in standard deviations from a "
        "Gaussian's (z). Positions of an image depend on each other, so z is too large: compare "
        "classes and models by it."
    )
    table = gaussianity_table(display.gaussianity)
    return Picture("Latent space", png_uri(figure), caption, table)


def gaussianity_table(gaussianity):
    """Return a Table with a row for each class of `LatentSpaceDisplay.gaussianity`."""
    header = ["class", "vectors", "axes", "kurtosis / Gaussian", "kurtosis, z", "skewness, z"]
    rows = []
    for label, found in gaussianity.items():
        cells = ["too few", "–", "–", "–", "–"]
        if found is not None:
            figures = (found.kurtosis_ratio, found.kurtosis_z, found.skewness_z)
            cells = [str(found.n_vectors), str(found.n_axes), *(f"{v:.3g}" for v in figures)]
        rows.append([str(label), *cells])
    return Table(header, rows)


def _region(detector, source, label, roi):
    """Return the region of interest in which an image was inspected, or None."""
    return parts_seen(detector, source, label, roi)[0]


def _page_size(pixels, anomaly_map, mask, region):
    def mask_reduced(mask):
        if mask is None:
            return None
        mask = reduced(mask.astype(np.uint8), _PICTURE, Image.Resampling.NEAREST)
        return np.asarray(mask) > 0

    if mask is not None:
        mask = check_mask(mask, anomaly_map.shape, "of the image")
    image = np.asarray(reduced(pixels, _PICTURE))
    anomaly_map = resize(torch.from_numpy(anomaly_map)[None], image.shape[:2])[0].numpy()
    return image, anomaly_map, mask_reduced(mask), mask_reduced(region())


def _new_figure(size):
    # pyplot would keep every figure.
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="compressed")
