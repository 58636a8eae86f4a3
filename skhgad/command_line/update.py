"""The command `update`."""

from pathlib import Path

from ..text import printable
from .add_class import normal_images
from .arguments import (
    ChangedModel,
    add_groups_option,
    add_machine_options,
    add_out_option,
    add_roi_option,
    chosen_groups,
    chosen_roi,
    groups_text,
    known_class,
)

_HINT = " The command add-class takes new ones."


def add_options(commands):
    """Add the command."""
    text = (
        "Teach a model more normal images of a product it knows, confirmed false alarms among "
        "them, and show what changed; the old images are not needed."
    )
    command = commands.add_parser("update", help=text, description=text)
    command.add_argument("model", metavar="MODEL", help="folder that fit wrote")
    command.add_argument(
        "folder",
        metavar="FOLDER",
        nargs="?",
        help="holds normal images of one product, or its train/good/<image>",
    )
    command.add_argument(
        "--class",
        dest="name",
        metavar="NAME",
        help="the product of FOLDER (default: the only one of the model)",
    )
    command.add_argument(
        "--decisions",
        nargs="+",
        metavar="FILE",
        help="in place of FOLDER: CSV files that the page of review saved. The good images are "
        "learnt as normal ones of their products; the defects are left out, and fit --decisions "
        "learns them",
    )
    add_roi_option(command, "of these images; default: that of the fit, which the model keeps")
    add_groups_option(command)
    add_out_option(command)
    add_machine_options(command)
    command.set_defaults(run=run)


def run(args):
    """Update the product and save."""
    from ..report.findings import naming_files
    from ..scoring.changes import changes_text

    if (args.folder is None) == (args.decisions is None):
        raise ValueError("give either FOLDER or --decisions: normal images to learn.")
    model = ChangedModel(args)
    detector = model.detector
    roi = chosen_roi(args, detector.classes_.tolist())
    learnt = _of_folder if args.decisions is None else _decided
    images, labels = learnt(args, detector)
    groups = chosen_groups(args, images, labels)
    if groups is not None:
        print(groups_text(groups))
    with naming_files(images):
        changes = detector.update(images, labels, roi=roi, groups=groups, return_changes=True)
    model.save()
    counts = ", ".join(
        f"{labels.count(n)} normal images of {printable(n)}" for n in dict.fromkeys(labels)
    )
    print(f"{counts}\n{changes_text(changes)}\nmodel: {printable(Path(model.place).resolve())}")


def _of_folder(args, detector):
    """Return the images of FOLDER and, of each, the label that ``--class`` names."""
    label = known_label(detector, args.name, "--class", _HINT)
    images = normal_images(args.folder)
    return images, [label] * len(images)


def _decided(args, detector):
    """Return the images that people found good, and their labels; say how many are defects."""
    from ..datasets.decisions import load_decisions

    if args.name is not None:
        raise ValueError(
            "--class names the product of FOLDER: with --decisions, each line names its own."
        )
    data = load_decisions(args.decisions)
    good = data.y == 1
    names = data.class_label[good].tolist()
    labels = [known_label(detector, name, "--decisions:", _HINT) for name in names]
    if not labels:
        raise ValueError("--decisions: no image is good, and update learns normal images alone.")
    n_defects = int((~good).sum())
    if n_defects:
        are = "image is a defect" if n_defects == 1 else "images are defects"
        print(f"{n_defects} {are}, left out")
    return data.images[good].tolist(), labels


def known_label(detector, name, option, hint=""):
    """Return the label of a class given as text; without a name, that of the only class.

    ValueError of an unknown one ends with `hint`.
    """
    labels = detector.classes_.tolist()
    names = ", ".join(map(printable, labels))
    if name is None:
        if len(labels) > 1:
            raise ValueError(f"{option} is missing: the model knows {names}.")
        return labels[0]
    try:
        return known_class(detector, name, option)
    except ValueError:
        raise ValueError(
            f"{option} {name!r} is no product of this model, which knows {names}.{hint}"
        ) from None
