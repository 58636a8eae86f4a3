"""The demo's picture: cells beside their heat maps. The one module that needs matplotlib."""

from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from ..display.heat_maps import overlay
from ..storage.files import whole_file


class Panel(NamedTuple):
    """One sample of the sheet."""

    pixels: np.ndarray  # (height, width), uint8
    heat: np.ndarray  # (height, width), in [0, 1]
    title: str


def write_sheet(path, rows, title):
    """Draw panels in rows, each panel the image above the image with its heat map, as PNG.

    Parameters
    ----------
    path : str or path
    rows : dict of str to list of Panel
        Panels by the label of their row.
    title : str
    """
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
