"""The command `validate`."""

from .arguments import add_machine_options, image_paths, load_detector

DIFFERS = 1  # exit status


def add_options(commands):
    """Add the command."""
    text = "Compare an exported ONNX file with its model on your own images."
    command = commands.add_parser(
        "validate",
        help=text,
        description=text,
        epilog=f"Exit status {DIFFERS} if they differ. The package onnxruntime must be installed.",
    )
    command.add_argument("model", metavar="MODEL", help="folder that fit wrote")
    command.add_argument("file", metavar="FILE.onnx", help="file that export wrote")
    command.add_argument("images", metavar="IMAGES", nargs="+", help="files, or folders")
    add_machine_options(command)
    command.set_defaults(run=run)


def run(args):
    """Compare and print; return the exit status."""
    from ..report.export_check import check_same_model, compare, comparison_text, open_session

    paths, _ = image_paths(args.images)
    detector, _ = load_detector(args)
    detector.model_.require_images("validate")
    session = open_session(args.file)
    check_same_model(session, detector)
    found = compare(session, detector, paths)
    print(comparison_text(found))
    return 0 if found.agrees else DIFFERS
