"""Options that several commands share."""

import argparse
import difflib
import math
import os
import re
import warnings
from ast import literal_eval
from pathlib import Path

# What ``--roi`` means for commands that score.
ROI_OF_FIT = "default: that of the fit, for which alone the thresholds hold"
_YEAR = 366 * 24 * 3600  # seconds


def add_class_options(command):
    """Add ``--classes``."""
    command.add_argument(
        "--classes", nargs="+", metavar="NAME", help="classes of FOLDER to take (default: all)"
    )


def add_machine_options(command):
    """Add ``--device`` and ``--n-jobs``."""
    command.add_argument("--device", help="auto, cpu, cuda, cuda:1, mps ... (default: auto)")
    command.add_argument(
        "--n-jobs",
        type=int,
        metavar="N",
        help="threads that decode images and that compute, -1 = one for each core (default: one "
        "decodes, as many as torch uses compute)",
    )


def add_scored_images(command, name):
    """Add the model, and the images to score, called `name` in the help."""
    command.add_argument("model", metavar="MODEL", help="folder that fit wrote")
    command.add_argument("images", metavar=name, nargs="+", help="files, or folders searched whole")


def add_product_option(command):
    """Add ``--class``."""
    command.add_argument(
        "--class",
        dest="class_name",
        metavar="NAME",
        help="product class of all images (default: inferred)",
    )


def add_roi_option(command, effect=ROI_OF_FIT):
    """Add ``--roi``; `effect` says what becomes of the region."""
    command.add_argument(
        "--roi",
        metavar="MASK",
        help="region of interest: an image of the size of the images, white (any value but 0) "
        "where they are inspected; or a folder with one for each product, named like it, e.g. "
        f"bolt.png; {effect}",
    )


def add_groups_option(command):
    """Add ``--groups``."""
    command.add_argument(
        "--groups",
        type=parse_pattern,
        metavar="REGEX",
        help="for parts of which there are several images: a regular expression whose first "
        "parentheses find the name of the part in the name of a file, e.g. '^(.*)_' for "
        "bolt017_left.png and bolt017_right.png; one image of each part calibrates",
    )


def parse_pattern(text):
    """Compile a regular expression that has parentheses."""
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no regular expression: {error}") from None
    if not pattern.groups:
        raise argparse.ArgumentTypeError(
            f"{text!r} has no parentheses around the name of the part, as in '^(.*)_'"
        )
    return pattern


def chosen_groups(args, images, products):
    """Return `groups` of HGADDetector from ``--groups``, a list, or None without the option.

    Parts of two products are never the same. An image whose name does not match is a part.
    """
    if args.groups is None:
        return None
    found = [args.groups.search(os.path.basename(image)) for image in images]
    return [
        (product, i if match is None or match[1] is None else match[1])
        for i, (match, product) in enumerate(zip(found, products, strict=True))
    ]


def groups_text(groups):
    """Say how many parts `chosen_groups` found, and of how many images the name did not match."""
    n_alone = sum(isinstance(name, int) for _, name in groups)
    parts = "1 part" if len(set(groups)) == 1 else f"{len(set(groups))} parts"
    text = f"--groups: the {len(groups)} images show {parts}"
    if n_alone == 1:
        text += "; 1 of them does not match, and counts as a part of its own"
    elif n_alone:
        text += f"; {n_alone} of them do not match, and count as parts of their own"
    return text


def chosen_roi(args, products):
    """Return `roi` of HGADDetector from ``--roi``: None, a path, or a dict from product to path.

    Raises ValueError if a folder holds no mask of any product, or two of one, or one of none, and
    FileNotFoundError if there is nothing.
    """
    if args.roi is not None and not os.path.exists(args.roi):
        raise FileNotFoundError(f"--roi {args.roi!r} does not exist (from {os.getcwd()!r}).")
    if args.roi is None or not os.path.isdir(args.roi):
        return args.roi
    from ..datasets.folders import IMAGE_ENDINGS, is_junk

    found, names = {}, {str(product): product for product in products}
    for path in sorted(Path(args.roi).iterdir()):
        if is_junk(path.name) or path.suffix.lower() not in IMAGE_ENDINGS:
            continue
        if path.stem not in names:
            raise ValueError(
                f"--roi: {path} is named like none of the products {list(names)}: rename it, or "
                "move it away."
            )
        if names[path.stem] in found:
            raise ValueError(f"--roi: the folder {args.roi} holds two masks of {path.stem!r}.")
        found[names[path.stem]] = path
    if not found:
        raise ValueError(
            f"--roi: the folder {args.roi} holds no mask: name them like the products, e.g. "
            f"{next(iter(names))}.png."
        )
    return found


def scored_roi(args, detector):
    """Return `chosen_roi` for scoring; warn where the fit remembers no region.

    The positions near the border of a region then look like nothing that the model has seen.
    """
    roi = chosen_roi(args, detector.classes_.tolist())
    if roi is not None and detector.model_.roi is None:
        warnings.warn(
            "--roi: this model was not fitted with --roi. Its thresholds and p-values are those of "
            "whole images, and normal images may be anomalies in the region, above all at its "
            "border: give --roi to fit, too.",
            UserWarning,
            stacklevel=2,
        )
    return roi


