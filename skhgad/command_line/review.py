"""The command `review`."""

from pathlib import Path

from ..text import printable
from .arguments import (
    add_machine_options,
    add_product_option,
    add_threshold_option,
    image_paths,
    load_detector,
    parse_positive,
    product_of,
)
from .score_table import ReadableFindings

_NAME = "review.html"


def add_options(commands):
    """Add the command."""
    text = "Write a page on which people decide which doubtful pictures are good or defects."
    command = commands.add_parser(
        "review",
        help=text,
        description=text,
        epilog="The page saves the decisions as CSV, which fit --decisions, update --decisions and "
        "skhgad.datasets.load_decisions read.",
    )
    command.add_argument("model", metavar="MODEL", help="folder that fit wrote")
    command.add_argument("folder", metavar="FOLDER", help="images, searched whole")
    command.add_argument("--out", metavar="DIR", required=True, help=f"folder for {_NAME}")
    command.add_argument(
        "--most",
        type=parse_positive,
        default=60,
        metavar="N",
        help="images to ask about, about 40 kB each: those nearest the threshold and the most "
        "unusual ones, in turn (default: %(default)s)",
    )
    add_product_option(command)
    add_threshold_option(command, "for this run only; the model stays")
    add_machine_options(command)
    command.set_defaults(run=run)


def run(args):
    """Score images and write the page; return the exit status."""
    from ..report.findings import inspect_files
    from ..report.review import MARK, ask, order_to_ask, render_review, thresholds_of
    from ..storage.files import whole_file
    from .report import check_report_place

    check_report_place(args.out, args.folder, _NAME, MARK)
    paths, _ = image_paths([args.folder])
    detector, _ = load_detector(args)
    label = product_of(detector, args)
    paths = [str(Path(path).absolute()) for path in paths]
    readable = ReadableFindings(inspect_files(detector, paths, label, skip_unreadable=True))
    findings = list(readable)
    if not findings:
        return readable.status()
    scores = [finding.score for finding in findings]
    chosen = order_to_ask(scores, thresholds_of(detector, findings), args.most)
    asked = [findings[index].path for index in chosen]
    questions = [
        ask(finding, detector)
        for finding in inspect_files(detector, asked, label, maps=True, reasons=True)
    ]
    page = render_review(
        questions,
        source=args.folder,
        model=args.model,
        products=[str(name) for name in detector.classes_],
        n_images=len(findings),
    )
    target = Path(args.out) / _NAME
    target.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(target) as part:
        # File names may be no valid text.
        part.write_bytes(page.encode("utf-8", errors="backslashreplace"))
    print(f"{len(questions)} of {len(findings)} images to decide on\npage: "
          f"{printable(target.resolve())} ({target.stat().st_size / 1e6:.1f} MB)")  # fmt: skip
    return readable.status()
