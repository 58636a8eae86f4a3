"""The command `evaluate`."""

import json

from .arguments import (
    add_class_options,
    add_machine_options,
    add_roi_option,
    add_threshold_option,
    load_detector,
    scored_roi,
)
from .score_table import STDOUT, ReadableFindings


def add_options(commands):
    """Add the command."""
    text = "Measure a model on the labelled test images of a folder."
    command = commands.add_parser("evaluate", help=text, description=text)
    command.add_argument("model", metavar="MODEL", help="folder that fit wrote")
    command.add_argument(
        "folder",
        metavar="FOLDER",
        help="holds <class>/test/good/<image>, <class>/test/<defect>/<image> and, for pixel "
        "figures, <class>/ground_truth/<defect>/<image>_mask.png; or a published data set that "
        "load_folder reads",
    )
    add_class_options(command)
    command.add_argument(
        "--json",
        metavar="FILE",
        help="write all figures to a file; - prints it in place of the table",
    )
    add_roi_option(command)
    add_threshold_option(command, "for this run only; the model stays")
    add_machine_options(command)
    command.set_defaults(run=run)


def run(args):
    """Inspect test images and print the figures; return the exit status."""
    from ..report.evaluation import Measurement, figures_text, labelled_images, without_nan
    from ..report.findings import inspect_files
    from ..storage.files import check_file_place, whole_file

    if args.json not in (None, STDOUT):
        check_file_place(args.json, "--json")
    detector, _ = load_detector(args)
    data = labelled_images(detector, args.folder, args.classes)
    measurement = Measurement.of(detector, data)
    roi = scored_roi(args, detector)
    readable = ReadableFindings(
        inspect_files(
            detector,
            data.images.tolist(),
            maps=bool(measurement.masked),
            roi=roi,
            skip_unreadable=True,
        )
    )
    for number, finding in readable.numbered():
        measurement.update(number, finding)
    if not readable.paths:
        return readable.status()
    figures = measurement.figures()
    text = json.dumps(without_nan(figures), indent=1)
    print(text if args.json == STDOUT else figures_text(figures, measurement.unmasked))
    if args.json not in (None, STDOUT):
        with whole_file(args.json) as part:
            part.write_text(text + "\n", encoding="utf-8")
    return readable.status()
