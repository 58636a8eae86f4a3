"""The command `score`."""

import json
import os
import sys
from pathlib import Path

from . import score_many
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
from .score_table import (
    ANOMALIES,
    COLUMNS,
    STDOUT,
    UNREADABLE,
    is_table_printed,
    say_how_many,
    show,
    status_of,
    write_csv,
)


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
        "--masks",
        metavar="DIR",
        help="write a mask of every image, as PNG, white where its anomaly map is above the "
        "threshold, named as the maps are",
    )
    command.add_argument(
        "--sheet",
        metavar="FILE",
        help="write the flagged images as one picture (.png, .jpg or .webp), the most anomalous "
        "first, at most 200",
    )
    command.add_argument(
        "--csv",
        metavar="FILE",
        help="write what is printed, in full precision; text that a spreadsheet would run, such as "
        "a path that begins with = or -, has an apostrophe in front; - prints it in place of the "
        "table",
    )
    command.add_argument(
        "--jsonl",
        metavar="FILE",
        help="write more as JSON, one object a line: also the threshold, the reason in a sentence, "
        "and the boxes and areas of the regions above the threshold; paths as given; - prints it "
        "in place of the table",
    )
    command.add_argument(
        "--fail-on-anomaly",
        action="store_true",
        help=f"exit status {ANOMALIES} if an image is an anomaly (default: 0)",
    )
    command.add_argument(
        "--strict",
        action="store_true",
        help="stop at the first image that cannot be read, with exit status 2 and without "
        "--csv and --jsonl (default: its row says error, the others are scored, exit status "
        f"{UNREADABLE})",
    )
    add_product_option(command)
    add_roi_option(command)
    add_threshold_option(command, "for this run only; the model stays")
    add_machine_options(command)
    score_many.add_backend_options(command)
    command.set_defaults(run=run)


def run(args):
    """Score images, print the table and write files; return the exit status."""
    from ..report.findings import inspect_files

    score_many.check_backend_options(args)
    paths, folders = image_paths(args.images)
    check_places(args, paths, folders)
    if args.backend is not None:
        return score_many.run(args, paths)
    maps = places_of(args.maps, "--maps", ".png", paths, folders)
    masks = places_of(args.masks, "--masks", "_mask.png", paths, folders)
    detector, _ = load_detector(args)
    outputs = Outputs(args, detector)
    findings = inspect_files(
        detector,
        paths,
        product_of(detector, args),
        maps=args.maps is not None or args.masks is not None,
        reasons=outputs.need_reasons,
        skip_unreadable=not args.strict,
        roi=scored_roi(args, detector),
    )
    if is_table_printed(args):
        print(*COLUMNS, sep="\t")
    for finding, map_place, mask_place in zip(findings, maps, masks, strict=True):
        outputs.add(finding, map_place, mask_place)
    outputs.write()
    return outputs.status()


class Outputs:
    """What a run writes: the table, heat maps and masks at once, files at its end."""

    def __init__(self, args, detector):
        from ..report.sheet import ContactSheet

        self.args = args
        self.detector = detector
        self.rows = []  # of the CSV file
        self.records = []  # of the JSON file
        self.sheet = None
        if args.sheet is not None:
            self.sheet = ContactSheet(detector.model_.value_range)

    @property
    def need_reasons(self):
        """Whether findings need an explanation."""
        return self.args.jsonl is not None or self.sheet is not None

    def add(self, finding, map_place, mask_place):
        """Print the row of a finding, write its pictures and keep the rest."""
        row = record_of(finding, map_place, mask_place)
        show(row, with_row=is_table_printed(self.args))
        self.rows.append(row)
        is_readable = row["error"] is None
        if map_place is not None and is_readable:
            write_map(map_place, finding, self.detector)
        if mask_place is not None and is_readable:
            write_mask(mask_place, finding, self.detector)
        if self.need_reasons:
            from ..report.verdicts import verdict_record

            record = verdict_record(finding, self.detector)
            record.update((name, row[name]) for name in ("map", "mask") if name in row)
            self.records.append(record)
            if self.sheet is not None:
                self.sheet.offer(record)

    def write(self):
        """Write the files that were asked for, and a summary to stderr."""
        if self.args.csv is not None:
            write_csv(self.args.csv, self.rows[0], [row.values() for row in self.rows])
        if self.args.jsonl is not None:
            write_jsonl(self.args.jsonl, self.records)
        say_how_many(self.rows, self.detector)
        if self.sheet is not None:
            n_shown = self.sheet.write(self.args.sheet)
            of_all = "" if n_shown == self.sheet.n_flagged else f" of {self.sheet.n_flagged}"
            print(f"sheet: {n_shown}{of_all} flagged images", file=sys.stderr)

    def status(self):
        """Return the exit status."""
        return status_of(self.rows, self.args)


