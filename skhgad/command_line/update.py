"""The command `update`."""

from pathlib import Path

from ..text import printable
from .add_class import normal_images
from .arguments import (
    ChangedModel,
    add_machine_options,
    add_out_option,
    add_roi_option,
    chosen_roi,
    known_class,
)


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
        help="holds normal images of the product, or its train/good/<image>",
    )
    command.add_argument(
        "--class",
        dest="name",
        metavar="NAME",
        help="the product (default: the only one of the model)",
    )
    add_roi_option(command, "of these images; default: that of the fit, which the model keeps")
    add_out_option(command)
    add_machine_options(command)
    command.set_defaults(run=run)


def run(args):
    """Update the product and save."""
    from ..report.findings import naming_files
    from ..scoring.changes import changes_text

    model = ChangedModel(args)
    detector = model.detector
    label = known_label(detector, args.name, "--class", " The command add-class takes new ones.")
    roi = chosen_roi(args, detector.classes_.tolist())
    images = normal_images(args.folder)
    with naming_files(images):
        changes = detector.update(images, label, roi=roi, return_changes=True)
    model.save()
    print(
        f"{len(images)} normal images of {printable(label)}\n{changes_text(changes)}\n"
        f"model: {printable(Path(model.place).resolve())}"
    )


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
