"""The command `score`."""

import csv
import os
import sys
from pathlib import Path

from tqdm import tqdm

from .arguments import add_machine_options, image_paths, known_class, load_detector

_COLUMNS = ("path", "class", "score", "p_value", "verdict")


def add_options(commands):
    """Add the command."""
    text = "Score images: class, score (higher = more normal), p-value, verdict."
    command = commands.add_parser("score", help=text, description=text)
    command.add_argument("model", metavar="MODEL", help="folder that fit wrote")
    command.add_argument(
        "images", metavar="IMAGES", nargs="+", help="files, or folders searched whole"
    )
    command.add_argument(
        "--maps",
        metavar="DIR",
        help="write a heat map of every image, as PNG, named by its path below the folder that "
        "all images share: blue below the threshold, yellow from there on, red far above",
    )
    command.add_argument("--csv", metavar="FILE", help="write what is printed, in full precision")
    command.add_argument(
        "--class",
        dest="class_name",
        metavar="NAME",
        help="product class of all images (default: inferred)",
    )
    add_machine_options(command)
    command.set_defaults(run=run)


def run(args):
    """Score images, print the table and write files."""
    from ..display.heat_maps import HeatScale, write_heat_map
    from ..report.findings import inspect_files
    from ..storage.files import check_file_place

    paths, folders = image_paths(args.images)
    if args.csv is not None:
        check_file_place(args.csv, "--csv")
    targets = None if args.maps is None else map_places(args.maps, paths, folders)
    detector = load_detector(args)
    label = None if args.class_name is None else known_class(detector, args.class_name)
    scale, rows, n_anomalies = HeatScale.of(detector), [], 0
    print(*_COLUMNS, sep="\t")
    findings = inspect_files(detector, paths, label, maps=targets is not None)
    for index, finding in enumerate(findings):
        tqdm.write(
            f"{finding.path}\t{finding.class_label}\t{finding.score:.4f}\t{finding.p_value:.4f}\t"
            f"{finding.verdict}"
        )
        rows.append((*finding[:4], finding.verdict))
        n_anomalies += finding.is_anomaly
        if targets is not None:
            write_heat_map(
                targets[index],
                finding.path,
                finding.anomaly_map,
                scale,
                value_range=detector.model_.value_range,
            )
            rows[-1] += (str(targets[index]),)
    if args.csv is not None:
        write_csv(args.csv, (*_COLUMNS, "map")[: len(rows[0])], rows)
    print(
        f"{n_anomalies} of {len(rows)} images are anomalies (score below {detector.offset_:.4g})",
        file=sys.stderr,
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
    """Write a table whole or not at all."""
    from ..storage.files import whole_file

    # File names may be no valid text; keep their bytes.
    with (
        whole_file(path) as part,
        open(part, "w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
