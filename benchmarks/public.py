"""One table a published data set that is on disk, class by class, of one model for all classes.

    python -m benchmarks.public --data DIR

DIR holds the unpacked data sets, each in a folder of any name, or is one of them. They are
recognised by the names of their folders. Data sets that are not there are named, and not run.
"""

import argparse
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from skhgad import HGADDetector, datasets
from skhgad.command_line.arguments import parse_image_size
from skhgad.datasets.folders import chosen_samples
from skhgad.datasets.recognition import recognise
from skhgad.metrics import PixelMetrics, SegF1Metrics, SproMetrics, image_metrics
from skhgad.parameters import image_size
from skhgad.report.evaluation import masked_classes
from skhgad.report.findings import inspect_files
from skhgad.scoring.maps import resize
from skhgad.storage.files import check_file_place

from ._data import TEST_SPLITS, first_of_each
from ._figures import cell, markdown, values, write_json, write_markdown
from ._options import (
    add_detector_options,
    describe_run,
    positive_int,
    read_parameters,
    repeats,
    say,
)


class DataSet(NamedTuple):
    """How a data set is measured. Its loader is ``load_<name>`` in `skhgad.datasets`."""

    title: str
    max_fpr: float = 0.3  # of AUPRO
    has_seg_f1: bool = False  # the F1 of MVTec AD 2
    has_spro: bool = False  # sPRO, and AUROC as the mean over the kinds of anomaly


DATA_SETS = {
    "mvtec_ad": DataSet("MVTec AD"),
    "visa": DataSet("VisA"),
    "mvtec_ad_2": DataSet("MVTec AD 2", max_fpr=0.05, has_seg_f1=True),
    "real_iad": DataSet("Real-IAD"),
    "mvtec_loco_ad": DataSet("MVTec LOCO AD", has_spro=True),
    "mvtec_3d_ad": DataSet("MVTec 3D-AD, RGB images"),
    "btad": DataSet("BTAD"),
    "mpdd": DataSet("MPDD"),
    "kolektorsdd2": DataSet("KolektorSDD2"),
}


