"""The commands `fit`, `score` and `evaluate`: from folders of images to the estimator and back."""

import csv
import difflib
import json
import math
import os
import sys
import time
import warnings
from ast import literal_eval
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from ..datasets.folders import _IMAGE_ENDINGS
from ..datasets.loaders import load_folder
from ..display.heat_maps import HeatScale, write_heat_map
from ..estimator import HGADDetector
from ..fitting.processes import launched
from ..images.source import ImageSource
from ..metrics.per_image import PixelMetrics, image_metrics
from ..storage.files import check_file_place, check_folder_place, whole_file
from ..storage.model_folder import check_model_place

_CHUNK = 64  # images scored, and maps held, at a time
_COLUMNS = ("path", "class", "score", "p_value", "verdict")


class Finding(NamedTuple):
    """What a detector says of one image."""

    path: str
    class_label: str
    score: float
    p_value: float
    is_anomaly: bool
    anomaly_map: np.ndarray | None  # (height, width) of the image, float32

    @property
    def verdict(self):
        """In a word."""
        return "anomaly" if self.is_anomaly else "normal"


def fit(args):
    """Fit one detector on the training images of a folder and save it; also under torchrun."""
    with launched() as processes:
        _fit(args, processes)


def _fit(args, processes):
    parameters = chosen_parameters(args)
    check_model_place(args.out, "--out")
    data = load_folder(args.folder, classes=args.classes, split="train")
    counts = ", ".join(
        f"{name} {np.sum(data.target == name)}" for name in np.unique(data.class_label)
    )
    print(f"{np.sum(data.y == 1)} normal images: {counts}")
    if np.any(data.y == -1):
        print(f"{np.sum(data.y == -1)} images of train/ are known anomalies, left out")
    start = time.perf_counter()
    detector = HGADDetector(**{"verbose": int(sys.stderr.isatty()), **parameters})
    with _naming_files(data.images):
        detector.fit(data.images, data.target)
    if processes.is_first:
        detector.set_params(verbose=parameters.get("verbose", 0)).save(args.out)
    print(
        f"fitted in {time.perf_counter() - start:.0f} s, {detector.n_iter_} passes; "
        f"anomaly = score below {detector.offset_:.4g}\nmodel: {Path(args.out).resolve()}"
    )


def score(args):
    """Score images; print, and write as asked, what the detector finds."""
    paths, folders = image_paths(args.images)
    if args.csv is not None:
        check_file_place(args.csv, "--csv")
    targets = None if args.maps is None else map_places(args.maps, paths, folders)
    detector = load_detector(args)
    label = None if args.class_name is None else known_class(detector, args.class_name)
    scale, rows, n_anomalies = HeatScale.of(detector), [], 0
    print(*_COLUMNS, sep="\t")
    for index, finding in enumerate(inspect(detector, paths, label, maps=targets is not None)):
        tqdm.write(
            f"{finding.path}\t{finding.class_label}\t{finding.score:.4f}\t{finding.p_value:.4f}\t"
            f"{finding.verdict}"
        )
        rows.append((*finding[:4], finding.verdict))
        n_anomalies += finding.is_anomaly
        if targets is not None:
            write_heat_map(
                targets[index],
                finding.path,
                finding.anomaly_map,
                scale,
                value_range=detector.value_range,
            )
            rows[-1] += (str(targets[index]),)
    if args.csv is not None:
        _write_csv(args.csv, (*_COLUMNS, "map")[: len(rows[0])], rows)
    print(
        f"{n_anomalies} of {len(rows)} images are anomalies (score below {detector.offset_:.4g})",
        file=sys.stderr,
    )


def evaluate(args):
    """Compare what the detector finds in the test images of a folder with what is there."""
    if args.json is not None:
        check_file_place(args.json, "--json")
    detector = load_detector(args)
    data = labelled_images(detector, args.folder, args.classes)
    measurement = Measurement(data, detector.offset_)
    findings = inspect(detector, data.images.tolist(), maps=bool(measurement.masked))
    for index, finding in enumerate(findings):
        measurement.update(index, finding)
    figures = measurement.figures()
    print_figures(figures, measurement.unmasked)
    if args.json is not None:
        with whole_file(args.json) as part:
            part.write_text(json.dumps(_without_nan(figures), indent=1) + "\n", encoding="utf-8")


