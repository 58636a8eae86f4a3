"""Accuracy of one unified HGAD model beside peers on the same features.

    python -m benchmarks.accuracy --data DIR [--seeds 3] [--json FILE]

DIR (default: the environment variable SKHGAD_BENCH, then ../shared/bench) holds `images/` in the
MVTec AD layout and `features/*.npz` with arrays X, class_name, split and y (0 normal, 1 anomaly);
either may be missing. The class of a test sample is told to nobody, except to peers marked
"class given". No test sample chooses anything (the honest protocol).
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.covariance import LedoitWolf
from sklearn.neighbors import NearestNeighbors

from skhgad import HGADDetector
from skhgad._cache import as_memory
from skhgad._features import image_batches
from skhgad.datasets import load_folder
from skhgad.images import ImageSource
from skhgad.metrics import PixelMetrics, image_metrics

_BANK = 20_000  # training vectors a nearest-neighbour peer keeps


def nearest_neighbour_scores(train, test, rng):
    """Score test samples (n, positions, d) by the largest distance to a stored training vector."""
    bank = train.reshape(-1, train.shape[-1])
    bank = bank[rng.permutation(len(bank))[:_BANK]]
    index = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(bank)
    distance, _ = index.kneighbors(test.reshape(-1, test.shape[-1]))
    return -distance.reshape(len(test), -1).max(1)


def mahalanobis_scores(train, test, rng):
    """Score test samples by the largest Ledoit-Wolf Mahalanobis distance of a position."""
    vectors = train.reshape(-1, train.shape[-1])
    vectors = vectors[rng.permutation(len(vectors))[:_BANK]]
    model = LedoitWolf().fit(vectors)
    distance = model.mahalanobis(test.reshape(-1, test.shape[-1]))
    return -distance.reshape(len(test), -1).max(1)


PEERS = {"nearest neighbours": nearest_neighbour_scores, "Mahalanobis": mahalanobis_scores}


def peer_scores(peer, train, train_labels, test, test_labels, rng):
    """Scores of one peer without class labels, and with one model for each given class."""
    given = np.empty(len(test))
    for label in np.unique(train_labels):
        chosen = test_labels == label
        given[chosen] = peer(train[train_labels == label], test[chosen], rng)
    return {"": peer(train, test, rng), ", class given": given}


def coarse_features(detector, images, memory):
    """Vectors of the detector's last level, (n, positions, d) float32."""
    batches = image_batches(
        ImageSource(list(images)), detector._extractor, device=torch.device("cpu"), memory=memory
    )
    return np.concatenate([features[-1].numpy() for features, _ in batches])


def summarize(metrics):
    """The figures of one run: per class, mean and pooled AUROC, false-alarm and miss rate."""
    figures = {str(name): found.auroc for name, found in metrics.per_class.items()}
    figures.update(mean=metrics.mean.auroc, pooled=metrics.pooled.auroc)
    if "false_alarm_rate" in metrics.pooled:
        figures["false alarms"] = metrics.pooled.false_alarm_rate
        figures["misses"] = metrics.pooled.miss_rate
    return figures


def run_seed(train, train_labels, test, test_labels, y, seed, *, memory=None, masks=None):
    """Fit and score everything once; returns {method: figures}."""
    rng = np.random.default_rng(seed)
    detector = HGADDetector(random_state=seed, memory=memory, n_jobs=2)
    start = time.perf_counter()
    detector.fit(train, train_labels)
    fitted = time.perf_counter()
    scores = detector.score_samples(test)
    end = time.perf_counter()
    metrics = image_metrics(y, scores, test_labels, offset=detector.offset_)
    results = {"HGAD": summarize(metrics)}
    results["HGAD"].update({"fit s": fitted - start, "score s": end - fitted})
    if masks is not None:
        results["HGAD"].update(pixel_figures(detector, test, test_labels, y, masks))
    if memory is not None:
        train, test = (coarse_features(detector, X, as_memory(memory)) for X in (train, test))
    else:
        train, test = train[:, None], test[:, None]
    for name, peer in PEERS.items():
        for form, values in peer_scores(peer, train, train_labels, test, test_labels, rng).items():
            results[name + form] = summarize(image_metrics(y, values, test_labels))
    return results


def pixel_figures(detector, test, labels, y, masks):
    """Pixel AUROC and AUPRO of the classes that have masks."""
    figures = {}
    for label in np.unique(labels):
        chosen = np.flatnonzero(labels == label)
        if any(masks[i] is None and y[i] == -1 for i in chosen):
            continue
        accumulator = PixelMetrics()
        for first in range(0, len(chosen), 32):
            rows = chosen[first : first + 32]
            for row, anomaly_map in zip(rows, detector.anomaly_maps(list(test[rows])), strict=True):
                accumulator.update(masks[row], anomaly_map, label, y=int(y[row]))
        found = accumulator.compute().per_class[label]
        figures[f"{label} pixel AUROC"] = found.auroc
        figures[f"{label} AUPRO"] = found.aupro
    return figures


def load_parts(folder):
    """Yield (name, train, train_labels, test, test_labels, y, masks, is_images)."""
    if (folder / "images").is_dir():
        bunch = load_folder(folder / "images")
        train, test = bunch.split == "train", bunch.split == "test"
        yield (
            "images", bunch.images[train], bunch.class_label[train], bunch.images[test],
            bunch.class_label[test], bunch.y[test], bunch.mask[test], True,
        )  # fmt: skip
    for path in sorted((folder / "features").glob("*.npz")):
        with np.load(path, allow_pickle=False) as table:
            X, labels, y = table["X"], table["class_name"], np.where(table["y"], -1, 1)
            train, test = table["split"] == "train", table["split"] == "test"
        yield path.name, X[train], labels[train], X[test], labels[test], y[test], None, False


def render(name, runs):
    """A Markdown table of means over seeds, with the spread (max - min) of HGAD's figures."""
    lines = [f"### {name}, {len(runs)} seed(s)", "", "| method | figures |", "| --- | --- |"]
    for method in runs[0]:
        cells = []
        for figure in runs[0][method]:
            values = [run[method][figure] for run in runs]
            digits = 0 if figure.endswith(" s") else 3
            spread = f" ± {np.ptp(values) / 2:.{digits}f}" if len(values) > 1 else ""
            cells.append(f"{figure} {np.mean(values):.{digits}f}{spread}")
        lines.append(f"| {method} | {', '.join(cells)} |")
    return "\n".join([*lines, ""])


def main():
    """Run the benchmark and print its tables."""
    default = os.environ.get("SKHGAD_BENCH", "../shared/bench")
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path(default), help="folder of the benchmark")
    parser.add_argument("--seeds", type=int, default=1, help="number of repetitions")
    parser.add_argument("--only", help="name of one part, e.g. images")
    parser.add_argument("--json", type=Path, help="also write every figure here")
    arguments = parser.parse_args()
    if not arguments.data.is_dir():
        parser.error(f"--data: no folder at {arguments.data}; set it or SKHGAD_BENCH.")
    figures = {}
    for name, train, train_labels, test, test_labels, y, masks, is_images in load_parts(
        arguments.data
    ):
        if arguments.only and arguments.only != name:
            continue
        with tempfile.TemporaryDirectory() as folder:
            runs = [
                run_seed(
                    train, train_labels, test, test_labels, y, seed,
                    memory=folder if is_images else None, masks=masks,
                )
                for seed in range(arguments.seeds)
            ]  # fmt: skip
        figures[name] = runs
        print(render(name, runs), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
