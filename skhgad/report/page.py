"""The report as HTML: escaped text and data URIs in a template that loads nothing."""

import base64
import hashlib
import math
import platform
from html import escape
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from string import Template
from typing import NamedTuple

import numpy as np

from ..estimator import HGADDetector

MARK = "<!doctype html><!-- report of skhgad -->"
_PACKAGES = ("skhgad", "torch", "timm", "scikit-learn", "numpy", "scipy", "Pillow", "matplotlib")


class Row(NamedTuple):
    """What the table says of one image."""

    path: str
    thumbnail: str  # data URI
    found_class: str
    true_class: str | None
    defect: str | None  # "good" for a normal image; None where nobody told
    score: float
    p_value: float
    is_anomaly: bool
    peak: tuple  # row, column
    n_regions: int
    area: float  # share of the image above the threshold

    @property
    def verdict(self):
        """In a word or two; with labels, whether it is right."""
        if self.defect is None or (self.defect == "good") != self.is_anomaly:
            return "anomaly" if self.is_anomaly else "normal"
        return "false alarm" if self.is_anomaly else "missed"


class Card(NamedTuple):
    """One of the most anomalous images."""

    row: Row
    picture: str  # data URI


def render_page(detector, rows, *, source, model, figures, cards, pictures):
    """Write the page.

    Parameters
    ----------
    detector : HGADDetector
        Fitted.
    rows : list of Row
    source, model : str
        Folders of the images and of the model.
    figures : dict or None
        As from `Measurement.figures`; None without labels.
    cards : list of Card
    pictures : dict of str to (str, str)
        Title to data URI and caption.

    Returns
    -------
    str
    """
    style, script = _part("css"), _part("js")
    return MARK + Template(_part("html")).substitute(
        policy=escape(_policy(style, script)),
        style=style,
        script=script,
        title=escape(f"skhgad: {source}"),
        source=escape(source),
        model=escape(model),
        facts=_facts(detector, rows, figures),
        classes=_class_table(rows) if figures is None else _figure_table(figures),
        cards="".join(map(_card, cards)),
        n_cards=len(cards),
        pictures="".join(_picture(title, *rest) for title, rest in pictures.items()),
        filters=_filters(rows),
        header=_header(rows),
        rows="".join(map(_row, sorted(rows, key=lambda row: row.score))),
        parameters=_parameters(detector),
        versions=_table(("package", "version"), [(name, _version(name)) for name in _PACKAGES]),
        python=escape(f"Python {platform.python_version()}"),
    )


def _part(ending):
    return files(__package__).joinpath(f"page.{ending}").read_text(encoding="utf-8")


def _policy(style, script):
    """Content security policy: this style and this script run, and nothing is loaded."""
    style, script = (
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for text in (style, script)
    )
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{style}'; "
        f"script-src 'sha256-{script}'; base-uri 'none'; form-action 'none'"
    )


def _facts(detector, rows, figures):
    n_flagged = sum(row.is_anomaly for row in rows)
    facts = {
        "images": str(len(rows)),
        "flagged": f"{n_flagged} ({n_flagged / len(rows):.0%})",
        "threshold of the score": f"{detector.offset_:.4g}",
        "classes of the model": str(len(detector.classes_)),
    }
    if figures is not None:
        image, pixel = figures["image"], figures["pixel"]
        facts["labelled anomalies"] = str(figures["n_anomalies"])
        facts["image AUROC, pooled"] = _figure(image.pooled.auroc)
        facts["image AUROC, mean of classes"] = _figure(image.mean.auroc)
        if pixel is not None:
            facts["pixel AUROC, pooled"] = _figure(pixel.pooled.auroc)
            facts["AUPRO, pooled"] = _figure(pixel.pooled.aupro)
        facts["class inferred rightly"] = f"{figures['class_found']:.1%}"
    return "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts.items())


def _figure_table(figures):
    """Figures per class, as `evaluate` prints them."""
    image, pixel = figures["image"], figures["pixel"]
    header = ["class", "AUROC", "AP", "F1-max", "false alarms", "misses"]
    if pixel is not None:
        header += ["pixel AUROC", "AUPRO"]
    lines = []
    for name in (*image.per_class, "mean", "pooled"):
        summary = name in ("mean", "pooled") and name not in image.per_class
        own = image[name] if summary else image.per_class[name]
        cells = [own.auroc, own.ap, own.f1_max, own.false_alarm_rate, own.miss_rate]
        if pixel is not None:
            own = pixel[name] if summary else pixel.per_class.get(name)
            cells += [math.nan, math.nan] if own is None else [own.auroc, own.aupro]
        lines.append((name, *map(_figure, cells)))
    return _table(header, lines)


