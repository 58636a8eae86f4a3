"""The command `fit`."""

import sys
import time
from pathlib import Path

from ..text import printable
from .arguments import (
    add_class_options,
    add_machine_options,
    add_threshold_option,
    chosen_parameters,
    chosen_rates,
    parse_image_size,
    set_thresholds,
)


def add_options(commands):
    """Add the command."""
    text = "Fit one model on the normal images of all classes of a folder."
    command = commands.add_parser(
        "fit",
        help=text,
        description=text,
        epilog="What is not given keeps HGADDetector's default, but --seed.",
    )
    command.add_argument(
        "folder",
        metavar="FOLDER",
        help="holds <class>/train/good/<image>, as MVTec AD; or, all of them normal, "
        "<class>/<image>; or images of one class; or a published data set that load_folder reads",
    )
    command.add_argument("--out", metavar="MODEL", required=True, help="folder of the new model")
    add_class_options(command)
    command.add_argument("--backbone", metavar="NAME", help="timm model")
    command.add_argument("--n-components", type=int, metavar="N", help="centers inside a class")
    command.add_argument(
        "--image-size", type=parse_image_size, metavar="N|HxW", help="pixels, e.g. 256 or 256x320"
    )
    add_threshold_option(command, "default: about 0.05 of all")
    add_machine_options(command)
    command.add_argument(
        "--seed", dest="random_state", type=int, metavar="N", help="random_state (default: 0)"
    )
    command.add_argument(
        "--set",
        action="append",
        metavar="NAME=VALUE",
        help="any other parameter of HGADDetector, e.g. --set max_iter=20; may be repeated",
    )
    command.set_defaults(run=run)


def run(args):
    """Fit and save; under torchrun, with all processes together."""
    from ..fitting.processes import launched

    with launched() as processes:
        _fit(args, processes)


def _fit(args, processes):
    import numpy as np

    from ..datasets.loaders import load_folder
    from ..estimator import HGADDetector
    from ..report.findings import naming_files
    from ..scoring.certificate import CONFIDENCE, certificate_text
    from ..scoring.thresholds import thresholds_text
    from ..storage.model_folder import check_model_place

    parameters, rates = chosen_parameters(args), chosen_rates(args)
    check_model_place(args.out, "--out")
    data = load_folder(args.folder, classes=args.classes, split="train")
    counts = ", ".join(
        f"{printable(name)} {np.sum(data.target == name)}" for name in np.unique(data.class_label)
    )
    check_rated_products(rates, np.unique(data.class_label[data.y == 1]).tolist())
    print(f"{np.sum(data.y == 1)} normal images: {counts}")
    if np.any(data.y == -1):
        print(f"{np.sum(data.y == -1)} images of train/ are known anomalies, left out")
    start = time.perf_counter()
    detector = HGADDetector(**{"verbose": int(sys.stderr.isatty()), **parameters})
    with naming_files(data.images):
        detector.fit(data.images, data.target)
    if processes.is_first:
        set_thresholds(detector, rates)
        detector.set_params(verbose=parameters.get("verbose", 0)).save(args.out)
    print(
        f"fitted in {time.perf_counter() - start:.0f} s, {detector.n_iter_} passes; "
        f"anomaly = score below {thresholds_text(detector.offset_, detector.class_offsets_)}\n"
        f"{certificate_text(detector.certificate(CONFIDENCE), CONFIDENCE)}\n"
        f"model: {printable(Path(args.out).resolve())}"
    )


def check_rated_products(rates, products):
    """Raise ValueError, before the fit, if a rate is for none of the products."""
    for name in rates:
        if name is not None and name not in products:
            raise ValueError(f"--false-alarm-rate {name!r}: the products to fit are {products}.")