def check_places(args, paths, folders):
    """Raise ValueError if a file that options name cannot be written, or would replace another."""
    from ..report.sheet import check_sheet_name
    from ..storage.files import check_file_place

    given = {name: getattr(args, name) for name in ("csv", "jsonl", "sheet")}
    given = {f"--{name}": place for name, place in given.items() if place is not None}
    if args.sheet is not None:
        check_sheet_name(args.sheet, "--sheet")
    taken = {os.path.realpath(path): "is an image to score" for path in paths}
    for option, place in given.items():
        if place == STDOUT and option != "--sheet":
            real = STDOUT
        else:
            check_file_place(place, option, is_image=option == "--sheet")
            real = os.path.realpath(place)
        if real in taken:
            raise ValueError(f"{option} {place!r} {taken[real]}: choose another name.")
        if os.path.isfile(real) or not os.path.exists(real):
            taken[real] = f"is what {option} writes to"
    for folder in folders if args.sheet is not None else ():
        if Path(os.path.realpath(args.sheet)).is_relative_to(folder.resolve()):
            raise ValueError(
                f"--sheet {args.sheet!r} lies in the folder of images {str(folder)!r}, whose next "
                "scoring would take it for one: choose a place outside."
            )


def record_of(finding, map_place=None, mask_place=None):
    """Return a row of the table as dict; the places of heat map and mask are None without them."""
    from ..report.findings import Unreadable

    values = dict.fromkeys(COLUMNS)
    values["error"] = None
    if isinstance(finding, Unreadable):
        values.update(path=finding.path, verdict="error", error=finding.error)
    else:
        values.update(zip(COLUMNS, (*finding[:4], finding.verdict), strict=True))
    for name, place in (("map", map_place), ("mask", mask_place)):
        if place is not None:
            values[name] = None if values["error"] else str(place)
    return values


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


def write_mask(target, finding, detector):
    """Write where the map of a Finding is above the threshold, as a white-on-black PNG."""
    import numpy as np
    from PIL import Image

    from ..scoring.thresholds import offset_of
    from ..storage.files import whole_file

    mask = finding.anomaly_map > -offset_of(detector, finding.class_label)
    target.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(target) as part:
        Image.fromarray(np.uint8(255) * mask).save(part, format="PNG")


def places_of(folder, option, ending, paths, image_folders):
    """Return the Path of the heat map or mask of each image; None of each if `folder` is None.

    It is the image's path below the common folder + `ending`. The image's own ending is kept, so
    that images of one name have different maps. Names too long for a file are shortened.
    ValueError, which names the option, is raised if a map would replace an image, or be taken for
    one in `image_folders`.
    """
    from ..storage.files import check_folder_place, short_name

    if folder is None:
        return [None] * len(paths)
    check_folder_place(folder, option)
    what = {"--maps": "heat map", "--masks": "mask"}[option]
    folder = Path(folder).resolve()
    for images in image_folders:
        if folder.is_relative_to(images.resolve()):
            raise ValueError(
                f"{option} {str(folder)!r} lies in the folder of images {str(images)!r}, whose "
                f"next scoring would take each {what} for an image: choose a place outside."
            )
    absolute = [Path(os.path.abspath(path)) for path in paths]  # ".." would lead out of `folder`
    common = os.path.commonpath([path.parent for path in absolute])
    places = [
        folder / path.relative_to(common).with_name(short_name(path.name, ending))
        for path in absolute
    ]
    # Not Path.resolve, for which a link that leads to itself is a RuntimeError.
    overwritten = {Path(os.path.realpath(path)) for path in absolute}.intersection(places)
    if overwritten:
        raise ValueError(
            f"{option} {str(folder)!r}: a {what} would replace the image "
            f"{str(min(overwritten))!r}; choose another folder."
        )
    return places


def write_jsonl(path, records):
    """Write a JSON object a line, whole or not at all."""
    from ..storage.files import whole_file

    text = "".join(json.dumps(record) + "\n" for record in records)
    if path == STDOUT:
        print(text, end="")
        return
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")
