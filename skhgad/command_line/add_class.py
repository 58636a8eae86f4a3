"""The command `add-class`."""

from pathlib import Path

from ..text import printable
from .arguments import (
    ChangedModel,
    add_groups_option,
    add_machine_options,
    add_out_option,
    add_roi_option,
    chosen_groups,
    chosen_roi,
    groups_text,
)


def add_options(commands):
    """Add the command."""
    text = "Teach a model one new product from its normal images; nothing is trained again."
    command = commands.add_parser("add-class", help=text, description=text)
    command.add_argument("model", metavar="MODEL", help="folder that fit wrote")
    command.add_argument(
        "folder",
        metavar="FOLDER",
        help="holds normal images of the product, or its train/good/<image>",
    )
    command.add_argument("--name", metavar="NAME", required=True, help="name of the new product")
    add_roi_option(
        command,
        "the model keeps it for the product; default: that of the fit, if all products share it",
    )
    add_groups_option(command)
    add_out_option(command)
    add_machine_options(command)
    command.set_defaults(run=run)


def run(args):
    """Add the product and save."""
    from ..report.findings import naming_files

    model = ChangedModel(args)
    detector = model.detector
    label = new_label(detector, args.name)
    roi = chosen_roi(args, [label])
    images = normal_images(args.folder)
    groups = chosen_groups(args, images, [label] * len(images))
    if groups is not None:
        print(groups_text(groups))
    with naming_files(images):
        detector.add_class(images, label, roi=roi, groups=groups)
    model.save()
    names = ", ".join(printable(name) for name in detector.classes_)
    print(
        f"{len(images)} normal images of {printable(args.name)}; the model knows {names}\n"
        f"model: {printable(Path(model.place).resolve())}"
    )


def normal_images(folder):
    """Return the paths of the normal images of a folder that holds one product."""
    from ..datasets.loaders import load_folder

    data = load_folder(folder, split="train")
    if len(data.classes) > 1:
        raise ValueError(
            f"{folder!r} holds {len(data.classes)} products, {data.classes.tolist()[:10]}: add one "
            "at a time, from its own folder."
        )
    n_anomalies = int((data.y == -1).sum())
    if n_anomalies:
        print(f"{n_anomalies} images of train/ are known anomalies, left out")
    return data.images[data.y == 1].tolist()


def new_label(detector, name):
    """Return the label of the new class, of the type of the others: str or int."""
    if not name.strip():
        raise ValueError("--name is empty: give the new product a name.")
    if detector.classes_.dtype.kind == "U":
        return name
    try:
        return int(name)
    except ValueError:
        raise ValueError(
            f"--name {name!r}: the classes of this model are whole numbers, "
            f"{detector.classes_.tolist()[:10]}; give one."
        ) from None
