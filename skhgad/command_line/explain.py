"""The command `explain`."""

import json

from ..text import printable
from .arguments import (
    add_machine_options,
    add_product_option,
    add_scored_images,
    add_threshold_option,
    image_paths,
    load_detector,
    product_of,
)

_CHUNK = 64  # images that are explained at once
_MOST_REGIONS = 5  # that the text lists


def add_options(commands):
    """Add the command."""
    text = "Say of each picture where it is unusual, how much, and why."
    command = commands.add_parser("explain", help=text, description=text)
    add_scored_images(command, "PICTURE")
    command.add_argument(
        "--json",
        metavar="FILE",
        help="write everything to a file, in full precision; - prints it in place of the text",
    )
    add_product_option(command)
    add_threshold_option(command, "for this run only; the model stays")
    add_machine_options(command)
    command.set_defaults(run=run)


def run(args):
    """Explain pictures, print the text and write the file."""
    from ..scoring.thresholds import offset_of
    from ..storage.files import check_file_place, whole_file

    if args.json not in (None, "-"):
        check_file_place(args.json, "--json")
    paths, _ = image_paths(args.images)
    detector, _ = load_detector(args)
    records = []
    for path, explanation in explanations(detector, paths, product_of(detector, args)):
        threshold = offset_of(detector, explanation.class_label)
        records.append(explanation_record(path, explanation, threshold))
        if args.json != "-":
            print(explanation_text(path, explanation, threshold))
    if args.json is None:
        return
    text = json.dumps(records, indent=1)
    if args.json == "-":
        print(text)
        return
    with whole_file(args.json) as part:
        part.write_text(text + "\n", encoding="utf-8")


def explanations(detector, paths, label=None):
    """Yield each path and its Explanation; `label` is the class of all, None = inferred."""
    from ..report.findings import naming_files

    for first in range(0, len(paths), _CHUNK):
        chunk = paths[first : first + _CHUNK]
        labels = None if label is None else [label] * len(chunk)
        with naming_files(chunk):
            found = detector.explain(chunk, class_labels=labels)
        yield from zip(chunk, found, strict=True)


def explanation_record(path, explanation, threshold):
    """Return what is known of a picture as a dict for JSON."""
    return {
        "path": path,
        "class": explanation.class_label,
        "score": explanation.score,
        "threshold": threshold,
        "p_value": explanation.p_value,
        "verdict": "anomaly" if explanation.is_anomaly else "normal",
        "peak": explanation.peak,
        "peak_position": explanation.peak_position,
        "area": explanation.area,
        "regions": [region.to_dict() for region in explanation.regions],
        "level": explanation.level,
        "term": explanation.term,
    }


def explanation_text(path, explanation, threshold):
    """Write an Explanation in plain words."""
    verdict = "an anomaly" if explanation.is_anomaly else "normal"
    side = "below" if explanation.is_anomaly else "not below"
    row, column = explanation.peak_position
    lines = [
        f"{printable(path)}: {verdict}, taken for the product {printable(explanation.class_label)}",
        f"  Its score {explanation.score:.4g} is {side} the threshold {threshold:.4g}. About "
        f"{100 * explanation.p_value:.3g} % of normal pictures of this product score as low.",
        f"  It is most unusual at row {row}, column {column}, where "
        f"{_reason(explanation.level, explanation.term)}.",
        *_region_lines(explanation),
    ]
    return "\n".join(lines)


def _reason(level, term):
    if term == "entropy":
        return "it is unclear which product this is"
    return f"features of level {level} are unlikely for this product"


def _region_lines(explanation):
    regions = explanation.regions
    if not regions:
        return ["  No region lies above the threshold."]
    noun = "1 region lies" if len(regions) == 1 else f"{len(regions)} regions lie"
    lines = [f"  {noun} above the threshold, {explanation.area:.1%} of the picture:"]
    for region in regions[:_MOST_REGIONS]:
        top, left, bottom, right = region.box
        lines.append(
            f"    rows {top} to {bottom - 1}, columns {left} to {right - 1}: {region.area} pixels, "
            f"anomaly score up to {region.peak:.4g}"
        )
    if len(regions) > _MOST_REGIONS:
        lines.append(f"    and {len(regions) - _MOST_REGIONS} with lower scores")
    return lines