def _class_table(rows):
    """Count the images of each class found, without labels."""
    found = np.array([row.found_class for row in rows])
    lines = []
    for name in np.unique(found):
        own = [row for row in rows if row.found_class == name]
        n_flagged = sum(row.is_anomaly for row in own)
        median = np.median([row.score for row in own])
        lines.append((name, str(len(own)), str(n_flagged), f"{median:.3g}"))
    return _table(("class found", "images", "flagged", "median score"), lines)


def _table(header, lines):
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in line) + "</tr>"
        for line in lines
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _figure(value):
    return "–" if math.isnan(value) else f"{value:.3f}"


def _card(card):
    row = card.row
    label = f", labelled {row.defect}" if row.defect is not None else ""
    text = (
        f"{row.found_class}{label}: {row.verdict}, score {row.score:.3g}, p = {row.p_value:.3g}, "
        f"{_regions(row.n_regions)}"
    )
    return (
        f'<figure><img src="{card.picture}" alt="image, anomaly map and outlines">'
        f"<figcaption><bdi>{escape(row.path)}</bdi><br>{escape(text)}</figcaption></figure>"
    )


def _regions(n):
    return f"{n} region{'' if n == 1 else 's'} above the threshold"


def _picture(title, picture, caption):
    return (
        f'<section><h2>{escape(title)}</h2><figure class="wide"><img src="{picture}" '
        f'alt="{escape(title)}"><figcaption>{escape(caption)}</figcaption></figure></section>'
    )


def _filters(rows):
    verdicts, classes = ({getattr(row, k) for row in rows} for k in ("verdict", "found_class"))
    return _choice("verdict", verdicts) + _choice("class", classes)


def _choice(name, values):
    options = "".join(f"<option>{escape(value)}</option>" for value in sorted(values))
    return (
        f'<label>{name} <select data-filter="{name}"><option value="">all</option>{options}'
        "</select></label>"
    )


def _header(rows):
    columns = [("image", "text"), ("class", "text"), ("label", "text"), ("score", "number"),
               ("p-value", "number"), ("verdict", "text"), ("peak (row, column)", "number"),
               ("regions", "number"), ("area, %", "number")]  # fmt: skip
    if rows[0].defect is None:
        columns.pop(2)
    cells = "".join(
        f'<th scope="col" data-kind="{kind}"'
        + (' aria-sort="ascending"' if name == "score" else "")
        + f'><button type="button">{name}</button></th>'
        for name, kind in columns
    )
    return f'<th scope="col"></th>{cells}'


def _row(row):
    found = escape(row.found_class)
    if row.true_class not in (None, row.found_class):
        found += f" <small>(is {escape(row.true_class)})</small>"
    label = "" if row.defect is None else f"<td>{escape(row.defect)}</td>"
    return (
        f'<tr data-class="{escape(row.found_class)}" data-verdict="{row.verdict}">'
        f'<td><img src="{row.thumbnail}" alt="" loading="lazy"></td>'
        f"<td><bdi>{escape(row.path)}</bdi></td><td>{found}</td>{label}"
        f"<td>{row.score:.4f}</td><td>{row.p_value:.4f}</td><td>{row.verdict}</td>"
        f"<td>{row.peak[0]}, {row.peak[1]}</td><td>{row.n_regions}</td>"
        f"<td>{100 * row.area:.2f}</td></tr>\n"
    )


def _parameters(detector):
    """Table of all parameters; those that are not the default are marked."""
    usual = HGADDetector().get_params(deep=False)
    lines = []
    for name, value in detector.get_params(deep=False).items():
        note = "" if repr(value) == repr(usual[name]) else f"default {usual[name]!r}"
        text = repr(value) if len(repr(value)) <= 80 else f"{repr(value)[:77]}..."
        lines.append((name, text, note))
    return _table(("parameter", "value", ""), lines)


def _version(name):
    if name == "skhgad":
        from .. import __version__

        return __version__
    try:
        return version(name)
    except PackageNotFoundError:
        return "–"
