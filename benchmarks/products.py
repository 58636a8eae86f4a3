"""How much does a product lose where one model holds five hundred?

    python -m benchmarks.products [--sizes 5 50 500] [--pictures 20] [--markdown FILE] [--json FILE]

A product is a window of a picture that scikit-image comes with, at a fixed place and under a fixed
transform: turned, mirrored, channels exchanged, brighter or darker, of more or less contrast. Each
of its pictures is shifted by a few pixels, a little brighter or darker, and noisy; a defect is a
patch of another product, a scratch or a blurred spot. Everything is drawn from seeds.

The first --judged products are scored by every model, in groups: a model of five products is
fitted for each group of five. So all AUROC are of the same pictures, the class inferred. Also
shown: how often the class of a normal picture is found, seconds of fit and of scoring a picture,
the size of the saved model without its backbone, and `add_class` with features at hand. Peers
without labels see the same features.
"""

import argparse
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from skimage import data
from sklearn.metrics import roc_auc_score

from skhgad import HGADDetector

from ._features import extract
from ._figures import markdown, write_json, write_markdown
from .peers import make_peer, scores_and_maps

SIDE, MARGIN = 128, 8
_BASES = (
    "astronaut", "brick", "camera", "cat", "clock", "coffee", "coins", "grass", "gravel",
    "hubble_deep_field", "immunohistochemistry", "moon", "page", "retina", "rocket", "text",
)  # fmt: skip
_PEERS = {"nn": "PatchCore, no labels", "mahalanobis": "Mahalanobis, no labels"}
_N_TIMED = 128


def base_pictures():
    """Return the pictures that products are cut from, float32 (height, width, 3) in [0, 1]."""
    found = []
    for name in _BASES:
        pixels = np.asarray(getattr(data, name)(), dtype=np.float32) / 255
        found.append(np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels)
    return found


class Product:
    """One product, drawn from its number."""

    def __init__(self, number, bases):
        self.number, self.bases = number, bases
        rng = np.random.default_rng([number, 0])
        base, whole = bases[number % len(bases)], SIDE + 2 * MARGIN
        side = min(whole, *base.shape[:2])
        top, left = (int(rng.integers(0, n - side + 1)) for n in base.shape[:2])
        window = base[top : top + side, left : left + side]
        window = np.rot90(window, rng.integers(4))
        window = window[:, ::-1] if rng.integers(2) else window
        window = window[..., rng.permutation(3)] ** rng.uniform(0.6, 1.6)
        window = rng.uniform(0.5, 1) * window + rng.uniform(0, 0.2, 3)
        pad = [(0, whole - side)] * 2 + [(0, 0)]
        self.window = np.clip(np.pad(window, pad, mode="reflect"), 0, 1).astype(np.float32)

    def pictures(self, n, kind):
        """Draw pictures: of "train", "normal" or "defect"; uint8 (n, 128, 128, 3)."""
        rng = np.random.default_rng([self.number, 1 + ("train", "normal", "defect").index(kind)])
        return np.stack([self._picture(rng, is_damaged=kind == "defect") for _ in range(n)])

    def _picture(self, rng, *, is_damaged):
        top, left = rng.integers(MARGIN - 3, MARGIN + 4, 2)
        pixels = self.window[top : top + SIDE, left : left + SIDE]
        if is_damaged:
            pixels = self._damaged(pixels.copy(), rng)
        pixels = pixels * rng.uniform(0.95, 1.05) + rng.normal(0, 0.012, pixels.shape)
        return np.clip(255 * pixels, 0, 255).astype(np.uint8)

    def _damaged(self, pixels, rng):
        row, column = rng.integers(20, SIDE - 20, 2)
        rows, columns = np.ogrid[:SIDE, :SIDE]
        kind = rng.integers(3)
        if kind == 0:  # a patch of another product
            other = Product(self.number + int(rng.integers(1, len(self.bases))), self.bases)
            radius = rng.integers(6, 12)
            spot = (rows - row) ** 2 + (columns - column) ** 2 <= radius**2
            pixels[spot] = other.window[:SIDE, :SIDE][spot]
        elif kind == 1:  # a scratch
            angle = rng.uniform(0, np.pi)
            across = (rows - row) * np.cos(angle) - (columns - column) * np.sin(angle)
            along = (rows - row) * np.sin(angle) + (columns - column) * np.cos(angle)
            line = (np.abs(across) < 1) & (np.abs(along) < rng.integers(8, 20))
            pixels[line] = rng.uniform(0.2, 0.9) * pixels[line]
        else:  # a spot whose details are gone
            radius = rng.integers(8, 14)
            spot = (rows - row) ** 2 + (columns - column) ** 2 <= radius**2
            pixels[spot] = 0.3 * pixels[spot] + 0.7 * pixels[spot].mean(0)
        return pixels


def stacked(products, n, kind):
    """Return pictures of several products and the product of each, as text."""
    pixels = np.concatenate([product.pictures(n, kind) for product in products])
    return pixels, np.repeat([f"{product.number:03d}" for product in products], n)


def judge(scores, is_normal, labels):
    """Return the AUROC of each product, a dict."""
    return {
        label: float(roc_auc_score(is_normal[labels == label], scores[labels == label]))
        for label in np.unique(labels)
    }


