"""Memory and precision of the streaming pixel metrics.

    python -m benchmarks.pixel_memory [--maps 5000]

Streams synthetic anomaly maps of 256 x 256 through `PixelMetrics` and prints how far the resident
memory of the process rose above what Python and its packages hold. Then, after that was read,
computes the same figures exactly from all scores sorted (some 8 bytes a pixel) and prints the
differences. Exit status 1 if the rise reaches 1 GiB or a figure differs by more than 1e-3.
"""

import argparse
import resource
import sys
import time
from pathlib import Path

import numpy as np
from scipy import ndimage

from skhgad.metrics import PixelMetrics

SIZE = 256
LIMIT_BYTES = 1 << 30
TOLERANCE = 1e-3
MAX_FPR = 0.3
_ANOMALOUS = 0.5  # share of the maps with defects


def synthetic_map(seed, size=SIZE):
    """Draw one map and its mask: noise of two scales, raised inside up to three round defects.

    Returns
    -------
    anomaly_map : ndarray of shape (size, size), float32
    mask : ndarray of shape (size, size), bool
    """
    rng = np.random.default_rng(seed)
    coarse = rng.standard_normal((8, 8), dtype=np.float32)
    anomaly_map = np.kron(coarse, np.ones((size // 8, size // 8), dtype=np.float32))
    anomaly_map += rng.standard_normal((size, size), dtype=np.float32)
    mask = np.zeros((size, size), dtype=bool)
    if rng.random() < _ANOMALOUS:
        rows, columns = np.ogrid[:size, :size]
        for _ in range(rng.integers(1, 4)):
            row, column = rng.integers(0, size, 2)
            radius = rng.integers(2, size // 10)
            mask |= (rows - row) ** 2 + (columns - column) ** 2 <= radius**2
        anomaly_map[mask] += rng.uniform(0.5, 4)
    return anomaly_map, mask


def exact_figures(normal, anomalous, region_weight, max_fpr=MAX_FPR):
    """AUROC, AP, F1-max and AUPRO from all scores, up to ties between the two kinds of pixels.

    Written independently of `PixelMetrics`: recall and overlap stand still between two anomalous
    scores, so their ranks among the normal scores are all that is needed.

    Parameters
    ----------
    normal : ndarray of shape (n_normal,)
        Sorted in place.
    anomalous : ndarray of shape (n_anomalous,)
    region_weight : ndarray of shape (n_anomalous,)
        1 / area of the region of each anomalous pixel.
    max_fpr : float

    Returns
    -------
    dict of str to float
    """
    normal.sort()
    order = np.argsort(-anomalous, kind="stable")
    n_normal, n_anomalous = len(normal), len(anomalous)
    false = n_normal - np.searchsorted(normal, anomalous[order], side="left")
    true = np.arange(1, n_anomalous + 1)
    fpr = false / n_normal
    # Each anomalous pixel adds its weight to the overlap from its own rate of false positives on.
    weight = region_weight[order] / region_weight.sum()
    return {
        "auroc": float(1 - fpr.mean()),
        "ap": float((true / (true + false)).mean()),
        "f1_max": float((2 * true / (n_anomalous + true + false)).max()),
        "aupro": float((weight * np.clip(max_fpr - fpr, 0, None)).sum() / max_fpr),
    }


def collect(maps):
    """Split maps into scores of normal and of anomalous pixels and region weights, all float32."""
    normal, anomalous, weights = [], [], []
    for anomaly_map, mask in maps:
        regions, _ = ndimage.label(mask, structure=np.ones((3, 3)))
        inside = regions[mask]
        normal.append(anomaly_map[~mask])
        anomalous.append(anomaly_map[mask])
        weights.append(1 / np.bincount(inside)[inside] if len(inside) else np.zeros(0))
    return tuple(np.concatenate(part) for part in (normal, anomalous, weights))


def resident_memory():
    """Resident memory of this process in bytes; its peak so far where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return peak_memory()
    return pages * resource.getpagesize()


def peak_memory():
    """Peak resident memory of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main(arguments=None):
    """Run the benchmark; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--maps", type=int, default=5000, help="number of maps (default: 5000)")
    n_maps = parser.parse_args(arguments).maps
    before = resident_memory()
    pixels, start = PixelMetrics(max_fpr=MAX_FPR), time.perf_counter()
    for seed in range(n_maps):
        anomaly_map, mask = synthetic_map(seed)
        pixels.update(mask, anomaly_map)
    found = pixels.compute().pooled
    rise = peak_memory() - before
    print(
        f"{n_maps} maps of {SIZE} x {SIZE}, {n_maps * SIZE**2 / 1e6:.0f} million pixels, streamed "
        f"in {time.perf_counter() - start:.0f} s\n"
        f"resident memory at most {rise / 2**20:.0f} MiB above the {before / 2**20:.0f} MiB of "
        "Python and its packages"
    )
    exact = exact_figures(*collect(synthetic_map(seed) for seed in range(n_maps)))
    worst = 0.0
    print(f"{'':<8}{'streamed':>10}{'exact':>10}{'difference':>12}")
    for name, value in exact.items():
        worst = max(worst, abs(found[name] - value))
        print(f"{name:<8}{found[name]:>10.6f}{value:>10.6f}{found[name] - value:>12.1e}")
    return int(rise >= LIMIT_BYTES or worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
