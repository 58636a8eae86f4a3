"""The demo's picture."""

from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from ..display.heat_maps import HeatScale, overlay
from ..storage.files import whole_file

_N_CLEAREST = 4  # detections of each product
_TITLES = {"clear": "defect", "median": "defect, median detection", "normal": "normal, median"}


class Panel(NamedTuple):
    """A cell: uint8 `pixels` and `heat` in [0, 1], both of shape (height, width)."""

    pixels: np.ndarray
    heat: np.ndarray
    title: str


def write_detections(path, detector, cells, inspection):
    """Draw test cells of each product with their heat maps, as PNG; return `path`.

    They are the clearest detections and, to show what is usual, the median detection and normal
    cell.
    """
    scale, rows = HeatScale.of(detector), {}
    for name in cells.counts:
        chosen = _chosen_cells(cells, inspection, name)
        maps = detector.inspect(cells.test[list(chosen)], maps=True).maps
        rows[name] = [
            Panel(
                cells.test[i],
                scale.heat(anomaly_map),
                f"{_TITLES[kind]}\nclass found: {inspection.class_label[i]}\n"
                f"score {inspection.score[i]:.1f}, p = {inspection.p_value[i]:.3f}",
            )
            for (i, kind), anomaly_map in zip(chosen.items(), maps, strict=True)
        ]
    _write_sheet(
        path,
        rows,
        f"Defects found in test cells by one model of {' and '.join(cells.counts)} cells. Flagged: "
        f"score below {detector.offset_:.2f}.\n"
        "Blue: below the threshold; yellow: from there on; red: far above. "
        "Images: elpv-dataset, CC BY-NC-SA 4.0",
    )
    return path


def _chosen_cells(cells, inspection, product):
    """Return a dict from cells to keys of `_TITLES`."""
    by_score = np.argsort(inspection.score, kind="stable")
    by_score = by_score[cells.test_product[by_score] == product]
    is_defect = cells.test_y[by_score] == -1
    detected = by_score[is_defect & inspection.is_anomaly[by_score]]
    normal = by_score[~is_defect]
    chosen = {int(i): "clear" for i in detected[:_N_CLEAREST]}
    for kind, candidates in (("median", detected), ("normal", normal)):
        if len(candidates):
            chosen.setdefault(int(candidates[len(candidates) // 2]), kind)
    return chosen


def _write_sheet(path, rows, title):
    n_columns = max(len(panels) for panels in rows.values())
    figure = Figure(figsize=(1.8 * n_columns + 0.4, 4.3 * len(rows) + 0.6), layout="constrained")
    figure.suptitle(title, fontsize=11)
    axes = figure.subplots(2 * len(rows), n_columns, squeeze=False)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[], frame_on=False)
    for row, (label, panels) in enumerate(rows.items()):
        above, below = axes[2 * row], axes[2 * row + 1]
        above[0].set_ylabel(label, fontsize=11)
        below[0].set_ylabel(f"{label}, heat map", fontsize=11)
        for column, panel in enumerate(panels):
            above[column].imshow(panel.pixels, cmap="gray", vmin=0, vmax=255)
            above[column].set_title(panel.title, fontsize=8)
            below[column].imshow(overlay(panel.pixels, panel.heat))
    with whole_file(path) as part:
        figure.savefig(part, format="png", dpi=110)
