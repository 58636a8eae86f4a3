"""The command `export`."""

from pathlib import Path

from ..text import printable


def add_options(commands):
    """Add the command."""
    text = "Write a model as one ONNX file, preprocessing inside, for machines without torch."
    command = commands.add_parser(
        "export", help=text, description=text, epilog="The package onnx must be installed."
    )
    command.add_argument("model", metavar="MODEL", help="folder that fit wrote")
    command.add_argument("file", metavar="FILE.onnx", help="file to write")
    command.set_defaults(run=run)


def run(args):
    """Export the model."""
    from ..estimator import HGADDetector
    from ..storage.files import check_file_place

    check_file_place(args.file, "FILE.onnx")
    detector = HGADDetector.load(args.model)
    detector.to_onnx(args.file)
    size = Path(args.file).stat().st_size
    names = ", ".join(printable(name) for name in detector.classes_)
    print(f"classes: {names}\nfile: {printable(Path(args.file).resolve())} ({size / 1e6:.1f} MB)")