def add_out_option(command):
    """Add ``--out``, for a command that changes a model; see `ChangedModel`."""
    command.add_argument(
        "--out", metavar="MODEL2", help="folder of the new model (default: MODEL is replaced)"
    )


class ChangedModel:
    """The model of a command that changes it, read at once and saved at the end.

    ValueError is raised if no model can be at the place to save it, and, by `save`, if another
    command replaced the one that was read, whose changes would be lost; nothing is written then.
    """

    def __init__(self, args):
        from ..storage.model_folder import check_model_place, saved_hash

        self.place = args.model if args.out is None else args.out
        self._model = args.model
        check_model_place(self.place, "MODEL" if args.out is None else "--out")
        self._read = saved_hash(args.model)  # before loading: if replaced meanwhile, save refuses
        self.detector, self._of_fit = load_detector(args)

    def save(self):
        """Save it with the settings of its fit."""
        from ..storage.detector_state import pack
        from ..storage.model_card import model_card
        from ..storage.model_folder import save_state

        detector = self.detector.set_params(**self._of_fit)
        is_same = os.path.realpath(self.place) == os.path.realpath(self._model)
        replaces = self._read if is_same else None
        save_state(self.place, *pack(detector), model_card(detector), replaces=replaces)


def add_threshold_option(command, effect):
    """Add ``--false-alarm-rate``; `effect` says what becomes of the threshold."""
    command.add_argument(
        "--false-alarm-rate",
        dest="rates",
        nargs="+",
        action="extend",
        type=parse_rate,
        metavar="RATE|NAME=RATE",
        help="move the threshold so that about this share of normal images is flagged, of all "
        f"products or of one, e.g. 0.05 bolt=0.01; {effect}",
    )


def add_drift_options(command):
    """Add ``--drift-probability`` and ``--drift-burn-in``; `drift_options` reads them."""
    command.add_argument(
        "--drift-probability",
        type=parse_probability,
        default=0.01,
        metavar="P",
        help="probability of ever warning of drift where there is none (default: %(default)g)",
    )
    command.add_argument(
        "--drift-burn-in",
        type=parse_natural,
        default=0,
        metavar="N",
        help="the first N images of each product only join those that later ones are compared "
        "with, for a line that differs a little from the images of the fit from the first day "
        "(default: %(default)s)",
    )


def drift_options(args):
    """Return the parameters of `DriftMonitor` that a command was given."""
    return {"false_alarm_probability": args.drift_probability, "burn_in": args.drift_burn_in}


def parse_probability(text):
    """Parse a number strictly between 0 and 1."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number between 0 and 1")
    return number


def parse_seconds(text):
    """Parse a number of seconds, from 0 to a year: the clock takes no number of any size."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number <= _YEAR:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds up to a year")
    return number


def parse_natural(text):
    """Parse a whole number, at least 0."""
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number")
    return int(text)


def parse_positive(text):
    """Parse a whole number, at least 1."""
    number = parse_natural(text)
    if not number:
        raise argparse.ArgumentTypeError("at least 1 is needed")
    return number


def parse_port(text):
    """Parse the number of a port, from 0 to 65535."""
    number = parse_natural(text)
    if number > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port, the largest is 65535")
    return number


def parse_rate(text):
    """Parse "0.05" to (None, 0.05), "bolt=0.01" to ("bolt", 0.01)."""
    name, equals, number = text.rpartition("=")
    try:
        rate = float(number)
    except ValueError:
        rate = math.nan
    if not 0 < rate < 1 or (equals and not name):
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither RATE nor NAME=RATE with a rate between 0 and 1, e.g. 0.05 or "
            "bolt=0.01"
        )
    return (name if equals else None), rate


def chosen_rates(args):
    """Return the false-alarm rates as dict from product to rate, that of all products as None.

    Raises ValueError if a product, or all, have two.
    """
    rates = {}
    for name, rate in args.rates or ():
        if name in rates:
            whose = "all products" if name is None else f"the product {name!r}"
            raise ValueError(
                f"--false-alarm-rate: two rates for {whose}, {rates[name]} and {rate}."
            )
        rates[name] = rate
    return rates


def set_thresholds(detector, rates):
    """Move the thresholds of a detector to `chosen_rates`."""
    rates = dict(rates)
    common = rates.pop(None, None)
    # First the names, so that a wrong one leaves the detector as it is.
    own = {known_class(detector, k, "--false-alarm-rate"): rate for k, rate in rates.items()}
    if common is not None:
        detector.set_threshold(false_alarm_rate=common)
    if own:
        detector.set_threshold(false_alarm_rate=own)