def parse_arguments(arguments=None):
    """Return the options, and the detector's parameters; exit on wrong usage."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.public", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--data", required=True, metavar="DIR", help="folder of data sets, or one")
    parser.add_argument(
        "--sets",
        nargs="+",
        choices=list(DATA_SETS),
        default=list(DATA_SETS),
        metavar="NAME",
        help=f"of {', '.join(DATA_SETS)} (default: all)",
    )
    parser.add_argument(
        "--limit", type=positive_int, metavar="N", help="N images of each class and kind: a trial"
    )
    parser.add_argument(
        "--pixel-size",
        type=parse_image_size,
        default=256,
        metavar="N|HxW",
        help="size of maps and masks for pixel AUROC and AUPRO (default: 256); SegF1 and AU-sPRO "
        "are at the size of the images",
    )
    parser.add_argument(
        "--seeds", type=positive_int, default=1, help="number of repetitions (default: 1)"
    )
    parser.add_argument("--memory", metavar="DIR", help="keep the extracted features here")
    parser.add_argument("--json", metavar="FILE", help="write every figure, after every run")
    parser.add_argument("--markdown", metavar="FILE", help="write the tables")
    add_detector_options(parser)
    args = parser.parse_args(arguments)
    try:
        for option in ("json", "markdown"):
            if getattr(args, option):
                check_file_place(getattr(args, option), f"--{option}")
    except (ValueError, OSError) as error:
        parser.error(str(error))
    if not Path(args.data).is_dir():
        parser.error(f"--data: {args.data!r} is no folder.")
    return args, {**read_parameters(parser, args), "memory": args.memory}


def find_data_sets(folder):
    """Return {name: Recognised} of the data sets in a folder, or that it is."""
    found = {}
    for place in (Path(folder), *sorted(Path(folder).iterdir())):
        recognised = recognise(place) if place.is_dir() else None
        if recognised is None or recognised.classes is not None:  # one class of a data set
            continue
        if recognised.name in found:
            first = found[recognised.name].root
            say(f"{recognised.root} is left out: {first} is the same data set")
            continue
        found[recognised.name] = recognised
    return found


def load(name, root, limit=None):
    """Return the Bunches of a data set: normals to fit on, validation normals, test images.

    `limit` keeps that many images of each class and kind.
    """
    data = getattr(datasets, f"load_{name}")(root)
    if limit is not None:
        kinds = zip(data.class_label, data.split, data.defect, strict=True)
        data = chosen_samples(data, first_of_each(np.array(["|".join(k) for k in kinds]), limit))
    train = chosen_samples(data, (data.split == "train") & (data.y == 1))
    test = chosen_samples(data, np.isin(data.split, TEST_SPLITS))
    unknown = sorted(set(test.classes.tolist()) - set(train.classes.tolist()))
    if unknown or not len(test.images):
        raise ValueError(
            f"{root}: {f'no training normals of {unknown}' if unknown else 'no test image'}."
        )
    return train, chosen_samples(data, data.split == "validation"), test


def measure(data_set, detector, validation, test, pixel_size):
    """Inspect test images and return {class: {figure: value}}.

    Parameters
    ----------
    data_set : DataSet
    detector : fitted detector
    validation, test : Bunch
        As from `load`.
    pixel_size : (height, width)
        Of maps and masks for pixel AUROC and AUPRO.

    Returns
    -------
    dict
        Figures are "image_auroc", "pixel_auroc", "aupro", "seg_f1" and "au_spro"; those that a data
        set does not have are absent.
    """
    pixels, spro, seg_f1 = PixelMetrics(max_fpr=data_set.max_fpr), SproMetrics(), SegF1Metrics()
    masked = masked_classes(test)
    if data_set.has_seg_f1:
        found = inspect_files(detector, validation.images.tolist(), maps=True)
        for finding, label in zip(found, validation.class_label.tolist(), strict=True):
            seg_f1.update_validation(finding.anomaly_map, label)
    scores = []
    for index, finding in enumerate(inspect_files(detector, test.images.tolist(), maps=True)):
        scores.append(finding.score)
        label, mask, y = str(test.class_label[index]), test.mask[index], int(test.y[index])
        if label not in masked:
            continue
        small = resize(torch.as_tensor(finding.anomaly_map)[None], pixel_size)[0].numpy()
        pixels.update(mask, small, label, y=y)
        if data_set.has_seg_f1:
            seg_f1.update(mask, finding.anomaly_map, label, y=y)
        if data_set.has_spro:
            kind = str(test.defect[index])
            spro.update(mask, finding.anomaly_map, label, y=y, kind=kind)
    figures = {label: {"image_auroc": auroc} for label, auroc in _aurocs(data_set, test, scores)}
    if masked:
        for label, of_class in pixels.compute().per_class.items():
            figures[label] |= {"pixel_auroc": of_class.auroc, "aupro": of_class.aupro}
    if masked and data_set.has_seg_f1:
        for label, of_class in seg_f1.compute().per_class.items():
            figures[label]["seg_f1"] = of_class.f1
    if masked and data_set.has_spro:
        for label, of_class in spro.compute().per_class.items():
            figures[label]["au_spro"] = of_class.au_spro
    return figures


def _aurocs(data_set, test, scores):
    """Yield each class and its image AUROC; with sPRO, the mean over the kinds of anomaly."""
    scores = np.array(scores)
    for label in test.classes.tolist():
        inside = test.class_label == label
        kinds = [None]
        if data_set.has_spro:
            kinds = np.unique(test.defect[inside & (test.y == -1)]).tolist()
        aurocs = []
        for kind in kinds:
            chosen = inside if kind is None else inside & np.isin(test.defect, (kind, "good"))
            found = image_metrics(test.y[chosen], scores[chosen], test.class_label[chosen])
            aurocs.append(found.mean.auroc)
        yield label, float(np.mean(aurocs)) if aurocs else np.nan


def run(data_set, parts, args, parameters, progress):
    """Fit and measure one data set, as from `load`; return a record for each seed."""
    train, validation, test = parts
    records = []
    for seed in range(args.seeds):
        start = time.perf_counter()
        detector = HGADDetector(**{**parameters, "random_state": seed})
        detector.fit(train.images, train.target)
        fitted = time.perf_counter()
        figures = measure(data_set, detector, validation, test, image_size(args.pixel_size))
        records.append(
            {
                "seed": seed,
                "n_train": len(train.images),
                "n_test": len(test.images),
                "per_class": figures,
                "mean": _mean(figures),
                "fit_seconds": fitted - start,
                "score_seconds": time.perf_counter() - fitted,
            }
        )
        say(f"{data_set.title}, seed {seed}: image AUROC {records[-1]['mean']['image_auroc']:.3f}")
        progress(records)
    return records


def _mean(figures):
    """Return the mean of each figure over the classes; nan if a class lacks it."""
    keys = {key: None for of_class in figures.values() for key in of_class}
    return {key: float(np.mean([f.get(key, np.nan) for f in figures.values()])) for key in keys}


def columns_of(data_set):
    """Return {figure: heading} of a data set's table."""
    columns = {
        "image_auroc": "image AUROC",
        "pixel_auroc": "pixel AUROC",
        "aupro": f"AUPRO (to {100 * data_set.max_fpr:g} %)",
    }
    if data_set.has_seg_f1:
        columns["seg_f1"] = "SegF1"
    if data_set.has_spro:
        columns["au_spro"] = "AU-sPRO (to 5 %)"
    return columns


