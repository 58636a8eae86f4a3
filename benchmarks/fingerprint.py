"""Write everything that a few small fits say to a file, or compare it with such a file.

Run it before and after a change that should leave every result as it is::

    python -m benchmarks.fingerprint write before.npz
    python -m benchmarks.fingerprint compare before.npz

Four detectors are fitted: vectors of one class, vectors of five classes, images of two classes, and
the published configuration on a few images. Of each, the scores, p-values, verdicts, classes,
explanations, anomaly maps and ONNX outputs of fresh samples are kept. Exit status 1 if a number
differs by more than 1e-12 (vectors) or 1e-6 (images), relative to values above 1.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from skhgad import HGADDetector

TOLERANCE = {"vectors": 1e-12, "images": 1e-6}


def textures(n, kind, rng, *, size=96):
    """Draw grey pictures of stripes (kind 0) or of checks (kind 1), uint8 (n, size, size)."""
    rows, columns = np.mgrid[:size, :size]
    pictures = []
    for _ in range(n):
        phase = rng.uniform(0, 2 * np.pi, 2)
        waves = np.sin(rows / 5 + phase[0]), np.sin(columns / 7 + phase[1])
        pattern = waves[0] if kind == 0 else waves[0] * waves[1]
        pictures.append(128 + 60 * pattern + rng.normal(0, 8, (size, size)))
    return np.clip(pictures, 0, 255).astype(np.uint8)


def damaged(pictures):
    """Return the pictures with a dark square in each."""
    pictures = pictures.copy()
    for i, picture in enumerate(pictures):
        place = 10 + 7 * i % 60
        picture[place : place + 14, place : place + 14] //= 3
    return pictures


def blobs(n_classes, n, rng):
    """Draw n vectors of 8 features for each class around a mean of its own, and their labels."""
    means = rng.normal(0, 4, (n_classes, 8))
    labels = np.repeat(np.arange(n_classes), n)
    return means[labels] + rng.normal(0, 1, (len(labels), 8)), labels


def cases():
    """Yield name, kind, unfitted detector, X and y to fit, and X to score."""
    rng = np.random.default_rng(0)
    for n_classes in (1, 5):
        X, y = blobs(n_classes, 60, rng)
        near = X[::3] + rng.normal(0, 0.3, X[::3].shape)
        fresh = np.concatenate([near, rng.normal(0, 9, (20, 8))])
        yield f"vectors-{n_classes}", "vectors", HGADDetector(random_state=0), X, y, fresh
    X = np.concatenate([textures(30, kind, rng) for kind in (0, 1)])
    y = np.repeat(["stripes", "checks"], 30)
    fresh = [textures(6, kind, rng) for kind in (0, 1)]
    fresh = np.concatenate([*fresh, *map(damaged, fresh)])
    detector = HGADDetector(image_size=128, max_iter=4, random_state=0)
    yield "images-2", "images", detector, X, y, fresh
    paper = HGADDetector.paper(
        backbone="tf_efficientnet_lite0", image_size=128, max_iter=3, random_state=0
    )
    yield "images-paper", "images", paper, X[::4], y[::4], fresh[::2]


def onnx_outputs(detector, X):
    """Run the exported model on X; return its outputs by name."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        detector.to_onnx(path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    if X.ndim == 3:
        X = np.repeat(X[..., None], 3, axis=-1)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {entry.name: X}), strict=True))


def outputs():
    """Fit every case; return what the detectors say as a dict of arrays."""
    found = {}
    for name, kind, detector, X, y, fresh in cases():
        detector.fit(X, y)
        seen = detector.inspect(fresh, maps=kind == "images")
        given = detector.predict_class(fresh)
        values = {
            "offset": detector.offset_,
            "score": seen.score,
            "p_value": seen.p_value,
            "verdict": seen.is_anomaly,
            "class": np.searchsorted(detector.classes_, seen.class_label),
            "score_given": detector.score_samples(fresh, class_labels=given),
            "p_value_given": detector.p_values(fresh, class_labels=given),
            **{f"onnx_{key}": value for key, value in onnx_outputs(detector, fresh).items()},
        }
        if kind == "images":
            values["maps"] = np.stack(seen.maps)
        explained = detector.explain(fresh)
        values["explained"] = np.array(
            [
                [
                    one.score,
                    one.peak if one.peak is not None else 0,
                    *(one.peak_position or (0, 0)),
                    one.area or 0,
                    len(one.regions),
                    sum(region.peak for region in one.regions),
                    -1 if one.level is None else one.level,
                    one.term == "entropy",
                ]
                for one in explained
            ],
            dtype=np.float64,
        )
        with tempfile.TemporaryDirectory() as folder:
            detector.save(Path(folder) / "model")
            again = HGADDetector.load(Path(folder) / "model")
        values["loaded"] = again.score_samples(fresh)
        if detector.class_covariance:
            if kind == "vectors":
                detector.add_class(X[:20] + 3, 99)
            else:
                detector.add_class(255 - X[:12], "negatives")
        values["extended"] = detector.score_samples(fresh)
        found.update({f"{name}/{key}": np.asarray(value) for key, value in values.items()})
    return found


def compare(found, expected):
    """Print the largest difference of each array; return whether all are within tolerance."""
    good = set(found) == set(expected)
    if not good:
        print("other names:", sorted(set(found) ^ set(expected)))
    for name in sorted(set(found) & set(expected)):
        own, old = (values[name].astype(np.float64) for values in (found, expected))
        largest = np.inf
        if own.shape == old.shape:
            largest = float((np.abs(own - old) / np.maximum(1, np.abs(old))).max(initial=0))
        tolerance = TOLERANCE[name.partition("-")[0]]
        good &= largest <= tolerance
        print(f"{name:<32} {largest:.1e}{'' if largest <= tolerance else '   DIFFERS'}")
    return good


def main(argv=None):
    """Write or compare; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=("write", "compare"))
    parser.add_argument("file", metavar="FILE", help=".npz")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)  # sums of one order
    found = outputs()
    if args.action == "write":
        np.savez_compressed(args.file, **found)
        return 0
    with np.load(args.file) as expected:
        return 0 if compare(found, dict(expected)) else 1


if __name__ == "__main__":
    sys.exit(main())
