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
        epilog=f"Exit status {DIFFERS} if they differ. The runtime's package must be installed.",
    )
    command.add_argument("model", metavar="MODEL", help="folder that fit wrote")
    command.add_argument("file", metavar="FILE.onnx", help="file that export wrote")
    command.add_argument("images", metavar="IMAGES", nargs="+", help="files, or folders")
    command.add_argument(
        "--runtime",
        choices=("onnxruntime", "openvino", "all"),
        default="onnxruntime",
        help="what runs the file; all = first the one, then the other (default: %(default)s)",
    )
    add_machine_options(command)
    command.set_defaults(run=run)


def run(args):
    """Compare and print; return the exit status."""
    from ..report.export_check import check_same_model, compare, comparison_text
    from ..report.onnx_runtimes import RUNTIMES, open_file

    paths, _ = image_paths(args.images)
    detector, _ = load_detector(args)
    detector.model_.require_images("validate")
    runtimes = list(RUNTIMES) if args.runtime == "all" else [args.runtime]
    files = [open_file(args.file, runtime) for runtime in runtimes]
    for opened in files:
        check_same_model(opened, detector)
    agrees = True
    for opened in files:
        found = compare(opened, detector, paths)
        print(f"{opened.runtime}: {comparison_text(found)}")
        agrees = agrees and found.agrees
    return 0 if agrees else DIFFERS
