"""What a GPU gives: images a second, half precision, and models that change machines.

    python -m benchmarks.gpu --out DIR [--data DIR] [--json FILE] [--markdown FILE]   # with a GPU
    python -m benchmarks.gpu --check DIR [--data DIR]                # afterwards, with or without

The first command takes about five minutes on a large card. It measures, in this order:

accuracy  AUROC on the test images of the benchmark folder, with and without `mixed_precision`.
model     A model fitted on the GPU is saved in --out with its scores of test images, and loaded
          again for the CPU. `--check` loads it on another machine and compares.
speed     Images a second of `fit` and `score_samples` for each backbone and image size. The
          ceiling is timm's bare backbone in float16, channels_last, on pixels that lie on the GPU
          already, at the same image scales and batches. Every figure is the median of
          repeated runs, the one that goes first in turn.

A part that fails is told and leaves the others as they are; the exit status is then 1.
"""

import argparse
import logging
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

import numpy as np
import torch

from skhgad import HGADDetector
from skhgad.datasets import load_folder
from skhgad.features.backbones import EMBEDDED_BACKBONE
from skhgad.metrics import image_metrics

from ._figures import markdown, write_json, write_markdown
from .measurement import environment, timed
from .pictures import DEFAULT_DATA, load_pictures, write_files
from .sides import backbone_beside

BACKBONES = (EMBEDDED_BACKBONE, "tf_efficientnet_b6")
SIZES = {256: 512, 512: 256, 1024: 64}  # pixels a side: images of a run
BATCH = 32
PASSES = 4  # of training
N_COMPARED = 64  # images whose scores are saved beside the model
TARGET = 0.002  # of AUROC between precisions
_KINDS = ("score arrays", "score files", "fit")


def part_accuracy(options):
    """AUROC with the backbone in float16 and in float32."""
    train, test = (load_folder(options.data / "images", split=split) for split in ("train", "test"))
    rows, records = [], {}
    for mixed in (True, False):
        detector = HGADDetector(mixed_precision=mixed, random_state=0, device=options.device)
        start = time.perf_counter()
        detector.fit(train.images, train.class_label)
        fitted = time.perf_counter()
        scores = detector.score_samples(test.images)
        scored = time.perf_counter()
        figures = image_metrics(test.y, scores, test.class_label)
        name = "float16" if mixed else "float32"
        mean, pooled = float(figures.mean.auroc), float(figures.pooled.auroc)
        records[name] = {"mean": mean, "pooled": pooled, "scores": scores}
        seconds = f"{fitted - start:.1f}", f"{scored - fitted:.1f}"
        rows.append((name, f"{mean:.4f}", f"{pooled:.4f}", *seconds))
    half, single = records["float16"], records["float32"]
    apart = max(abs(half[kind] - single[kind]) for kind in ("mean", "pooled"))
    spread = np.ptp(single["scores"])
    moved = np.abs(half.pop("scores") - single.pop("scores")).max() / spread
    head = ("backbone in", "mean AUROC", "pooled AUROC", "fit, s", "score, s")
    met = "yes" if apart <= TARGET else "NO"
    text = (
        f"{_table(head, rows)}\n\n{len(train.y)} images to fit, {len(test.y)} to score. AUROC "
        f"differs by {apart:.4f} (asked <= {TARGET}: {met}), scores by at most {moved:.1%} of "
        "their range."
    )
    return text, records | {"auroc_apart": apart, "scores_apart": float(moved)}


def part_model(options):
    """Save a model and its scores, and load it for the CPU."""
    train, test = (load_folder(options.data / "images", split=split) for split in ("train", "test"))
    detector = HGADDetector.fast(random_state=0, device=options.device)
    detector.fit(train.images, train.class_label)
    compared = _compared(test)
    options.out.mkdir(parents=True, exist_ok=True)
    detector.save(options.out / "model")
    np.savez(
        options.out / "scores.npz",
        scores=detector.score_samples(compared),
        verdicts=detector.predict(compared),
    )
    text, record = compare_saved(options.out, test)
    return f"On the machine that saved it: {text}", record


def compare_saved(folder, test):
    """Score the same images on the CPU with the saved model; returns a sentence and figures."""
    compared = _compared(test)
    detector = HGADDetector.load(folder / "model").set_params(device="cpu")
    with np.load(folder / "scores.npz") as saved:
        there, verdicts = saved["scores"], saved["verdicts"]
    here = detector.score_samples(compared)
    moved = float(np.abs(here - there).max() / np.ptp(there))
    changed = int((detector.predict(compared) != verdicts).sum())
    return (
        f"{len(here)} images scored on the CPU differ by at most {moved:.2%} of the range of "
        f"scores; {changed} of {len(here)} verdicts changed.",
        {"scores_apart": moved, "verdicts_changed": changed, "images": len(here)},
    )


def _compared(test):
    rows = np.linspace(0, len(test.y) - 1, N_COMPARED).astype(int)
    return [test.images[row] for row in rows]


