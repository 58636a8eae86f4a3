"""Speed of an exported model in onnxruntime beside the detector it comes from.

    python -m benchmarks.onnx_speed [--sides 256 1024] [--batches 1 32] [--threads 1] [--json FILE]

Both sides get the same uint8 images and return scores, classes and maps of the images' size: the
detector by `anomaly_maps`, the file by its three outputs. Images of another side than --image-size
are resized, by Pillow and inside the graph. Seconds are medians of repeated pairs, the side that
goes first in turn; the detector is fitted for a moment only, which changes no shape.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from skhgad import HGADDetector

from .measurement import Comparison, environment
from .pictures import DEFAULT_DATA, load_pictures

_FITTED = 64  # images


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


def main():
    """Export, time and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="benchmark folder")
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--weights", default="auto", help='"none" = random')
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--sides", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--images", type=int, default=32, help="images in each run")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write every figure here")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    detector = HGADDetector(
        arguments.backbone,
        weights=None if arguments.weights == "none" else arguments.weights,
        image_size=arguments.image_size,
        max_iter=1,
        random_state=0,
    )
    pictures = load_pictures(arguments.data, arguments.image_size, _FITTED)
    detector.fit(pictures.pixels, pictures.labels)
    figures = {"environment": environment("cpu") | {"onnxruntime": onnxruntime.__version__}}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        session, seconds, size = export(detector, path, arguments.threads)
        print(f"export {seconds:.1f} s, {size:.1f} MiB, {figures['environment']}\n")
        print("| images | torch | onnxruntime | speed-up | scores differ by at most |")
        print("| --- | ---: | ---: | ---: | ---: |")
        for side in arguments.sides:
            images = load_pictures(arguments.data, side, arguments.images, split="test").pixels
            for batch in arguments.batches:
                comparison, distance, largest = compare(
                    detector, session, images, batch, arguments.repeats
                )
                print(
                    f"| {comparison.name} | {_each(comparison.yardstick_seconds, images)} "
                    f"| {_each(comparison.skhgad_seconds, images)} | {comparison.ratio:.2f} "
                    f"| {distance:.1e} of {largest:.3g} |",
                    flush=True,
                )
                figures[comparison.name] = comparison.record() | {
                    "distance": distance,
                    "largest": largest,
                }
    figures["export"] = {"seconds": seconds, "MiB": size}
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


def _each(seconds, images):
    """Median time of an image, in ms."""
    return f"{1e3 * np.median(seconds) / len(images):.1f} ms an image"


if __name__ == "__main__":
    sys.exit(main())
