"""The command `fit`."""

import sys
import time
from pathlib import Path

from ..text import printable
from .arguments import (
    add_class_options,
    add_groups_option,
    add_machine_options,
    add_roi_option,
    add_threshold_option,
    chosen_groups,
    chosen_parameters,
    chosen_rates,
    chosen_roi,
    groups_text,
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
        epilog="Parameters that are not given have HGADDetector's defaults; the random state is 0.",
    )
    command.add_argument(
        "folder",
        metavar="FOLDER",
        help="holds <class>/train/good/<image>, as MVTec AD; or, all of them normal, "
        "<class>/<image>; or images of one class; or a published data set that load_folder reads. "
        "A folder named bad beside the images of a class holds known defects",
    )
    command.add_argument("--out", metavar="MODEL", help="folder of the new model")
    command.add_argument(
        "--dry-run",
        action="store_true",
        help="say what is understood of FOLDER, and fit nothing",
    )
    add_class_options(command)
    command.add_argument(
        "--decisions",
        nargs="+",
        metavar="FILE",
        help="CSV files that the page of review saved: more normal images, and known defects; a "
        "decision on an image counts more than its folder",
    )
    add_groups_option(command)
    command.add_argument(
        "--backbone",
        metavar="NAME",
        help="timm model, or dinov2-small, dinov2-base, dinov3-small, dinov3-base",
    )
    command.add_argument("--n-components", type=int, metavar="N", help="centers inside a class")
    command.add_argument(
        "--image-size", type=parse_image_size, metavar="N|HxW", help="pixels, e.g. 256 or 256x320"
    )
    command.add_argument(
        "--fast",
        action="store_true",
        help="see images at one scale, 256 pixels, as HGADDetector.fast(): a third of the time, "
        "and a little less is found",
    )
    add_roi_option(command, "nothing outside is learnt, and the model keeps it for scoring")
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
    if args.out is None and not args.dry_run:
        raise ValueError("--out is missing: name the folder of the new model, or give --dry-run.")
    from ..fitting.processes import launched

    with launched() as processes:
        _fit(args, processes)


def _fit(args, processes):
    import numpy as np

    from ..datasets.decisions import load_decisions, with_decisions
    from ..datasets.loaders import load_folder
    from ..devices import resolve_device
    from ..estimator import HGADDetector
    from ..parameters import check_parameters
    from ..report.findings import naming_files
    from ..scoring.certificate import CONFIDENCE, certificate_text
    from ..scoring.known_anomalies import known_anomalies_text
    from ..scoring.thresholds import thresholds_text
    from ..storage.model_folder import check_model_place

    parameters, rates = chosen_parameters(args), chosen_rates(args)
    check_parameters(HGADDetector(**parameters).get_params(deep=False))
    resolve_device(parameters.get("device", "auto"))
    if args.out is not None:
        check_model_place(args.out, "--out")
    data = load_folder(args.folder, classes=args.classes, split="train")
    if args.decisions is not None:
        data = with_decisions(data, load_decisions(args.decisions))
    check_rated_products(rates, np.unique(data.class_label[data.y == 1]).tolist())
    roi = chosen_roi(args, np.unique(data.class_label[data.y == 1]).tolist())
    groups = chosen_groups(args, data.images.tolist(), data.class_label.tolist())
    print(understood(data))
    if groups is not None:
        print(groups_text(groups))
    if args.dry_run:
        return
    start = time.perf_counter()
    detector = HGADDetector(**{"verbose": int(sys.stderr.isatty()), **parameters})
    is_told = detector.verbose >= 1  # by fit itself
    with naming_files(data.images):
        masks = np.where(data.y == -1, data.mask, None)
        detector.fit(data.images, data.target, masks=masks, roi=roi, groups=groups)
    if processes.is_first:
        set_thresholds(detector, rates)
        detector.set_params(verbose=parameters.get("verbose", 0)).save(args.out)
    if detector.known_anomalies_ is not None and not is_told:
        print(known_anomalies_text(detector.known_anomalies_))
    passes = "1 pass" if detector.n_iter_ == 1 else f"{detector.n_iter_} passes"
    print(
        f"fitted in {time.perf_counter() - start:.0f} s, {passes}; "
        f"anomaly = score below {thresholds_text(detector.offset_, detector.class_offsets_)}\n"
        f"{certificate_text(detector.certificate(CONFIDENCE), CONFIDENCE)}\n"
        f"model: {printable(Path(args.out).resolve())}"
    )


def understood(data):
    """Say what a loader's Bunch holds, such as "312 normal images of 4 products: ..."."""
    normal = data.class_label[data.y == 1].tolist()
    names = sorted(set(data.class_label.tolist()))
    counts = ", ".join(f"{printable(name)} {normal.count(name)}" for name in names)
    products = "1 product" if len(names) == 1 else f"{len(names)} products"
    lines = [f"{len(normal)} normal images of {products}: {counts}"]
    n_defects = int((data.y == -1).sum())
    if n_defects:
        kinds = ", ".join(sorted({printable(kind) for kind in data.defect[data.y == -1]}))
        lines.append(f"{n_defects} images of known defects ({kinds}), left out of the normal ones")
    return "\n".join(lines)


def check_rated_products(rates, products):
    """Raise ValueError, before the fit, if a rate is for none of the products."""
    for name in rates:
        if name is not None and name not in products:
            raise ValueError(f"--false-alarm-rate {name!r}: the products to fit are {products}.")
