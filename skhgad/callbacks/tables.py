"""What loggers write of a detector and of its fit, as plain data and as a table."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ..parameters import name_of
from ..scoring.certificate import bound_text
from ..text import markdown_cell, markdown_table

if TYPE_CHECKING:
    from .events import FitInfo

_LONGEST = 500  # characters of a parameter's value; older servers of MLflow refuse more


def parameter_texts(detector: Any) -> dict[str, str]:
    """Return the parameters of a detector as dict of str to str, without its callbacks."""
    parameters = detector.get_params(deep=False)
    return {name: _value_text(value) for name, value in parameters.items() if name != "callbacks"}


def _value_text(value: Any) -> str:
    text = str(name_of(value)) if callable(value) else str(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def figures(info: FitInfo) -> dict[str, float]:
    """Return the numbers of a fit as dict of str to float, none of them nan.

    Parameters
    ----------
    info : FitInfo

    Returns
    -------
    dict
    """
    return {
        "threshold": float(info.threshold),
        "fit_seconds": info.seconds,
        "n_products": float(len(info.n_normals)),
        "n_normals": float(sum(info.n_normals.values())),
        "n_held_out": float(sum(info.n_held_out.values())),
        "n_known_anomalies": float(info.n_anomalies),
        "highest_false_alarm_bound": max(found.bound for found in info.certificate),
    }


def products(info: FitInfo) -> list[dict[str, Any]]:
    """Return a dict for each product: its counts, its centers and its certificate.

    Parameters
    ----------
    info : FitInfo

    Returns
    -------
    list of dict
        Of values that JSON can express.
    """
    centers = info.n_components.max(axis=0).tolist()
    return [
        {
            "product": found.class_label,
            "n_normals": info.n_normals[found.class_label],
            "n_held_out": info.n_held_out[found.class_label],
            "n_centers": n_centers,
            "n_calibrating": found.n_normals,
            "n_flagged": found.n_flagged,
            "false_alarm_rate": found.rate if math.isfinite(found.rate) else None,
            "false_alarm_bound": found.bound,
        }
        for found, n_centers in zip(info.certificate, centers, strict=True)
    ]


def products_table(info: FitInfo) -> str:
    """Return what `products` says as a table in Markdown, a str."""
    head = ["product", "normals", "held out", "centers", "flagged", "false alarms (95 %)"]
    rows = [
        [
            markdown_cell(row["product"]),
            *(str(row[name]) for name in ("n_normals", "n_held_out", "n_centers")),
            f"{row['n_flagged']} of {row['n_calibrating']}",
            bound_text(found),
        ]
        for row, found in zip(products(info), info.certificate, strict=True)
    ]
    return markdown_table(head, rows)
