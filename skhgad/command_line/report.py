"""The command `report`."""

import os
from pathlib import Path

from ..text import printable
from .arguments import (
    add_class_options,
    add_machine_options,
    add_roi_option,
    add_threshold_option,
    image_paths,
    load_detector,
    parse_count,
    scored_roi,
)
from .score_table import ReadableFindings

_NAME = "report.html"


def add_options(commands):
    """Add the command."""
    text = "Write what a model finds in a folder as one HTML page that needs no network."
    command = commands.add_parser("report", help=text, description=text)
    command.add_argument("model", metavar="MODEL", help="folder that fit wrote")
    command.add_argument(
        "folder",
        metavar="FOLDER",
        help="labelled test images, laid out as for evaluate; or any images, searched whole",
    )
    command.add_argument(
        "--out",
        metavar="DIR",
        required=True,
        help="folder for report.html, about 2 kB an image and 150 kB for each one of --top",
    )
    command.add_argument(
        "--top",
        type=parse_count,
        default=4,
        metavar="N",
        help="images of each product to show with heat maps: the most anomalous and, where "
        "there are labels, as many missed anomalies and false alarms; at most 100 (default: "
        "%(default)s)",
    )
    add_class_options(command)
    add_roi_option(command)
    add_threshold_option(command, "for this run only; the model stays")
    add_machine_options(command)
    command.set_defaults(run=run)


def run(args):
    """Inspect images and write the page; return the exit status."""
    from ..display.drawing import drawing_library
    from ..report.contents import collect, draw_groups, draw_pictures
    from ..report.evaluation import Measurement, figures_text, labelled_images
    from ..report.findings import inspect_files
    from ..report.page import MARK, render_page
    from ..scoring.thresholds import thresholds_text
    from ..storage.files import whole_file

    drawing_library("the report")
    check_report_place(args.out, args.folder, _NAME, MARK)
    detector, _ = load_detector(args)
    if is_labelled(args.folder):
        data = labelled_images(detector, args.folder, args.classes)
        paths, measurement = data.images.tolist(), Measurement.of(detector, data)
    elif args.classes is not None:
        raise ValueError(f"--classes: {args.folder!r} holds no <class>/test/ folders to choose of.")
    else:
        (paths, _), measurement = image_paths([args.folder]), None
    roi = scored_roi(args, detector)
    readable = ReadableFindings(
        inspect_files(detector, paths, maps=True, roi=roi, skip_unreadable=True)
    )
    rows, groups = collect(detector, readable.numbered(), args.folder, measurement, args.top, roi)
    if not rows:
        return readable.status()
    figures = y = None
    if measurement is not None:
        figures, y = measurement.figures(), measurement.y
        print(figures_text(figures, measurement.unmasked))
    page = render_page(
        detector,
        rows,
        source=args.folder,
        model=args.model,
        figures=figures,
        groups=draw_groups(groups, rows, detector),
        pictures=draw_pictures(detector, readable.paths, rows, y, roi),
    )
    target = Path(args.out) / _NAME
    target.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(target) as part:
        # File names may be no valid text.
        part.write_bytes(page.encode("utf-8", errors="backslashreplace"))
    n_flagged = sum(row.is_anomaly for row in rows)
    print(
        f"{n_flagged} of {len(rows)} images are anomalies (score below "
        f"{thresholds_text(detector.offset_, detector.class_offsets_)})\n"
        f"report: {printable(target.resolve())} ({target.stat().st_size / 1e6:.1f} MB)"
    )
    return readable.status()


def check_report_place(out, folder, name, mark):
    """Raise ValueError if the page `name` would lie among the images or replace a foreign file.

    `mark` is what the pages of skhgad of that name begin with.
    """
    from ..storage.files import check_folder_place

    check_folder_place(out, "--out")
    place, images = Path(out).resolve(), Path(folder).resolve()
    if place.is_relative_to(images):
        raise ValueError(
            f"--out {str(place)!r} lies in the folder of images {str(images)!r}: choose a place "
            "outside."
        )
    page = place / name
    if page.exists():
        with open(page, "rb") as file:
            if file.read(len(mark)) != mark.encode():
                raise ValueError(
                    f"--out: {str(page)!r} exists and is no {page.stem} of skhgad, so it will "
                    "not be replaced: choose another folder."
                )


def is_labelled(folder):
    """Return whether a folder has test/ or <class>/test/, or is a published data set."""
    from ..datasets.folders import entries
    from ..datasets.recognition import recognise

    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder at {str(folder)!r} (from {os.getcwd()!r}).")
    return (
        (folder / "test").is_dir()
        or any((child / "test").is_dir() for child in entries(folder)[0])
        or recognise(folder) is not None
    )
