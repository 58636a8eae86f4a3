"""Figures of one run as plain dicts, and tables of several runs."""

import json
import math

import numpy as np
import torch
from sklearn.utils import Bunch

from skhgad.metrics import PixelMetrics, image_metrics
from skhgad.parameters import image_size
from skhgad.report.evaluation import masked_classes, without_nan
from skhgad.scoring.maps import resize
from skhgad.storage.files import whole_file

# Heading, path into a run's record, digits.
COLUMNS = (
    ("mean AUROC", ("image", "mean", "auroc"), 3),
    ("pooled AUROC", ("image", "pooled", "auroc"), 3),
    ("mean AP", ("image", "mean", "ap"), 3),
    ("mean F1-max", ("image", "mean", "f1_max"), 3),
    ("false alarms", ("image", "pooled", "false_alarm_rate"), 3),
    ("misses", ("image", "pooled", "miss_rate"), 3),
    ("pixel AUROC", ("pixel", "mean", "auroc"), 3),
    ("AUPRO", ("pixel", "mean", "aupro"), 3),
    ("fit s", ("fit_seconds",), 1),
    ("score s", ("score_seconds",), 1),
)


def record_run(part, seed, scores, maps, *, offset=None, pixel_size=None, **more):
    """Measure one run.

    Parameters
    ----------
    part : Part
    seed : int
    scores : ndarray of shape (n_test,)
    maps : Tensor of shape (n_test, height, width) or None
    offset : float or ndarray of shape (n_test,), default=None
        The detector's threshold, where it has one; one a sample where there are several detectors.
    pixel_size : int or (height, width), default=None
        Size at which maps and masks are compared; None = no pixel figures.
    **more
        Kept as they are.

    Returns
    -------
    dict
    """
    found = image_metrics(part.y, scores, part.class_test, offset=offset)
    pixel = None
    if pixel_size is not None and maps is not None and part.is_images:
        pixel = pixel_figures(part, maps, image_size(pixel_size))
    return {
        "seed": seed,
        "image": without_nan(found),
        "pixel": pixel,
        "offset": float(offset) if np.ndim(offset) == 0 and offset is not None else None,
        **more,
    }


def pixel_figures(part, maps, size):
    """Pixel figures of the classes whose anomalies all have masks, None if there is no such class.

    Maps are resized bilinearly to `size`, masks by nearest neighbour.
    """
    masked = masked_classes(Bunch(class_label=part.class_test, y=part.y, mask=part.masks))
    if not masked:
        return None
    pixels = PixelMetrics()
    for index, label in enumerate(part.class_test):
        if label in masked:
            anomaly_map = resize(torch.as_tensor(maps[index])[None], size)[0].numpy()
            pixels.update(part.masks[index], anomaly_map, label, y=int(part.y[index]))
    return without_nan(pixels.compute())


def render(part_name, protocol, rows, notes=()):
    """Two Markdown tables: the figures of each method, and its image AUROC class by class.

    Parameters
    ----------
    part_name, protocol : str
    rows : dict of str to list of dict
        The runs of each method, from `record_run`; one seed each.
    notes : sequence of str
        Printed below the first table.

    Returns
    -------
    str
    """
    lines = [f"### {part_name}, {protocol} protocol", "", *summary("method", rows), ""]
    lines += [*notes, ""]
    classes = sorted({label for runs in rows.values() for label in runs[0]["image"]["per_class"]})
    lines += ["AUROC of each class (of images or vectors, not pixels):", ""]
    table = []
    for label in classes:
        path = ("image", "per_class", label, "auroc")
        table.append([label, *(cell(values(runs, path), 3) for runs in rows.values())])
    lines += markdown(["class", *rows], table)
    return "\n".join([*lines, ""])


def summary(heading, rows):
    """Lines of a Markdown table: the figures of `COLUMNS` for each of `rows`, see `render`."""
    columns = [c for c in COLUMNS if any(_known(runs, c[1]) for runs in rows.values())]
    cells = [row(name, runs, [column[1:] for column in columns]) for name, runs in rows.items()]
    return markdown([heading, *(column for column, _, _ in columns)], cells)


def row(name, runs, columns):
    """Cells of one row of a table: its name, then the figures of runs at each (path, digits)."""
    return [name, *(cell(values(runs, path), digits) for path, digits in columns)]


def values(runs, path):
    """What lies at `path` in each run's record; nan where nothing does."""
    found = []
    for run in runs:
        for key in path:
            run = run.get(key) if run is not None else None
        found.append(math.nan if run is None else run)
    return found


def cell(numbers, digits):
    """Mean of the numbers, and half of their range if there are several; "-" for nan."""
    if not numbers or np.isnan(numbers).any():
        return "-"
    text = f"{np.mean(numbers):.{digits}f}"
    return text if len(numbers) == 1 else f"{text} ± {np.ptp(numbers) / 2:.{digits}f}"


def markdown(header, rows):
    """Lines of a Markdown table; all columns but the first are numbers."""
    lines = [f"| {' | '.join(header)} |", f"| --- |{' ---: |' * (len(header) - 1)}"]
    return lines + [f"| {' | '.join(map(str, row))} |" for row in rows]


def write_json(path, content):
    """Write JSON whole or not at all, nothing if `path` is None; nan becomes null."""
    if path is not None:
        _write(path, json.dumps(without_nan(content), indent=1) + "\n")


def write_markdown(path, texts):
    """Write texts one below the other, whole or not at all; nothing if `path` is None."""
    if path is not None:
        _write(path, "\n".join(texts))


def _write(path, text):
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")


def _known(runs, path):
    return not np.isnan(values(runs, path)).all()
