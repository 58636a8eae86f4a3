"""The command `forget`."""

from pathlib import Path

from ..text import printable
from .arguments import (
    ChangedModel,
    add_machine_options,
    add_out_option,
)
from .update import known_label


def add_options(commands):
    """Add the command."""
    text = "Remove products from a model, with all that it knows of them."
    command = commands.add_parser("forget", help=text, description=text)
    command.add_argument("model", metavar="MODEL", help="folder that fit wrote")
    command.add_argument("names", metavar="NAME", nargs="+", help="a product to remove")
    add_out_option(command)
    add_machine_options(command)
    command.set_defaults(run=run)


def run(args):
    """Remove the products and save."""
    from ..scoring.changes import changes_text

    model = ChangedModel(args)
    detector = model.detector
    labels = [known_label(detector, name, "NAME") for name in args.names]
    changes = detector.forget(labels, return_changes=True)
    model.save()
    print(f"{changes_text(changes)}\nmodel: {printable(Path(model.place).resolve())}")