def render(data_set, records, args):
    """Return one data set's table, as Markdown."""
    columns = columns_of(data_set)
    table = []
    for label in records[0]["per_class"]:
        cells = (cell(values(records, ("per_class", label, key)), 3) for key in columns)
        table.append([label, *cells])
    table.append(["**mean**", *(cell(values(records, ("mean", key)), 3) for key in columns)])
    lines = [f"### {data_set.title}", "", *markdown(["class", *columns.values()], table), ""]
    cut = f", at most {args.limit} of each class and kind" if args.limit else ""
    lines += [
        f"{records[0]['n_train']} images to fit on, {records[0]['n_test']} to test on{cut}; "
        f"{repeats(len(records))}. One model for all classes, which infers the class of an image.",
        "",
    ]
    return "\n".join(lines)


def main(arguments=None):
    """Run the data sets that are there, print their tables, and name those that are not.

    Returns the exit status: 1 if none was run or one cannot be read.
    """
    args, parameters = parse_arguments(arguments)
    found = find_data_sets(args.data)
    missing = [DATA_SETS[name].title for name in args.sets if name not in found]
    content = {**describe_run(parameters), "not_found": missing, "broken": {}, "data_sets": {}}
    texts = []
    for name in args.sets:
        if name not in found:
            continue
        data_set = DATA_SETS[name]
        say(f"{data_set.title}: {found[name].root}")
        try:
            parts = load(name, found[name].root, args.limit)
        except (ValueError, OSError) as error:
            content["broken"][name] = str(error)
            texts.append(f"{data_set.title} cannot be read, so it was not run: {error}\n")
            print(texts[-1], flush=True)
            continue

        def progress(records, name=name):
            content["data_sets"][name] = records
            write_json(args.json, content)

        texts.append(render(data_set, run(data_set, parts, args, parameters, progress), args))
        print(texts[-1], flush=True)
        write_markdown(args.markdown, texts)
    if missing:
        texts.append(f"Not found in {args.data}, so not run: {', '.join(missing)}.\n")
        print(texts[-1], flush=True)
    write_json(args.json, content)
    write_markdown(args.markdown, texts)
    return 0 if content["data_sets"] and not content["broken"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