def chosen_parameters(args):
    """Estimator parameters that the options and ``--set NAME=VALUE`` give, unchecked values."""
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
    return {"random_state": 0, **given}


def load_detector(args):
    """Read the model, with the device and threads of this machine instead of the fit's."""
    detector = HGADDetector.load(args.model)
    return detector.set_params(device=args.device or "auto", n_jobs=args.n_jobs, verbose=0)


def known_class(detector, name):
    """Return the element of `classes_` written `name`; raise ValueError if there is none."""
    for label in detector.classes_.tolist():
        if str(label) == name:
            return label
    raise ValueError(
        f"--class {name!r}: the model knows the classes {[str(k) for k in detector.classes_]}."
    )


def image_paths(arguments):
    """List the images that files and folders, searched whole, name.

    Returns
    -------
    paths : list of str
        In the order of the arguments, within a folder by name.
    folders : list of Path
        The arguments that are folders.
    """
    paths, folders = [], []
    for argument in arguments:
        if not os.path.isdir(argument):
            if not os.path.exists(argument):
                raise FileNotFoundError(f"{argument!r} does not exist (from {os.getcwd()!r}).")
            paths.append(argument)
            continue
        folder = Path(argument)
        folders.append(folder)
        below = [
            path
            for path in sorted(folder.rglob("*"))
            if path.is_file() and not any(p[0] == "." for p in path.relative_to(folder).parts)
        ]
        images = [path for path in below if path.suffix.lower() in _IMAGE_ENDINGS]
        if not images:
            raise ValueError(
                f"{argument!r} holds no image, that is no {', '.join(sorted(_IMAGE_ENDINGS))}."
            )
        if len(images) < len(below):
            other = next(path for path in below if path not in set(images))
            warnings.warn(
                f"{argument} holds {len(below) - len(images)} files that are no images, e.g. "
                f"{other}: not read.",
                UserWarning,
                stacklevel=2,
            )
        paths += map(str, images)
    return paths, folders


def map_places(folder, paths, image_folders):
    """Choose the file of each image's heat map: its path below the images' common folder + .png.

    Images of one name in different folders, or of different endings, so keep different maps.
    """
    check_folder_place(folder, "--maps")
    folder = Path(folder).resolve()
    for images in image_folders:
        if folder.is_relative_to(images.resolve()):
            raise ValueError(
                f"--maps {str(folder)!r} lies in the folder of images {str(images)!r}, whose next "
                "scoring would take the maps for images: choose a place outside."
            )
    absolute = [Path(path).absolute() for path in paths]
    common = os.path.commonpath([path.parent for path in absolute])
    places = [folder / f"{path.relative_to(common)}.png" for path in absolute]
    overwritten = {path.resolve() for path in absolute}.intersection(places)
    if overwritten:
        raise ValueError(
            f"--maps {str(folder)!r}: a heat map would replace the image "
            f"{str(min(overwritten))!r}; choose another folder."
        )
    return places


def inspect(detector, paths, class_label=None, *, maps=False):
    """Yield a Finding for every image, in order, a chunk of images in memory at a time.

    Parameters
    ----------
    detector : HGADDetector
        Fitted.
    paths : list of str
    class_label : str or int, default=None
        Class of all images; None = inferred.
    maps : bool, default=False
        Whether to give anomaly maps, each of its own image's size.
    """
    ImageSource(paths, value_range=detector.value_range)  # a missing file shows before the work
    quiet = not sys.stderr.isatty()
    with tqdm(total=len(paths), desc="images", unit="image", disable=quiet) as bar:
        for first in range(0, len(paths), _CHUNK):
            chunk = paths[first : first + _CHUNK]
            labels = None if class_label is None else [class_label] * len(chunk)
            with _naming_files(chunk):
                found = detector.inspect(chunk, class_labels=labels, maps=maps)
            arrays = (array.tolist() for array in found[:4])
            for finding in zip(chunk, *arrays, found.maps or [None] * len(chunk), strict=True):
                yield Finding(*finding)
                bar.update()


