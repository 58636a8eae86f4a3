"""The report as one HTML page, whose images are data URIs."""

import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from typing import NamedTuple

import numpy as np

from ..estimator import HGADDetector
from ..parameters import parameters_now
from ..scoring.certificate import CONFIDENCE, bound_text
from ..scoring.known_anomalies import known_anomalies_text
from ..scoring.thresholds import thresholds_text
from .densities import densities_of
from .evaluation import format_figure, results_table
from .template import filled_template

MARK = "<!doctype html><!-- report of skhgad -->"  # tells a report from other pages
_PACKAGES = ("skhgad", "torch", "timm", "scikit-learn", "numpy", "scipy", "Pillow", "matplotlib")
_LONGEST_VALUE = 80  # in characters


class Table(NamedTuple):
    """A table of text; `summary` is its foot."""

    header: Sequence[str]
    rows: Sequence[list[str]]
    summary: Sequence[list[str]] = ()


def render_page(detector, rows, *, source, model, figures, groups, pictures):
    """Return the page, a str.

    `source` and `model` are folders; `figures` are as from `Measurement.figures`, None without
    labels; `groups` as from `draw_groups`.
    """
    return MARK + filled_template(
        "page.html",
        ["page.css"],
        "page.js",
        source=source,
        model=model,
        facts=_facts(detector, rows, figures),
        classes=_class_table(rows) if figures is None else _results(figures),
        notes=[] if figures is None else figures["notes"],
        certificate=_certificate(detector),
        densities=_densities(detector),
        known_anomalies=_known_anomalies(detector),
        warnings=[] if figures is None else [found["text"] for found in figures["warnings"]],
        products=[(name, list(of_it)) for name, of_it in groupby(groups, lambda g: g.product)],
        pictures=pictures,
        card_choices=_choices([card.row for group in groups for card in group.images], "product"),
        row_choices=_choices(rows, "class"),
        is_labelled=rows[0].defect is not None,
        rows=sorted(rows, key=lambda row: row.score),
        parameters=_parameters(detector),
        versions=Table(["package", "version"], [[name, _version(name)] for name in _PACKAGES]),
        python=platform.python_version(),
    )


def _choices(rows, class_filter):
    """Return the values of each filter of images, by its name.

    `class_filter` is "product", or "class" for the class inferred.
    """
    choices = {
        class_filter: {
            row.product if class_filter == "product" else row.inferred_class for row in rows
        },
        "label": {row.defect for row in rows if row.defect is not None},
        "verdict": {row.verdict for row in rows},
    }
    return {name: sorted(values) for name, values in choices.items() if values}


def _facts(detector, rows, figures):
    n_flagged = sum(row.is_anomaly for row in rows)
    facts = {
        "images": str(len(rows)),
        "flagged": f"{n_flagged} ({n_flagged / len(rows):.0%})",
        "threshold of the score": thresholds_text(detector.offset_, detector.class_offsets_),
        "classes of the model": str(len(detector.classes_)),
    }
    if figures is not None:
        image, pixel = figures["image"], figures["pixel"]
        facts["labelled anomalies"] = str(figures["n_anomalies"])
        facts["image AUROC, pooled"] = format_figure(image.pooled.auroc, "–")
        facts["image AUROC, mean of classes"] = format_figure(image.mean.auroc, "–")
        if pixel is not None:
            facts["pixel AUROC, pooled"] = format_figure(pixel.pooled.auroc, "–")
            facts["AUPRO, pooled"] = format_figure(pixel.pooled.aupro, "–")
        facts["class inferred rightly"] = f"{figures['class_found']:.1%}"
    return facts


def _results(figures):
    columns, rows = results_table(figures)
    texts = [[row.name, *(format_figure(value, "–") for value in row.values)] for row in rows]
    n_classes = sum(not row.is_summary for row in rows)
    return Table(["class", *columns], texts[:n_classes], texts[n_classes:])


def _class_table(rows):
    classes = {}
    for row in rows:
        classes.setdefault(row.inferred_class, []).append(row)
    texts = []
    for name, members in sorted(classes.items()):
        n_flagged = sum(row.is_anomaly for row in members)
        median = np.median([row.score for row in members])
        texts.append([name, str(len(members)), str(n_flagged), f"{median:.3g}"])
    return Table(["class found", "images", "flagged", "median score"], texts)


def _certificate(detector):
    rows = [
        [str(found.class_label), str(found.n_normals), str(found.n_flagged), bound_text(found)]
        for found in detector.certificate(CONFIDENCE)
    ]
    bound = f"false alarms ({100 * CONFIDENCE:g} % confidence)"
    return Table(["class of the model", "calibrating normals", "of these flagged", bound], rows)


def _densities(detector):
    rows = [[str(label), *texts] for label, *texts in densities_of(detector)]
    return Table(["class of the model", "density of each level", "shrinkage"], rows)


def _known_anomalies(detector):
    """Return a sentence for each class of which known anomalies were given to fit."""
    found = detector.known_anomalies_ or []
    return [known_anomalies_text([verdict]) for verdict in found if verdict.n_anomalies]


def _parameters(detector):
    defaults = HGADDetector().get_params(deep=False)
    rows = []
    for name, value in parameters_now(detector).items():
        text, default = repr(value), repr(defaults[name])
        note = "" if text == default else f"default {default}"
        if len(text) > _LONGEST_VALUE:
            text = f"{text[: _LONGEST_VALUE - 3]}..."
        rows.append([name, text, note])
    return Table(["parameter", "value", ""], rows)


def _version(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return "–"