def parse_image_size(text):
    """Parse "256" to 256, "256x320" to (256, 320), height first."""
    try:
        sides = [int(side) for side in text.lower().split("x")]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2) or min(sides) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is neither N nor HEIGHTxWIDTH, e.g. 256x320")
    return sides[0] if len(sides) == 1 else tuple(sides)


def parse_count(text):
    """Parse a whole number from 0 to 100."""
    if not text.isascii() or not text.isdigit() or int(text) > 100:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 to 100")
    return int(text)


def chosen_parameters(args):
    """Return the parameters that options and ``--set`` give, as dict; `random_state` defaults to 0.

    A backbone of `BACKBONE_RECIPES` brings its other parameters, and ``--fast`` its own, where none
    are given. Values are not checked. A ``--set`` of an unknown or repeated name raises ValueError.
    """
    from ..estimator import HGADDetector
    from ..parameters import BACKBONE_RECIPES, FAST

    names = ("backbone", "n_components", "image_size", "device", "n_jobs", "random_state")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    known = HGADDetector().get_params(deep=False)
    for setting in args.set or ():
        name, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"--set {setting!r}: write NAME=VALUE, e.g. --set max_iter=20.")
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}."
            raise ValueError(f"--set {setting!r}: HGADDetector has no parameter {name!r}; {hint}")
        if name in given:
            raise ValueError(f"--set {setting!r}: {name} is given twice.")
        try:
            given[name] = literal_eval(text)
        except (ValueError, SyntaxError):
            given[name] = text  # a word, such as likelihood
    recipe = BACKBONE_RECIPES.get(given.get("backbone"))
    if recipe is not None:
        del given["backbone"]
        given = recipe | given
    if args.fast:
        given = FAST | given
    return {"random_state": 0, **given}


def load_detector(args):
    """Read the model; device, threads and thresholds are those of `args`, not of the fit.

    Returns the detector, and the parameters that were replaced, a dict.
    """
    from ..estimator import HGADDetector

    rates = chosen_rates(args) if hasattr(args, "rates") else {}
    detector = HGADDetector.load(args.model)
    now = {"device": args.device or "auto", "n_jobs": args.n_jobs, "verbose": 0}
    of_fit = {name: getattr(detector, name) for name in now}
    set_thresholds(detector.set_params(**now), rates)
    return detector, of_fit


def load_for_work(args):
    """Read the model as `load_detector` does; the regions of ``--roi`` replace those of the fit."""
    detector, _ = load_detector(args)
    roi = scored_roi(args, detector)
    if roi is not None:
        detector.model_ = detector.model_.with_roi(roi)
    return detector


def product_of(detector, args):
    """Return the label that ``--class`` names, or None."""
    return None if args.class_name is None else known_class(detector, args.class_name, "--class")


def known_class(detector, name, option):
    """Return the element of `classes_` written `name`, or raise ValueError naming the option."""
    from ..validation import label_of_text

    return label_of_text(name, detector.classes_, option)


def image_paths(arguments):
    """Return the images that `arguments` name, a list of str, and the folders among them.

    Folders are searched whole, by name, except for what `is_junk`. An argument that does
    not exist raises FileNotFoundError, a folder without images ValueError, a folder in it that
    cannot be read OSError. Other files in a folder, and links to folders, which are not followed,
    raise a UserWarning.
    """
    from ..datasets.folders import IMAGE_ENDINGS

    paths, folders = [], []
    for argument in arguments:
        if not os.path.isdir(argument):
            if not os.path.exists(argument):
                raise FileNotFoundError(f"{argument!r} does not exist (from {os.getcwd()!r}).")
            paths.append(argument)
            continue
        folder = Path(argument)
        folders.append(folder)
        files, links = _below(folder)
        if links:
            warnings.warn(
                f"{argument} holds links to folders ({len(links)}), e.g. {links[0]}: not followed. "
                "Name the folders they lead to.",
                UserWarning,
                stacklevel=2,
            )
        images = [path for path in files if path.suffix.lower() in IMAGE_ENDINGS]
        if not images:
            raise ValueError(
                f"{argument!r} holds no image, that is no {', '.join(sorted(IMAGE_ENDINGS))}."
            )
        if len(images) < len(files):
            other = next(path for path in files if path.suffix.lower() not in IMAGE_ENDINGS)
            warnings.warn(
                f"{argument} holds files that are no images ({len(files) - len(images)}), e.g. "
                f"{other}: not read.",
                UserWarning,
                stacklevel=2,
            )
        paths += map(str, images)
    return paths, folders


def _below(folder):
    """Return the files below a folder, and the links to folders, sorted; no junk."""
    from ..datasets.folders import is_junk

    def refuse(error):
        raise error

    files, links = [], []
    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not is_junk(name)]
        links += [path for path in (Path(place, name) for name in folders) if path.is_symlink()]
        visible = (Path(place, name) for name in names if not is_junk(name))
        # A link that leads nowhere is an image that cannot be read; a pipe is none.
        files += [path for path in visible if path.is_file() or not path.exists()]
    return sorted(files), sorted(links)
