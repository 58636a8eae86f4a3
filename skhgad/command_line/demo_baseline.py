"""The demo's baseline."""

import numpy as np
import torch
from torch.nn import functional as F

from ..images.source import ImageSource
from ..metrics.per_image import image_metrics

_BANK_SIZE = 4096  # stored positions


def nearest_neighbour_scores(detector, cells, seed, bank_size=_BANK_SIZE):
    """Score the test cells by nearest neighbours (PatchCore without its coreset).

    Returns an ndarray of shape (n_test,), float64, higher = more normal: minus the largest distance
    of a cell's positions to the nearest stored one. About `bank_size` positions are stored, drawn
    at random, equally many of every image.
    """
    generator = torch.Generator().manual_seed(seed)
    per_image = -(-bank_size // len(cells.train))
    stored = []
    for vectors in _position_vectors(detector, cells.train):
        keys = torch.rand(vectors.shape[:2], generator=generator)
        chosen = keys.argsort(1)[:, :per_image, None].to(vectors.device)
        stored.append(vectors.gather(1, chosen.expand(-1, -1, vectors.shape[2])).flatten(0, 1))
    bank = torch.cat(stored)
    scores = []
    for vectors in _position_vectors(detector, cells.test):
        for image in vectors:
            scores.append(-torch.cdist(image, bank).amin(1).amax().item())
    return np.array(scores)


def _position_vectors(detector, images):
    """Yield features as (n, n_positions, n_features), levels joined at the size of the first.

    Levels are scaled so that one of many features does not count more.
    """
    reader = detector.feature_reader()
    shapes = reader.extractor.levels
    size = shapes[0][1:]
    for levels, _ in reader.batches(ImageSource(images)):
        joined = []
        for x, (n_features, *shape) in zip(levels, shapes, strict=True):
            maps = x.mT.unflatten(2, shape)
            maps = F.interpolate(maps, size, mode="bilinear", align_corners=False)
            joined.append(maps.flatten(2).mT / n_features**0.5)
        yield torch.cat(joined, dim=2)


def compare(cells, inspection, neighbour_scores, offset):
    """Return the figures of `inspection` and of the baseline's (n_test,) scores, as text."""
    product = cells.test_product
    detector_figures = image_metrics(cells.test_y, inspection.score, product, offset=offset)
    baseline_figures = image_metrics(cells.test_y, neighbour_scores, product)
    names = [*detector_figures.per_class, "pooled"]
    ours = [*detector_figures.per_class.values(), detector_figures.pooled]
    theirs = [*baseline_figures.per_class.values(), baseline_figures.pooled]
    rows = {
        "": names,
        "image AUROC": [],
        "  HGADDetector, defaults": [f"{figures.auroc:.3f}" for figures in ours],
        "  nearest neighbours": [f"{figures.auroc:.3f}" for figures in theirs],
        "at the detector's own threshold": [],
        "  false alarms": [f"{100 * figures.false_alarm_rate:.0f} %" for figures in ours],
        "  missed defects": [f"{100 * figures.miss_rate:.0f} %" for figures in ours],
    }
    lines = ["".join([f"{label:<33}", *(f"{c:>9}" for c in row)]) for label, row in rows.items()]
    right = 100 * np.mean(inspection.class_label == product)
    return "\n".join(
        [
            *(line.rstrip() for line in lines),
            "Pooled: one threshold for both products. Neither method is told a cell's product; the",
            f"detector infers it, rightly for {right:.1f} % of the cells. Nearest neighbours: "
            "PatchCore-like, the",
            f"largest distance of a cell's positions to about {_BANK_SIZE} stored training "
            "positions, drawn at random.",
        ]
    )
