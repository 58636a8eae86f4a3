"""The command `score`."""

import csv
import json
import os
import sys
from pathlib import Path

from tqdm import tqdm

from ..text import csv_cell, printable
from .arguments import (
    add_machine_options,
    add_product_option,
    add_scored_images,
    add_threshold_option,
    image_paths,
    load_detector,
    product_of,
)

UNREADABLE = 3  # exit status: some images could not be read
_COLUMNS = ("path", "class", "score", "p_value", "verdict")


def add_options(commands):
    """Add the command."""
    text = "Score images: class, score (higher = more normal), p-value, verdict."
    command = commands.add_parser("score", help=text, description=text)
    add_scored_images(command, "IMAGES")
    command.add_argument(
        "--maps",
        metavar="DIR",
        help="write a heat map of every image, as PNG, named by its path below the folder that "
        "all images share: blue below the threshold, yellow from there on, red far above",
    )
    command.add_argument(
        "--csv",
        metavar="FILE",
        help="write what is printed, in full precision; text that a spreadsheet would run, such as "
        "a path that begins with = or -, has an apostrophe in front",
    )
    command.add_argument(
        "--jsonl", metavar="FILE", help="write the same as JSON, one object a line, paths as given"
    )
    command.add_argument(
        "--strict",
        action="store_true",
        help="stop at the first image that cannot be read, with exit status 2 and without "
        "--csv and --jsonl (default: its row says error, the others are scored, exit status "
        f"{UNREADABLE})",
    )
    add_product_option(command)
    add_threshold_option(command, "for this run only; the model stays")
    add_machine_options(command)
    command.set_defaults(run=run)


def run(args):
    """Score images, print the table and write files; return the exit status."""
    from ..report.findings import inspect_files
    from ..scoring.thresholds import thresholds_text

    paths, folders = image_paths(args.images)
    check_places(args)
    targets = [None] * len(paths)
    if args.maps is not None:
        targets = map_places(args.maps, paths, folders)
    detector, _ = load_detector(args)
    label, records = product_of(detector, args), []
    findings = inspect_files(
        detector, paths, label, maps=args.maps is not None, skip_unreadable=not args.strict
    )
    print(*_COLUMNS, sep="\t")
    for finding, target in zip(findings, targets, strict=True):
        record = record_of(finding, target)
        show(record)
        if target is not None and record["error"] is None:
            write_map(target, finding, detector)
        records.append(record)
    if args.csv is not None:
        write_csv(args.csv, records[0], [record.values() for record in records])
    if args.jsonl is not None:
        write_jsonl(args.jsonl, records)
    verdicts = [record["verdict"] for record in records]
    n_unreadable = verdicts.count("error")
    print(
        f"{verdicts.count('anomaly')} of {len(records) - n_unreadable} images are anomalies (score "
        f"below {thresholds_text(detector.offset_, detector.class_offsets_)})",
        file=sys.stderr,
    )
    if n_unreadable:
        print(f"{n_unreadable} of {len(records)} images could not be read", file=sys.stderr)
        return UNREADABLE
    return 0


def check_places(args):
    """Raise ValueError if a file that options name cannot be written."""
    from ..storage.files import check_file_place

    for option in ("csv", "jsonl"):
        if getattr(args, option) is not None:
            check_file_place(getattr(args, option), f"--{option}")


def record_of(finding, target):
    """Return a row of the files as dict; `target` is the heat map's place, None = no maps."""
    from ..report.findings import Unreadable

    values = dict.fromkeys(_COLUMNS)
    values["error"] = None
    if isinstance(finding, Unreadable):
        values.update(path=finding.path, verdict="error", error=finding.error)
    else:
        values.update(zip(_COLUMNS, (*finding[:4], finding.verdict), strict=True))
    if target is not None:
        values["map"] = None if values["error"] else str(target)
    return values


def show(record):
    """Print a row of the table; of an unreadable image also why, on stderr."""
    cells = ["" if record[name] is None else record[name] for name in _COLUMNS]
    cells = [f"{cell:.4f}" if isinstance(cell, float) else printable(cell) for cell in cells]
    tqdm.write("\t".join(cells))
    if record["error"] is not None:
        tqdm.write(f"skhgad: error: {printable(record['error'])}", file=sys.stderr)


def write_map(target, finding, detector):
    """Write the heat map of a Finding."""
    from ..display.heat_maps import HeatScale, write_heat_map

    write_heat_map(
        target,
        finding.path,
        finding.anomaly_map,
        HeatScale.of(detector, finding.class_label),
        value_range=detector.model_.value_range,
    )


def map_places(folder, paths, image_folders):
    """Return the Path of each heat map: the image's path below the common folder + .png.

    The image's own ending is kept, so that images of one name have different maps. ValueError is
    raised if a map would replace an image, or be taken for one in `image_folders`.
    """
    from ..storage.files import check_folder_place

    check_folder_place(folder, "--maps")
    folder = Path(folder).resolve()
    for images in image_folders:
        if folder.is_relative_to(images.resolve()):
            raise ValueError(
                f"--maps {str(folder)!r} lies in the folder of images {str(images)!r}, whose next "
                "scoring would take the maps for images: choose a place outside."
            )
    absolute = [Path(path).absolute() for path in paths]
    common = os.path.commonpath([path.parent for path in absolute])
    places = [folder / f"{path.relative_to(common)}.png" for path in absolute]
    overwritten = {path.resolve() for path in absolute}.intersection(places)
    if overwritten:
        raise ValueError(
            f"--maps {str(folder)!r}: a heat map would replace the image "
            f"{str(min(overwritten))!r}; choose another folder."
        )
    return places


def write_csv(path, header, rows):
    """Write a table whole or not at all; no spreadsheet runs its cells, see `csv_cell`."""
    from ..storage.files import whole_file

    # File names may be no valid text; keep their bytes.
    with (
        whole_file(path) as part,
        open(part, "w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows([csv_cell(cell) for cell in row] for row in rows)


def write_jsonl(path, records):
    """Write a JSON object a line, whole or not at all."""
    from ..storage.files import whole_file

    with whole_file(path) as part:
        lines = [json.dumps(record) + "\n" for record in records]
        part.write_text("".join(lines), encoding="utf-8")
