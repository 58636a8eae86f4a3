"""The command line: ``python -m skhgad demo | fit | score | evaluate | report``.

Exit status: 0 done; 1 the work failed; 2 wrong usage or unusable input; 130 interrupted; 141 the
reader of the output went away, as shells report it.
"""

import argparse
import os
import sys
import warnings
from importlib import import_module

from ..version import installed_version

# What skhgad raises for wrong parameters, images and folders; each message names the remedy.
_INPUT_ERRORS = (ValueError, TypeError, OSError, FloatingPointError, ImportError)


def main(argv=None):
    """Run a command and return its exit status.

    Parameters
    ----------
    argv : list of str, default=None
        Arguments; None = those of the process.

    Returns
    -------
    int
        0 done; 1 the work failed; 2 unusable input; 130 interrupted; 141 nobody reads the output.

    Raises
    ------
    SystemExit
        From argparse: 0 after ``--help`` and ``--version``, 2 for wrong usage.
    """
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # for file names no terminal can show
    args = build_parser().parse_args(argv)
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            module, name = args.run  # imported now, where Ctrl-C is heard
            getattr(import_module(f"skhgad.{module}"), name)(args)
            sys.stdout.flush()
        except KeyboardInterrupt:
            return _fail(args, "interrupted", 130)
        except BrokenPipeError:
            # The reader of the output has gone (`| head`): nothing is left to tell it.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        except _INPUT_ERRORS as error:
            return _fail(args, f"error: {error}", 2)
        except (RuntimeError, MemoryError) as error:
            return _fail(args, f"failed: {type(error).__name__}: {error}", 1)
    return 0


def build_parser():
    """Build the parser of all commands; each sets `run`: module, and function of the arguments."""
    parser = argparse.ArgumentParser(
        prog="skhgad",
        description="Find anomalies in images of many product classes with one model.",
        epilog="Exit status: 0 done (also when anomalies are found); 1 the work failed; 2 wrong "
        "usage or unusable input; 130 interrupted.",
    )
    parser.add_argument("--version", action=_PrintVersion, nargs=0, help="print the version")
    parser.add_argument(
        "--traceback", action="store_true", help="show where in the code an error arose"
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_demo(commands)
    _add_fit(commands)
    _add_score(commands)
    _add_evaluate(commands)
    _add_report(commands)
    return parser


class _PrintVersion(argparse.Action):
    # argparse's own action takes the version when the parser is built, which costs every command
    # the search for the installed metadata.
    def __call__(self, parser, namespace, values, option_string=None):
        print(f"skhgad {installed_version()}")
        parser.exit()


def _add_demo(commands):
    text = "Fit one model on two kinds of solar cell and show the defects it finds."
    command = commands.add_parser("demo", help=text, description=text)
    command.add_argument(
        "--out",
        metavar="DIR",
        default="skhgad-demo",
        help="folder for the picture and the model (default: %(default)s)",
    )
    command.add_argument(
        "--seed", type=int, default=0, help="of the split and of the fit (default: %(default)s)"
    )
    command.set_defaults(run=("command_line.demo", "demo"))


def _add_fit(commands):
    text = "Fit one model on the normal images of all classes of a folder."
    command = commands.add_parser(
        "fit",
        help=text,
        description=text,
        epilog="What is not given keeps HGADDetector's default, but --seed.",
    )
    command.add_argument(
        "folder", metavar="FOLDER", help="holds <class>/train/good/<image>, as MVTec AD"
    )
    command.add_argument("--out", metavar="MODEL", required=True, help="folder of the new model")
    _add_classes(command)
    command.add_argument("--backbone", metavar="NAME", help="timm model")
    command.add_argument("--n-components", type=int, metavar="N", help="centers inside a class")
    command.add_argument(
        "--image-size", type=_image_size, metavar="N|HxW", help="pixels, e.g. 256 or 256x320"
    )
    _add_machine(command)
    command.add_argument(
        "--seed", dest="random_state", type=int, metavar="N", help="random_state (default: 0)"
    )
    command.add_argument(
        "--set",
        action="append",
        metavar="NAME=VALUE",
        help="any other parameter of HGADDetector, e.g. --set max_iter=20; may be repeated",
    )
    command.set_defaults(run=("report.findings", "fit"))


def _add_score(commands):
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
        "all images share: blue below the threshold, yellow at it, red and purple beyond",
    )
    command.add_argument("--csv", metavar="FILE", help="write what is printed, in full precision")
    command.add_argument(
        "--class",
        dest="class_name",
        metavar="NAME",
        help="product class of all images (default: inferred)",
    )
    _add_machine(command)
    command.set_defaults(run=("report.findings", "score"))


def _add_evaluate(commands):
    text = "Measure a model on the labelled test images of a folder."
    command = commands.add_parser("evaluate", help=text, description=text)
    command.add_argument("model", metavar="MODEL", help="folder that fit wrote")
    command.add_argument(
        "folder",
        metavar="FOLDER",
        help="holds <class>/test/good/<image>, <class>/test/<defect>/<image> and, for pixel "
        "figures, <class>/ground_truth/<defect>/<image>_mask.png",
    )
    _add_classes(command)
    command.add_argument("--json", metavar="FILE", help="write all figures")
    _add_machine(command)
    command.set_defaults(run=("report.findings", "evaluate"))


def _add_report(commands):
    text = "Write what a model finds in a folder as one HTML page that needs no network."
    command = commands.add_parser("report", help=text, description=text)
    command.add_argument("model", metavar="MODEL", help="folder that fit wrote")
    command.add_argument(
        "folder",
        metavar="FOLDER",
        help="labelled test images, laid out as for evaluate; or any images, searched whole",
    )
    command.add_argument(
        "--out",
        metavar="DIR",
        required=True,
        help="folder for report.html, about 2 kB an image and 150 kB for each of --top",
    )
    command.add_argument(
        "--top",
        type=_few,
        default=12,
        metavar="N",
        help="most anomalous images to show with their heat maps, at most 100 (default: "
        "%(default)s)",
    )
    _add_classes(command)
    _add_machine(command)
    command.set_defaults(run=("report.contents", "report"))


def _few(text):
    """Parse a whole number from 0 to 100."""
    if not text.isascii() or not text.isdigit() or int(text) > 100:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 to 100")
    return int(text)


def _add_classes(command):
    command.add_argument(
        "--classes", nargs="+", metavar="NAME", help="classes of FOLDER to take (default: all)"
    )


def _add_machine(command):
    command.add_argument("--device", help="auto, cpu, cuda, cuda:1, mps ... (default: auto)")
    command.add_argument(
        "--n-jobs", type=int, metavar="N", help="threads that decode images, -1 = all (default: 1)"
    )


def _image_size(text):
    """Parse "256" to 256 and "256x320" to (256, 320), height first."""
    try:
        sides = [int(side) for side in text.lower().split("x")]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2) or min(sides) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is neither N nor HEIGHTxWIDTH, e.g. 256x320")
    return sides[0] if len(sides) == 1 else tuple(sides)


def _fail(args, message, status):
    if args.traceback:
        import traceback

        traceback.print_exc()
    print(f"skhgad: {message}", file=sys.stderr)
    return status


def _show_warning(message, category, filename, lineno, file=None, line=None):
    print(f"skhgad: warning: {message}", file=sys.stderr)
