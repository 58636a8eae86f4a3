"""What the displays share."""

import numpy as np

from ..text import printable
from ..version import needing

# Okabe and Ito's palette for the colour-blind, with brown for yellow, which is faint on white.
# 8 colours and 7 markers make 56 different pairs.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#8C564B")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_GOLDEN_RATIO = 0.6180339887498949


def drawing_library(caller):
    """Import matplotlib; ImportError says that `caller` needs it and how to install it."""
    with needing(caller, "matplotlib", "display", "matplotlib"):
        import matplotlib
    return matplotlib


def new_axes(caller, size, n_rows=1, n_columns=1):
    """Create a figure of `size` inches; return Axes, or an array of several."""
    drawing_library(caller)
    from matplotlib import pyplot

    return pyplot.subplots(n_rows, n_columns, figsize=size, layout="compressed")[1]


def drawn_name(label):
    """Return the name of a class as matplotlib draws it as it is: ``$`` begins no formula."""
    return printable(label).replace("$", r"\$")


def class_styles(n_classes):
    """Return `color` and `marker` of each class; up to 56 differ."""
    return [
        {"color": _COLORS[i % len(_COLORS)], "marker": _MARKERS[i % len(_MARKERS)]}
        for i in range(n_classes)
    ]


def draw_lane(ax, values, rows, width, style, label):
    """Draw points in their rows, spread over `width`.

    The spread is not random: a picture drawn twice is the same.
    """
    spread = (np.arange(len(values)) * _GOLDEN_RATIO % 1 - 0.5) * width
    return ax.scatter(
        values, rows + spread, s=13, alpha=0.6, linewidths=0, label=label, zorder=2,
        color=style["color"], marker=style["marker"],
    )  # fmt: skip


def symlog_ticks(linear, largest):
    """Return ascending ticks for values up to ±`largest`; the axis is linear up to ±`linear`.

    Examples
    --------
    >>> symlog_ticks(4.63, 300)
    [-100.0, -20.0, -5.0, 0.0, 5.0, 20.0, 100.0]
    """
    end = float(f"{linear:.0e}")
    decade = int(np.floor(np.log10(end)))
    series = [m * 10.0**k for k in range(decade, decade + 20) for m in (1, 2, 5)]
    positive, largest = [end], max(largest, 2 * end)
    n_decades = np.log10(largest / end)
    # Ticks differ by a factor of at least 2 and a third of the decades shown.
    for tick in series:
        if positive[-1] * max(2.0, 10 ** (n_decades / 3)) <= tick <= largest:
            positive.append(tick)
    return [*(-tick for tick in reversed(positive)), 0.0, *positive]


def draw_outlines(places, anomaly_map, threshold, mask, roi=None, like_known=None):
    """Draw the threshold's outline in all Axes, those of masks in the last, and a legend.

    The map and the masks (of the defect, of the region of interest, of what is like known
    anomalies; bool, or None) have shape (height, width). Returns two lists of QuadContourSet, of
    threshold and defect, empty without an outline. A map of one row or column has none.
    """
    contours, mask_contours, entries = [], [], []
    if min(anomaly_map.shape) < 2:  # matplotlib draws contours between four pixels
        return contours, mask_contours
    if threshold is not None and anomaly_map.min() < threshold < anomaly_map.max():
        contours = [_outline(ax, anomaly_map, threshold, "white", "solid") for ax in places]
        entries.append(_legend_entry("threshold", "white", "solid"))
    for found, label, color, style in (
        (mask, "true defect", "#56B4E9", "dashed"),
        (roi, "region of interest", "#009E73", "dotted"),
        (like_known, "like known anomalies", "#E69F00", "dashdot"),
    ):
        if found is None or not found.any() or found.all():
            continue
        contour = _outline(places[-1], found.astype(float), 0.5, color, style)
        entries.append(_legend_entry(label, color, style))
        if found is mask:
            mask_contours.append(contour)
    if entries:
        places[-1].legend(
            handles=entries, loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=2, frameon=False
        )
    return contours, mask_contours


def _outline(ax, values, level, color, linestyle):
    """Draw a contour on a wider black one, to show on any image."""
    ax.contour(values, levels=[level], colors="black", linewidths=3, alpha=0.7)
    return ax.contour(values, levels=[level], colors=color, linestyles=linestyle, linewidths=1.4)


def _legend_entry(label, color, linestyle):
    from matplotlib.lines import Line2D
    from matplotlib.patheffects import withStroke

    halo = [withStroke(linewidth=3, foreground="black")]
    return Line2D([], [], color=color, linestyle=linestyle, path_effects=halo, label=label)
