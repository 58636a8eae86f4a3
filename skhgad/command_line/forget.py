"""The command `forget`."""

from pathlib import Path

from ..text import printable
from .arguments import add_machine_options, load_detector
from .update import known_label


def add_options(commands):
    """Add the command."""
    text = "Remove products from a model, with all that it knows of them."
    command = commands.add_parser("forget", help=text, description=text)
    command.add_argument("model", metavar="MODEL", help="folder that fit wrote")
    command.add_argument("names", metavar="NAME", nargs="+", help="a product to remove")
    command.add_argument(
        "--out", metavar="MODEL2", help="folder of the new model (default: MODEL is replaced)"
    )
    add_machine_options(command)
    command.set_defaults(run=run)


def run(args):
    """Remove the products and save."""
    from ..scoring.changes import changes_text
    from ..storage.model_folder import check_model_place

    out = args.model if args.out is None else args.out
    check_model_place(out, "--out")
    detector, of_fit = load_detector(args)
    labels = [known_label(detector, name, "NAME") for name in args.names]
    changes = detector.forget(labels, return_changes=True)
    detector.set_params(**of_fit).save(out)
    print(f"{changes_text(changes)}\nmodel: {printable(Path(out).resolve())}")
