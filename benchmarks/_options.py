"""Command-line options that the benchmarks share, and what a run says of itself."""

import argparse
import os
import platform
import shlex
import sys
import tempfile
import time
from contextlib import contextmanager
from importlib.metadata import version

import sklearn
import torch

import skhgad
from skhgad import HGADDetector
from skhgad.command_line.arguments import chosen_parameters, parse_image_size
from skhgad.devices import resolve_device
from skhgad.parameters import BACKBONE_RECIPES, check_parameters
from skhgad.storage.files import check_file_place

from ._data import LOADERS, load_parts
from ._figures import cell, values

_RESERVED = ("memory", "random_state")


def benchmark_parser(name, doc, *, pixels=False, epilog=None):
    """Make a parser with the options that the benchmarks share.

    Parameters
    ----------
    name : str
        Of the module in benchmarks.
    doc : str
        Its docstring; the first line describes it.
    pixels : bool, default=False
        Whether it has pixel figures.
    epilog : str, default=None

    Returns
    -------
    argparse.ArgumentParser
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}", description=doc.split("\n")[0], epilog=epilog
    )
    _add_data_options(parser)
    add_detector_options(parser)
    _add_run_options(parser, pixels)
    return parser


def _add_data_options(parser):
    group = parser.add_argument_group("data")
    group.add_argument(
        "--data",
        nargs="+",
        metavar="DIR",
        default=[os.environ.get("SKHGAD_BENCH", "../shared/bench")],
        help="folder of a data set, .npz feature table, or folder with images/ and "
        "features/*.npz; several NAME=DIR for --loader union (default: the environment variable "
        "SKHGAD_BENCH, then ../shared/bench)",
    )
    group.add_argument(
        "--loader", choices=["auto", *LOADERS, "union"], default="auto", help="layout of --data"
    )
    group.add_argument("--classes", nargs="+", metavar="NAME", help="classes to keep")
    group.add_argument("--part", metavar="NAME", help="of a folder with several parts, e.g. images")
    group.add_argument(
        "--limit", type=positive_int, metavar="N", help="N samples of each class and kind: a trial"
    )
    group.add_argument(
        "--memory",
        metavar="DIR",
        help="keep the extracted features here for the next run (default: a temporary folder)",
    )


def add_detector_options(parser):
    """Add the options that `read_parameters` reads."""
    parser.set_defaults(fast=False)  # commands have the option --fast, benchmarks rows of it
    group = parser.add_argument_group("detector")
    group.add_argument("--paper", action="store_true", help="start from HGADDetector.paper()")
    group.add_argument(
        "--backbone",
        metavar="NAME",
        help=f"timm model, or with settings of its own {', '.join(BACKBONE_RECIPES)}",
    )
    group.add_argument("--weights", metavar="auto|FILE", help="checkpoint of the backbone")
    group.add_argument("--image-size", type=parse_image_size, metavar="N|HxW", help="pixels")
    group.add_argument("--device", help="auto, cpu, cuda, cuda:1, mps ... (default: auto)")
    group.add_argument("--n-jobs", type=int, metavar="N", help="threads that decode images")
    group.add_argument(
        "--set",
        action="append",
        metavar="NAME=VALUE",
        help="any other parameter, e.g. --set max_iter=20; may be repeated",
    )
    parser.set_defaults(n_components=None, random_state=None)


def _add_run_options(parser, pixels):
    group = parser.add_argument_group("run")
    group.add_argument(
        "--seeds", type=positive_int, default=3, help="number of repetitions (default: 3)"
    )
    if pixels:
        group.add_argument("--no-pixels", action="store_true", help="leave the pixel figures out")
        group.add_argument(
            "--pixel-size",
            type=parse_image_size,
            default=256,
            metavar="N|HxW",
            help="maps and masks are brought to this size to be compared (default: 256)",
        )
    group.add_argument("--json", metavar="FILE", help="write every figure, after every run")
    group.add_argument("--markdown", metavar="FILE", help="write the tables")


def read_parts(parser, args, *, by_defect=False):
    """Load the parts that the options name; end with a usage error if they cannot be.

    `by_defect`: --limit counts each defect type as a kind of its own.
    """
    try:
        for option in ("json", "markdown"):
            if getattr(args, option):
                check_file_place(getattr(args, option), f"--{option}")
        parts = load_parts(args.data, args.loader, args.classes)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    names = [part.name for part in parts]
    if args.part is not None:
        if args.part not in names:
            parser.error(f"--part {args.part!r}: --data has {', '.join(names)}.")
        parts = [part for part in parts if part.name == args.part]
    return parts if args.limit is None else [part.limited(args.limit, by_defect) for part in parts]


def read_parameters(parser, args):
    """Parameters of HGADDetector that the options set, as a dict; checked."""
    try:
        given = chosen_parameters(args)
        if any(setting.partition("=")[0] in _RESERVED for setting in args.set or ()):
            raise ValueError(f"--set: {' and '.join(_RESERVED)} are set by --memory and --seeds.")
        del given["random_state"]
        if args.weights is not None:
            if "weights" in given:
                raise ValueError("weights is given twice, by --weights and --set.")
            given["weights"] = args.weights
        detector = HGADDetector.paper(**given) if args.paper else HGADDetector(**given)
        parameters = detector.get_params(deep=False)
        check_parameters(parameters)
        resolve_device(detector.device)
    except (TypeError, ValueError) as error:
        parser.error(str(error))
    return {name: value for name, value in parameters.items() if name not in _RESERVED}


@contextmanager
def memory_folder(args):
    """Give the folder of extracted features: the user's, or one removed at the end."""
    if args.memory is not None:
        yield args.memory
        return
    with tempfile.TemporaryDirectory(prefix="skhgad-bench-") as folder:
        yield folder


def describe_run(parameters):
    """What a run was: command, versions, machine and parameters, for JSON."""
    device = resolve_device(parameters["device"])
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "command": shlex.join(["python", *sys.orig_argv[1:]]),
        "versions": {
            "python": platform.python_version(),
            "skhgad": skhgad.__version__,
            "torch": torch.__version__,
            "scikit-learn": sklearn.__version__,
            **{package: version(package) for package in ("numpy", "timm")},
        },
        "device": f"{device.type} ({name}), {torch.get_num_threads()} threads",
        "parameters": {name: _plain(value) for name, value in parameters.items()},
    }


def repeats(seeds):
    """Say how many seeds a table is of."""
    return f"{seeds} seed{'s' * (seeds > 1)}"


def say(text):
    """Print progress to stderr, with the time."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def say_run(label, record):
    """Print the main figures of a finished run."""
    mean = cell(values([record], ("image", "mean", "auroc")), 3)
    pooled = cell(values([record], ("image", "pooled", "auroc")), 3)
    say(
        f"{label}, seed {record['seed']}: mean AUROC {mean}, pooled {pooled}, fit "
        f"{record['fit_seconds']:.0f} s"
    )


def _plain(value):
    return list(value) if isinstance(value, tuple) else value


def positive_int(text):
    """Return the number in an option's text; ValueError below 1."""
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value