def labelled_images(detector, folder, classes):
    """Read the test images of a folder as `load_folder`, all of classes the detector knows."""
    data = load_folder(folder, classes=classes, split="test")
    known = [str(name) for name in detector.classes_]
    unknown = sorted(set(data.class_label.tolist()) - set(known))
    if unknown:
        raise ValueError(
            f"{folder!r} holds the classes {unknown}, which the model does not know; it knows "
            f"{known}. Name the classes to take with --classes, or fit a model on them."
        )
    return data


class Measurement:
    """What a detector finds in labelled images, compared with what is there.

    Parameters
    ----------
    data : Bunch
        As from `load_folder`.
    offset : float
        Threshold of the detector.

    Attributes
    ----------
    masked : set of str
        Classes with pixel figures: their findings need maps.
    unmasked : list of str
        The others.
    """

    def __init__(self, data, offset):
        self.data, self.offset = data, offset
        self.masked = masked_classes(data)
        self.unmasked = [name for name in np.unique(data.class_label) if name not in self.masked]
        self._scores, self._found_class, self._pixels = [], [], PixelMetrics()

    def update(self, index, finding):
        """Add the finding of image `index`, which is the next one."""
        data, label = self.data, self.data.class_label[index]
        self._scores.append(finding.score)
        self._found_class.append(str(finding.class_label))
        if label in self.masked:
            self._pixels.update(data.mask[index], finding.anomaly_map, label, y=data.y[index])

    def figures(self):
        """Return the figures of all images so far, as a dict."""
        data = self.data
        return {
            "n_images": len(self._scores),
            "n_anomalies": int(np.sum(data.y == -1)),
            "offset": self.offset,
            "class_found": float(np.mean(np.array(self._found_class) == data.class_label)),
            "image": image_metrics(data.y, self._scores, data.class_label, offset=self.offset),
            "pixel": self._pixels.compute() if self.masked else None,
        }


def masked_classes(data):
    """Set of the classes whose test anomalies, one at least, all have masks."""
    lacking = {
        label
        for label, y, mask in zip(data.class_label, data.y, data.mask, strict=True)
        if y == -1 and mask is None
    }
    return set(data.class_label[data.y == -1]) - lacking


def print_figures(figures, unmasked):
    """Print what `evaluate` measured; `unmasked` are the classes without pixel figures."""
    image, pixel = figures["image"], figures["pixel"]
    names = [*image.per_class, "mean", "pooled"]
    width = max(map(len, names)) + 2
    columns = ["AUROC", "AP", "F1-max", "false alarms", "misses"]
    if pixel is not None:
        columns += ["pixel AUROC", "AUPRO"]
    print(" " * width + "".join(f"{column:>{_cell(column)}}" for column in columns))
    for name in names:
        row = image[name] if name in ("mean", "pooled") else image.per_class[name]
        cells = [row.auroc, row.ap, row.f1_max, row.false_alarm_rate, row.miss_rate]
        if pixel is not None:
            row = pixel[name] if name in ("mean", "pooled") else pixel.per_class.get(name)
            cells += [math.nan, math.nan] if row is None else [row.auroc, row.aupro]
        texts = ["-" if math.isnan(cell) else f"{cell:.3f}" for cell in cells]
        print(
            f"{name:<{width}}"
            + "".join(f"{t:>{_cell(c)}}" for t, c in zip(texts, columns, strict=True))
        )
    print(
        f"{figures['n_images']} images, {figures['n_anomalies']} of them anomalies; product class "
        f"inferred, rightly for {100 * figures['class_found']:.1f} %\n"
        f"false alarms, misses: at the model's own threshold {figures['offset']:.4g}"
    )
    if unmasked:
        rest = ", and not in their mean and pooled figures" if pixel is not None else ""
        print(f"no pixel figures of {', '.join(unmasked)}: anomalies without masks, or none{rest}")


def _cell(column):
    return max(len(column), len("0.000")) + 3


def _write_csv(path, header, rows):
    # Names that are no valid text come back as the bytes they are.
    with (
        whole_file(path) as part,
        open(part, "w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def _without_nan(value):
    """JSON knows no nan: None instead."""
    if isinstance(value, dict):
        return {str(key): _without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


@contextmanager
def _naming_files(paths):
    """Turn "X[3] (a.png)", which means little at a command line, into "a.png"."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        message = str(error)
        for index, path in enumerate(paths):
            message = message.replace(f"X[{index}] ({path})", str(path))
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise kind(message.replace("leave it out of X", "leave it out")) from error