def part_speed(options):
    """Images a second beside the bare backbone's."""
    rows, records = [], []
    for size in options.sizes:
        for name in options.backbones:
            try:
                record = speed_of(name, size, options)
            except torch.OutOfMemoryError as error:
                rows.append((name, size, str(error).splitlines()[0]))
                continue
            records.append(record)
            ceiling = record["ceiling"]
            cells = [f"{record[kind]:.0f} ({record[kind] / ceiling:.0%})" for kind in _KINDS]
            rows.append((name, size, f"{ceiling:.0f}", *cells, f"{record['training']:.0f}"))
            print(rows[-1], file=sys.stderr, flush=True)
    head = (
        "backbone", "pixels", "ceiling, images/s", *(f"{k} (share)" for k in _KINDS),
        f"paper() of {PASSES} passes, images/s and pass",
    )  # fmt: skip
    return _table(head, rows), {"rows": records}


def _table(head, rows):
    return "\n".join(markdown(head, rows))


def speed_of(name, size, options):
    """Images a second of one backbone at one size, as a dict."""
    embedded = name == EMBEDDED_BACKBONE
    settings = dict(
        backbone=name,
        weights="auto" if embedded else None,
        image_size=size,
        device=options.device,
        random_state=0,
    )
    n = options.images or SIZES.get(size, 64)
    pictures = load_pictures(options.data, size, n)
    detector = HGADDetector.fast(**settings).fit(pictures.pixels[:64], pictures.labels[:64])
    bare = argparse.Namespace(
        backbone=name, weights="auto" if embedded else "none", device=options.device
    )
    model, *_ = backbone_beside(bare, detector)
    blank = torch.rand(BATCH, 3, size, size, device=options.device)
    blank = blank.contiguous(memory_format=torch.channels_last)

    device = torch.device(options.device).type

    def ceiling():
        is_gpu = device == "cuda"
        with torch.inference_mode(), torch.autocast(device, torch.float16, enabled=is_gpu):
            for _ in range(n // BATCH):
                model(blank)

    def train():
        HGADDetector.paper(**settings, max_iter=PASSES).fit(pictures.pixels, pictures.labels)

    with tempfile.TemporaryDirectory() as folder:
        paths = write_files(pictures.pixels, folder)
        sides = {
            "ceiling": ceiling,
            "score arrays": lambda: detector.score_samples(pictures.pixels),
            "score files": lambda: detector.score_samples(paths),
            "fit": lambda: HGADDetector.fast(**settings).fit(pictures.pixels, pictures.labels),
        }
        seconds = {kind: [] for kind in sides}
        for kind in ("ceiling", "score arrays"):
            sides[kind]()  # warms up
        for number in range(options.repeats):
            order = list(sides) if number % 2 == 0 else list(reversed(sides))
            for kind in order:
                seconds[kind].append(timed(sides[kind], options.device))
    done = {kind: (n // BATCH * BATCH if kind == "ceiling" else n) for kind in sides}
    record = {kind: done[kind] / float(np.median(seconds[kind])) for kind in sides}
    record["training"] = n * PASSES / timed(train, options.device)
    record |= {"backbone": name, "pixels": size}
    if device == "cuda":
        record["peak_gib"] = torch.cuda.max_memory_allocated(options.device) / 2**30
    return record


PARTS = {"accuracy": part_accuracy, "model": part_model, "speed": part_speed}


def parse(arguments=None):
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--part", nargs="+", choices=PARTS, default=list(PARTS))
    add("--data", type=Path, default=DEFAULT_DATA, help="folder of the benchmark")
    add("--device", default="cuda")
    add("--out", type=Path, help="folder for the saved model")
    add("--check", type=Path, metavar="DIR", help="compare a model that --out saved, and no more")
    add("--backbones", nargs="+", default=BACKBONES)
    add("--sizes", nargs="+", type=int, default=list(SIZES))
    add("--images", type=int, help="of a run; default: by size")
    add("--repeats", type=int, default=3)
    add("--json", type=Path)
    add("--markdown", type=Path)
    options = parser.parse_args(arguments)
    if options.check is None and options.out is None and "model" in options.part:
        parser.error("--out is needed for the part 'model'.")
    return options


def main(arguments=None):
    """Measure and print; returns the exit status."""
    options = parse(arguments)
    # timm warns of the classifier weights that a feature extractor leaves out.
    logging.getLogger("timm.models._builder").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", "too few held-out normals")
    if options.check:
        test = load_folder(options.data / "images", split="test")
        print(f"{environment('cpu')}\n\nHere: {compare_saved(options.check, test)[0]}")
        return 0
    described = ", ".join(f"{k} {v}" for k, v in environment(options.device).items())
    texts, records, status = [described], {"environment": environment(options.device)}, 0
    for part in options.part:
        start = time.perf_counter()
        try:
            text, records[part] = PARTS[part](options)
        except Exception:
            text, status = f"{part} failed:\n\n{traceback.format_exc()}", 1
        texts.append(f"{part}, {time.perf_counter() - start:.0f} s\n\n{text}")
        print(f"\n{texts[-1]}", flush=True)
        write_json(options.json, records)
        write_markdown(options.markdown, ["\n\n".join(texts) + "\n"])
    return status


if __name__ == "__main__":
    sys.exit(main())
