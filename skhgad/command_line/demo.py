"""The demo: one model for two kinds of solar cell, beside a nearest-neighbour baseline."""

import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from sklearn.utils import Bunch
from torch.nn import functional as F

from ..display.heat_maps import HeatScale
from ..estimator import HGADDetector
from ..images.source import ImageSource
from ..metrics.per_image import image_metrics
from ..storage.files import check_folder_place
from ..storage.model_folder import check_model_place

_PACKAGES = ("elpv-dataset", "matplotlib")
_LICENCE = """\
Data: elpv-dataset, CC BY-NC-SA 4.0 (non-commercial; what you derive from the images, the picture
  below included, under the same licence). In scientific work cite Buerhop-Lutz et al., EU PVSEC
  2018, doi:10.4229/35thEUPVSEC20182018-5CV.3.15; Deitsch et al., Solar Energy 185, 2019,
  doi:10.1016/j.solener.2019.02.067; Deitsch et al., Machine Vision and Applications 32, 2021,
  doi:10.1007/s00138-021-01191-9."""
_N_TRAIN, _N_TEST = 200, 100  # cells of each product: normals to fit on; normals, and defects, kept
_TITLES = {"clear": "defect", "median": "defect, median detection", "normal": "normal, median"}
_BANK_SIZE = 4096  # training positions that the baseline stores
_N_SHOWN = 4  # clearest detections of each product in the picture


def demo(args):
    """Run the demo; `args` has the folder `out` and the int `seed`."""
    start = time.perf_counter()
    out = Path(args.out)
    check_folder_place(out, "--out")
    check_model_place(out / "model", "--out")
    with _naming_extras():
        from . import demo_sheet  # noqa: F401  (matplotlib is missed now, not after the fit)

        cells = split_cells(*load_cells(), seed=args.seed)
    print(describe(cells), _LICENCE, sep="\n", flush=True)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="skhgad-demo-") as memory:
        # `memory` keeps features, so that scores, maps and the baseline extract them once.
        detector = new_detector(memory, args.seed)
        with _timed(f"\nFitting one model on {len(cells.train)} normal cells of both products"):
            detector.fit(cells.train, cells.train_product)
        detector.set_params(verbose=0)
        with _timed(f"Scoring {len(cells.test)} other cells, whose product is not told"):
            found, scores, _, _, _ = detector.inspect(cells.test)
        with _timed("Nearest neighbours on the same features"):
            neighbour_scores = nearest_neighbour_scores(detector, cells, args.seed)
        print()
        print(compare(cells, scores, neighbour_scores, found, detector.offset_))
        sheet = write_detections(out / "detections.png", detector, cells, scores, found)
        detector.save(out / "model")
        again = HGADDetector.load(out / "model").set_params(memory=memory, verbose=0)
        largest = check_same(again.score_samples(cells.test), scores)
    print(
        f"\nModel: {(out / 'model').resolve()}\n"
        f"  read again, it gives the same scores (largest difference {largest:.1e})\n"
        f"Picture of the clearest detections: {sheet.resolve()}\n"
        f"{time.perf_counter() - start:.0f} s in all"
    )


def new_detector(memory, seed):
    """Return the unfitted detector: defaults in everything that bears on the scores."""
    return HGADDetector(memory=memory, random_state=seed, verbose=1)


def load_cells():
    """Read the cells of elpv-dataset.

    Returns
    -------
    images : ndarray of shape (2624, 300, 300), uint8
    probability : ndarray of shape (2624,), float
        Of a defect: 0, 1/3, 2/3 or 1, as the annotators were sure.
    product : ndarray of shape (2624,), str
        "mono" or "poly".
    """
    from elpv_dataset.utils import load_dataset

    return load_dataset()


