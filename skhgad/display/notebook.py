"""What a notebook shows of a fitted detector, below its parameters."""

from html import escape

from ..scoring.certificate import CONFIDENCE, bound_text, certify
from ..scoring.thresholds import offset_of, offsets_by_code
from ..text import printable

_MOST = 30  # products in the table


def fitted_html(detector):
    """Return products, thresholds and certificate of a fitted detector as HTML, a str."""
    offsets = offsets_by_code(detector.offset_, detector.class_offsets_, detector.classes_)
    certificates = certify(detector.model_, offsets, CONFIDENCE)
    header = (
        "product",
        "threshold",
        "calibrating normals",
        f"false alarms ({100 * CONFIDENCE:g} % confidence)",
    )
    rows = [
        (
            found.class_label,
            f"{offset_of(detector, found.class_label):.4g}",
            found.n_normals,
            bound_text(found),
        )
        for found in certificates[:_MOST]
    ]
    more = len(certificates) - len(rows)
    note = f"<p>and {more} more products</p>" if more else ""
    return (
        f"<table><caption>fitted on {len(certificates)} products; anomaly = score below the "
        f"threshold</caption><thead>{_row('th', header)}</thead>"
        f"<tbody>{''.join(_row('td', row) for row in rows)}</tbody></table>{note}"
    )


def _row(tag, cells):
    texts = (escape(printable(cell)) for cell in cells)
    return f"<tr>{''.join(f'<{tag}>{text}</{tag}>' for text in texts)}</tr>"