def own_mib(folder):
    """Return the size of a saved model without its backbone, in MiB."""
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "np") as file:
        names = [name for name in file.keys() if "backbone" not in name]  # noqa: SIM118
        return sum(file.get_tensor(name).nbytes for name in names) / 2**20


def measure(products, judged, extra, options, memory):
    """Fit one model of some products; return figures and the AUROC of the judged, and the model."""
    train, labels = stacked(products, options.pictures, "train")
    settings = dict(image_size=SIDE, memory=memory, random_state=0, device=options.device)
    start = time.perf_counter()
    detector = HGADDetector.fast(**settings).fit(train, labels)
    first = time.perf_counter() - start
    start = time.perf_counter()
    HGADDetector.fast(**settings).fit(train, labels)  # features at hand
    at_hand = time.perf_counter() - start
    normal, label_normal = stacked(judged, options.test, "normal")
    damaged, label_damaged = stacked(judged, options.test, "defect")
    X, of = np.concatenate([normal, damaged]), np.append(label_normal, label_damaged)
    is_normal = np.arange(len(X)) < len(normal)
    found = judge(detector.score_samples(X), is_normal, of)
    others, label_others = stacked(products, 4, "normal")
    hits = float(np.mean(detector.predict_class(others) == label_others))
    timed = X[:_N_TIMED]
    plain = detector.set_params(memory=None)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        plain.score_samples(timed)
        seconds.append((time.perf_counter() - start) / len(timed))
    detector.set_params(memory=memory)
    with tempfile.TemporaryDirectory() as folder:
        detector.save(Path(folder) / "model")
        size = own_mib(Path(folder) / "model")
    more, more_labels = stacked([extra], options.pictures, "train")
    detector.score_samples(more)  # its features are remembered
    start = time.perf_counter()
    detector.add_class(more, more_labels)
    figures = {
        "products": len(products),
        "auroc": found,
        "class_found": hits,
        "fit_seconds": first,
        "fit_at_hand_seconds": at_hand,
        "score_ms": 1e3 * float(np.median(seconds)),
        "model_mib": size,
        "add_class_seconds": time.perf_counter() - start,
    }
    figures["peers"] = {
        key: peer_auroc(key, train, X, of, is_normal, settings) for key in options.peers
    }
    return figures


def peer_auroc(key, train, X, of, is_normal, settings):
    """Return the AUROC of the judged products by a peer that is told no class."""
    detector = HGADDetector.fast(**settings)
    with extract(detector, train, True) as seen, extract(detector, X, True) as unseen:
        peer = make_peer(key, True, 1)
        peer.fit(seen, np.arange(len(train)), 0)
        scores, _ = scores_and_maps(peer, unseen, np.arange(len(X)))
    return judge(scores, is_normal, of)


def main(arguments=None):
    """Measure and print; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--sizes", type=int, nargs="+", default=[5, 50, 500])
    add("--pictures", type=int, default=20, help="of each product, to fit on")
    add("--test", type=int, default=20, help="of each judged product and kind, to score")
    add("--judged", type=int, default=20, help="products that are judged")
    add("--peers", nargs="*", choices=_PEERS, default=list(_PEERS))
    add("--device", default="auto")
    add("--memory", type=Path, help="folder for features; default: a temporary one")
    add("--json", type=Path)
    add("--markdown", type=Path)
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore", category=UserWarning)
    bases = base_pictures()
    products = [Product(number, bases) for number in range(max(options.sizes) + 1)]
    *products, extra = products
    judged, rows, records = products[: options.judged], [], []
    with tempfile.TemporaryDirectory() as folder:
        memory = str(options.memory or folder)
        for size in sorted(options.sizes):
            if size < len(judged):
                groups = [judged[i : i + size] for i in range(0, len(judged), size)]
                parts = [measure(group, group, extra, options, memory) for group in groups]
            else:
                parts = [measure(products[:size], judged, extra, options, memory)]
            records.append(parts)
            rows.append(row_of(size, parts, options))
            print(rows[-1], file=sys.stderr, flush=True)
            write_json(options.json, records)
    head = (
        "products", "mean AUROC", *(_PEERS[key] for key in options.peers), "class found",
        "fit, s", "features at hand, s", "score, ms", "model, MiB", "add_class, s",
    )  # fmt: skip
    text = "\n".join(markdown(head, rows))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n\n{text}")
    write_markdown(options.markdown, [text + "\n"])
    return 0


def row_of(size, parts, options):
    """Return one row of the table, means over the models of this size."""

    def mean(name):
        return float(np.mean([part[name] for part in parts]))

    def auroc(found):
        return f"{np.mean([value for part in found for value in part.values()]):.4f}"

    return (
        size,
        auroc([part["auroc"] for part in parts]),
        *(auroc([part["peers"][key] for part in parts]) for key in options.peers),
        f"{mean('class_found'):.1%}",
        f"{mean('fit_seconds'):.1f}",
        f"{mean('fit_at_hand_seconds'):.1f}",
        f"{mean('score_ms'):.1f}",
        f"{mean('model_mib'):.1f}",
        f"{mean('add_class_seconds'):.2f}",
    )


if __name__ == "__main__":
    sys.exit(main())