def split_cells(images, probability, product, *, seed, n_train=_N_TRAIN, n_test=_N_TEST):
    """Draw, for each product, normal cells to fit on and other normal and defective ones to test.

    Parameters
    ----------
    images, probability, product : ndarray
        As from `load_cells`.
    seed : int
    n_train, n_test : int
        Most cells of each product: normals to fit on; normals, and defects, to test on. A
        product with fewer normals gives a third of them to the test at most.

    Returns
    -------
    Bunch
        `train`, `test` (images), `train_product`, `test_product` (str), `test_y` (+1 normal,
        -1 defect) and `counts`, dict from product to Bunch of int: `normal`, `defect`,
        `uncertain`, `train`, `test_normal`, `test_defect`.
    """
    rng = np.random.default_rng(seed)
    train, test, counts = [], [], {}
    for name in np.unique(product).tolist():
        normal = rng.permutation(np.flatnonzero((product == name) & (probability == 0)))
        defect = rng.permutation(np.flatnonzero((product == name) & (probability == 1)))
        test_normal = normal[: min(n_test, len(normal) // 3)]
        test_defect = defect[:n_test]
        train.append(normal[len(test_normal) :][:n_train])
        test += [test_normal, test_defect]
        counts[name] = Bunch(
            normal=len(normal),
            defect=len(defect),
            uncertain=int(np.sum(product == name)) - len(normal) - len(defect),
            train=len(train[-1]),
            test_normal=len(test_normal),
            test_defect=len(test_defect),
        )
    train, test = np.concatenate(train), np.concatenate(test)
    return Bunch(
        train=images[train],
        train_product=product[train],
        test=images[test],
        test_product=product[test],
        test_y=np.where(probability[test] == 0, 1, -1),
        counts=counts,
    )


def describe(cells):
    """Say in words what `split_cells` drew and what it left out."""
    lines = ["Electroluminescence images of solar cells; a product is a kind of silicon."]
    for name, n in cells.counts.items():
        unused = n.normal - n.train - n.test_normal + n.defect - n.test_defect
        lines.append(
            f"  {name}: fit on {n.train} normal cells, test on {n.test_normal} normal and "
            f"{n.test_defect} defective ones;\n"
            f"    left out: {n.uncertain} of uncertain label (probability of a defect neither 0 "
            f"nor 1), {unused} to save time"
        )
    lines.append("  Drawn at random: cells of one solar module may be on both sides.")
    return "\n".join(lines)


def nearest_neighbour_scores(detector, cells, seed, bank_size=_BANK_SIZE):
    """Score the test cells by a plain nearest-neighbour search (PatchCore without its coreset).

    Parameters
    ----------
    detector : HGADDetector
        Fitted; gives the features.
    cells : Bunch
        As from `split_cells`.
    seed : int
    bank_size : int
        Training positions to store, drawn at random, as many from every image.

    Returns
    -------
    ndarray of shape (n_test,), float64
        Minus the largest distance, over the positions of a cell, to the nearest stored position.
    """
    generator = torch.Generator().manual_seed(seed)
    per_image = -(-bank_size // len(cells.train))
    kept = []
    for vectors in _position_vectors(detector, cells.train):
        keys = torch.rand(vectors.shape[:2], generator=generator)
        chosen = keys.argsort(1)[:, :per_image, None].to(vectors.device)
        kept.append(vectors.gather(1, chosen.expand(-1, -1, vectors.shape[2])).flatten(0, 1))
    bank = torch.cat(kept)
    scores = []
    for vectors in _position_vectors(detector, cells.test):
        for image in vectors:
            scores.append(-torch.cdist(image, bank).amin(1).amax().item())
    return np.array(scores)


def _position_vectors(detector, images):
    """Yield the detector's features as (n, n_positions, n_features), levels joined.

    Coarser levels are interpolated to the first; each is divided by the root of its length, so
    that a long level does not outvote the others.
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


def compare(cells, scores, neighbour_scores, found, offset):
    """Set the detector's figures beside the baseline's, as text."""
    ours = image_metrics(cells.test_y, scores, cells.test_product, offset=offset)
    theirs = image_metrics(cells.test_y, neighbour_scores, cells.test_product)
    columns = [*ours.per_class.values(), ours.pooled]
    names = [*ours.per_class, "pooled"]
    rows = {
        "image AUROC": [""] * len(columns),
        "  HGADDetector, defaults": [f"{column.auroc:.3f}" for column in columns],
        "  nearest neighbours": [
            f"{column.auroc:.3f}" for column in (*theirs.per_class.values(), theirs.pooled)
        ],
        "at the detector's own threshold": [""] * len(columns),
        "  false alarms": [f"{100 * column.false_alarm_rate:.0f} %" for column in columns],
        "  missed defects": [f"{100 * column.miss_rate:.0f} %" for column in columns],
    }
    lines = ["".join([f"{'':<33}", *(f"{name:>9}" for name in names)])]
    lines += ["".join([f"{label:<33}", *(f"{c:>9}" for c in row)]) for label, row in rows.items()]
    return "\n".join(
        [
            *(line.rstrip() for line in lines),
            "Pooled: one threshold for both products. Neither method is told a cell's product; the",
            f"detector infers it, rightly for {100 * np.mean(found == cells.test_product):.1f} % "
            "of the cells. Nearest neighbours: PatchCore-like, the",
            f"largest distance of a cell's positions to about {_BANK_SIZE} stored training "
            "positions, drawn at random.",
        ]
    )


def write_detections(path, detector, cells, scores, found):
    """Draw cells of each product with their heat maps; return `path`.

    The clearest detections, then, so that the picture flatters nobody, the median detection and
    the median normal cell.
    """
    from .demo_sheet import Panel, write_sheet

    scale, rows = HeatScale.of(detector), {}
    for name in cells.counts:
        own = cells.test_product == name
        by_score = np.argsort(scores, kind="stable")
        detected = by_score[(own & (cells.test_y == -1) & (scores < detector.offset_))[by_score]]
        normal = by_score[(own & (cells.test_y == 1))[by_score]]
        shown = {int(i): "clear" for i in detected[:_N_SHOWN]}
        for kind, cases in (("median", detected), ("normal", normal)):
            if len(cases):
                shown.setdefault(int(cases[len(cases) // 2]), kind)
        images = cells.test[list(shown)]
        seen = detector.inspect(images, maps=True)
        rows[name] = [
            Panel(
                cells.test[i],
                scale.heat(anomaly_map),
                f"{_TITLES[kind]}\nclass found: {found[i]}\n"
                f"score {scores[i]:.1f}, p = {p_value:.3f}",
            )
            for (i, kind), p_value, anomaly_map in zip(
                shown.items(), seen.p_value, seen.maps, strict=True
            )
        ]
    write_sheet(
        path,
        rows,
        f"Defects found in test cells by one model of {' and '.join(cells.counts)} cells. Flagged: "
        f"score below {detector.offset_:.2f}.\n"
        "Blue: below the threshold; yellow: at it; red, purple: beyond. "
        "Images: elpv-dataset, CC BY-NC-SA 4.0",
    )
    return path


def check_same(again, scores):
    """Return the largest difference between the scores of the saved and of the fitted model.

    Raises
    ------
    RuntimeError
        If it is more than float32 rounding.
    """
    largest = float(np.abs(again - scores).max())
    if largest > 1e-4 * max(1.0, float(np.abs(scores).max())):
        raise RuntimeError(f"the saved model scores differently when read again, by {largest:.3g}.")
    return largest


@contextmanager
def _timed(task):
    print(f"{task} ...", flush=True)
    start = time.perf_counter()
    yield
    print(f"  {time.perf_counter() - start:.0f} s", flush=True)


@contextmanager
def _naming_extras():
    try:
        yield
    except ImportError as error:
        raise ImportError(
            f"the demo needs {' and '.join(_PACKAGES)} ({error}). Install them with\n"
            f'  python -m pip install "skhgad[demo]"    or    python -m pip install '
            f"{' '.join(_PACKAGES)}"
        ) from error
