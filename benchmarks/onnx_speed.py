"""Speed of an exported model in onnxruntime beside the detector it comes from.

    python -m benchmarks.onnx_speed [--sides 256 1024] [--batches 1 32] [--threads 1]
        [--markdown FILE] [--json FILE]

Both sides get the same uint8 images and return scores, classes and maps of the images' size: the
detector by `anomaly_maps`, the file by its three outputs. Images of another side than --image-size
are resized, by Pillow and inside the graph. Times are of one image, medians of repeated pairs, the
side that goes first in turn; the detector is fitted for a moment only, which changes no shape.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from skhgad import HGADDetector
from skhgad.features.backbones import EMBEDDED_BACKBONE

from ._figures import markdown, write_json, write_markdown
from .measurement import Comparison, environment
from .pictures import DEFAULT_DATA, load_pictures

_FITTED = 160  # images
_HEAD = ("images", "torch, ms", "onnxruntime, ms", "speed-up", "scores differ by at most")


def export(detector, path, threads):
    """Write the model; returns its session, seconds of the export and the file's MiB."""
    start = time.perf_counter()
    detector.to_onnx(path)
    seconds = time.perf_counter() - start
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session, seconds, path.stat().st_size / 2**20


def compare(detector, session, images, batch, repeats):
    """Time both sides on `images`, `batch` at a time; returns the Comparison and their distance."""
    parts = np.array_split(images, max(1, len(images) // batch))
    name = f"batch {batch}, {images.shape[1]} px"
    comparison = Comparison(name, "torch", images=len(images)).run(
        lambda: [detector.anomaly_maps(part) for part in parts],
        lambda: [session.run(None, {"image": part}) for part in parts],
        repeats,
        "cpu",
    )
    found = np.concatenate([session.run(["score"], {"image": part})[0] for part in parts])
    native = np.concatenate([detector.score_samples(part) for part in parts])
    return comparison, float(np.abs(found - native).max()), float(np.abs(native).max())


def parse(arguments=None):
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--data", type=Path, default=DEFAULT_DATA, help="folder of the benchmark")
    add("--backbone", default=EMBEDDED_BACKBONE)
    add("--weights", choices=("auto", "none"), default="auto", help="none = random")
    add("--image-size", type=int, default=256)
    add("--sides", type=int, nargs="+", default=[256, 1024])
    add("--batches", type=int, nargs="+", default=[1, 32])
    add("--images", type=int, default=32, help="images in each run")
    add("--repeats", type=int, default=5)
    add("--threads", type=int, default=1)
    add("--json", type=Path, help="write every figure here")
    add("--markdown", type=Path, help="write the table here")
    return parser.parse_args(arguments)


def fitted_detector(options):
    """Fit for a moment: speed depends on shapes alone."""
    detector = HGADDetector.fast(
        backbone=options.backbone,
        weights=None if options.weights == "none" else options.weights,
        image_size=options.image_size,
        random_state=0,
    )
    pictures = load_pictures(options.data, options.image_size, _FITTED)
    return detector.fit(pictures.pixels, pictures.labels)


def main(arguments=None):
    """Export, time, print and write."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    detector = fitted_detector(options)
    found = environment("cpu") | {"onnxruntime": onnxruntime.__version__}
    figures, rows = {"environment": found}, []
    with tempfile.TemporaryDirectory() as folder:
        session, seconds, size = export(detector, Path(folder) / "model.onnx", options.threads)
        figures["export"] = {"seconds": seconds, "MiB": size}
        for side in options.sides:
            images = load_pictures(options.data, side, options.images, split="test").pixels
            for batch in options.batches:
                comparison, distance, largest = compare(
                    detector, session, images, batch, options.repeats
                )
                figures[comparison.name] = comparison.record() | {
                    "distance": distance,
                    "largest": largest,
                }
                rows.append(
                    [
                        comparison.name,
                        _each(comparison.yardstick_seconds, images),
                        _each(comparison.skhgad_seconds, images),
                        f"{comparison.ratio:.2f}",
                        f"{distance:.1e} of {largest:.3g}",
                    ]
                )
                print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    described = ", ".join(f"{name} {value}" for name, value in found.items())
    lines = [f"{described}; export {seconds:.1f} s, {size:.1f} MiB", "", *markdown(_HEAD, rows), ""]
    print("\n".join(lines))
    write_json(options.json, figures)
    write_markdown(options.markdown, lines)


def _each(seconds, images):
    """Median time of an image, in ms."""
    return f"{1e3 * np.median(seconds) / len(images):.1f}"


if __name__ == "__main__":
    main()
