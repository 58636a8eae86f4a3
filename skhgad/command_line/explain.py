"""The command `explain`."""

import json

from ..text import printable
from .arguments import (
    add_machine_options,
    add_product_option,
    add_roi_option,
    add_scored_images,
    add_threshold_option,
    image_paths,
    load_detector,
    product_of,
    scored_roi,
)
from .score_table import STDOUT, ReadableFindings

_MOST_REGIONS = 5  # that the text lists


def add_options(commands):
    """Add the command."""
    text = "Say of each picture where it is unusual, how much, and why."
    command = commands.add_parser(
        "explain",
        help=text,
        description=text,
        epilog="A level is one size of feature maps. With the default backbone, level 0 has fine "
        "maps and level 1 coarse ones, both of the picture at 256 pixels. Levels 2 and 3 are the "
        "same at 384 pixels; after fit --fast there are none.",
    )
    add_scored_images(command, "PICTURE")
    command.add_argument(
        "--json",
        metavar="FILE",
        help="write everything to a file, in full precision; - prints it in place of the text",
    )
    add_product_option(command)
    add_roi_option(command)
    add_threshold_option(command, "for this run only; the model stays")
    add_machine_options(command)
    command.set_defaults(run=run)


def run(args):
    """Explain pictures, print the text and write the file; return the exit status."""
    from ..report.findings import inspect_files
    from ..report.verdicts import verdict_record
    from ..storage.files import check_file_place, whole_file

    if args.json not in (None, STDOUT):
        check_file_place(args.json, "--json")
    paths, _ = image_paths(args.images)
    detector, _ = load_detector(args)
    records, roi = [], scored_roi(args, detector)
    label = product_of(detector, args)

    def keep(finding):
        records.append(verdict_record(finding, detector))

    readable = ReadableFindings(
        inspect_files(detector, paths, label, reasons=True, roi=roi, skip_unreadable=True), keep
    )
    for finding in readable:
        keep(finding)
        if args.json != STDOUT:
            print(explanation_text(finding.path, finding.explanation, records[-1]["threshold"]))
    text = json.dumps(records, indent=1)
    if args.json == STDOUT:
        print(text)
    elif args.json is not None:
        with whole_file(args.json) as part:
            part.write_text(text + "\n", encoding="utf-8")
    return readable.status()


def explanation_text(path, explanation, threshold):
    """Write an Explanation in plain words."""
    from ..report.verdicts import cause

    verdict = "an anomaly" if explanation.is_anomaly else "normal"
    side = "below" if explanation.is_anomaly else "not below"
    lines = [
        f"{printable(path)}: {verdict}, taken for the product {printable(explanation.class_label)}",
        f"  Its score {explanation.score:.4g} is {side} the threshold {threshold:.4g}. At "
        f"most about {100 * explanation.p_value:.3g} % of normal pictures of this product score as "
        "low.",
        f"  It {cause(explanation)}.",
        *_region_lines(explanation),
    ]
    return "\n".join(lines)


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
