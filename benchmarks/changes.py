"""False alarms if pictures change after the fit, without and with ``augmentation``, and its price.

    python -m benchmarks.changes --data DIR [--part NAME] [--train N]

The changes are made here, not by the package. docs/benchmarks.rst says what is measured.
"""

import io
import math
import time
import warnings

import numpy as np
from PIL import Image
from scipy import ndimage

from skhgad import HGADDetector
from skhgad.images import ImageSource
from skhgad.metrics import image_metrics

from ._figures import cell, markdown, values, write_json, write_markdown
from ._options import (
    benchmark_parser,
    describe_run,
    positive_int,
    read_parameters,
    read_parts,
    repeats,
    say,
)
from .robustness import few_normals

_TITLES = {None: "none", "slight": '"slight"', "mild": '"mild"'}
_FIGURES = {
    "mean": ("image", "mean", "auroc"),
    "pooled": ("image", "pooled", "auroc"),
    "misses": ("image", "pooled", "miss_rate"),
    "fit s": ("fit_seconds",),
}


def _shifted(pixels, rng):
    """Move a picture by a 64th of its sides, in a random direction; its edges are repeated."""
    angle, (height, width) = rng.uniform(0, 2 * math.pi), pixels.shape[:2]
    steps = math.sin(angle) * height / 64, math.cos(angle) * width / 64, 0
    return ndimage.shift(pixels, steps, order=1, mode="nearest")


def _turned(pixels, rng):
    degrees = 1.5 * rng.choice([-1, 1])
    return ndimage.rotate(pixels, degrees, reshape=False, order=1, mode="nearest")


def _noisy(pixels, rng):
    """Add noise of 3 grey levels; a grey picture stays grey."""
    is_grey = (pixels == pixels[..., :1]).all()
    return pixels + rng.normal(0, 3, (*pixels.shape[:2], 1 if is_grey else pixels.shape[2]))


def _blurred(pixels, rng):
    sigma = min(pixels.shape[:2]) / 256
    return ndimage.gaussian_filter(pixels, (sigma, sigma, 0))


def _compressed(pixels, rng):
    file = io.BytesIO()
    Image.fromarray(_bytes(pixels)).save(file, "JPEG", quality=40)
    return np.asarray(Image.open(file))


# Each takes float pixels (height, width, 3) from 0 to 255 and a random generator.
CHANGES = {
    "none": lambda pixels, rng: pixels,
    "moved by 1/64": _shifted,
    "turned by 1.5 degrees": _turned,
    "noise of 3 grey levels": _noisy,
    "10 % brighter": lambda pixels, rng: 1.1 * pixels,
    "10 % darker": lambda pixels, rng: 0.9 * pixels,
    "blur of 1/256": _blurred,
    "JPEG of quality 40": _compressed,
}


def _bytes(pixels):
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def changed(paths, name, rng, value_range=None):
    """Read pictures and change them; return a list of uint8 arrays (height, width, 3)."""
    source, found = ImageSource(list(paths), value_range=value_range), []
    for i in range(len(source)):
        pixels = source.read(i)
        factor = 1 if pixels.dtype == np.uint8 else 255
        found.append(_bytes(CHANGES[name](pixels * np.float64(factor), rng)))
    return found


def measure(part, augmentation, parameters, seed):
    """Fit to the normals of a part; return the figures of one run, as dict.

    "flagged" has of each change the share of the normal test pictures that are flagged: of all, and
    of the product with the largest.
    """
    detector = HGADDetector(**{**parameters, "augmentation": augmentation}, random_state=seed)
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few samples
        detector.fit(part.X_train, part.class_train)
    seconds = time.perf_counter() - start
    scores = detector.score_samples(part.X_test)
    found = image_metrics(part.y, scores, part.class_test, offset=detector.offset_)
    normal, flagged = part.y == 1, {}
    labels = part.class_test[normal]
    for name in CHANGES:
        rng = np.random.default_rng(seed)
        pictures = changed(part.X_test[normal], name, rng, parameters["value_range"])
        is_flagged = detector.score_samples(pictures) < detector.offset_
        shares = [float(is_flagged[labels == label].mean()) for label in np.unique(labels)]
        flagged[name] = {"all": float(is_flagged.mean()), "worst": max(shares)}
    return {"seed": seed, "fit_seconds": seconds, "image": found, "flagged": flagged}


def tables(title, runs):
    """Return the Markdown of the records of each augmentation, two tables."""
    header, rows = ["augmentation", *_FIGURES], []
    for name, records in runs.items():
        digits = [0 if key == "fit s" else 3 for key in _FIGURES]
        cells = zip(_FIGURES.values(), digits, strict=True)
        rows.append([name, *(cell(values(records, path), n) for path, n in cells)])
    lines = [f"### {title}", "", *markdown(header, rows), ""]
    columns = [(name, of) for of in ("all", "worst") for name in runs]
    titles = {"all": "flagged", "worst": "of the worst product"}
    header = ["change", *(f"{titles[of]}, {name}" for name, of in columns)]
    rows = [
        [change, *(cell(values(runs[name], ("flagged", change, of)), 3) for name, of in columns)]
        for change in CHANGES
    ]
    return "\n".join([*lines, *markdown(header, rows), ""])


def main(arguments=None):
    """Run, print the tables and write them."""
    parser = benchmark_parser("changes", __doc__)
    parser.add_argument(
        "--train", type=positive_int, metavar="N", help="normals of each class (default: all)"
    )
    parser.set_defaults(seeds=1)
    args = parser.parse_args(arguments)
    parts, parameters = read_parts(parser, args), read_parameters(parser, args)
    content, texts = {**describe_run(parameters), "parts": {}}, []
    for part in parts:
        if not part.is_images:
            say(f"{part.name}: left out, it has no pictures")
            continue
        runs = content["parts"][part.name] = {title: [] for title in _TITLES.values()}
        for seed in range(args.seeds):
            chosen = part
            if args.train is not None:
                chosen = few_normals(part, args.train, np.random.default_rng(seed))
            for augmentation, title in _TITLES.items():
                runs[title].append(measure(chosen, augmentation, parameters, seed))
                record = runs[title][-1]
                say(f"{part.name}, {title}, seed {seed}: fit {record['fit_seconds']:.0f} s")
                write_json(args.json, content)
        texts.append(tables(f"{part.name}, {repeats(args.seeds)}", runs))
        print(texts[-1], flush=True)
        write_markdown(args.markdown, texts)


if __name__ == "__main__":
    main()
