"""Parts that are measured or photographed several times: false alarms of new parts, and accuracy.

    python -m benchmarks.repeats --data DIR [--part NAME] [--parts N ...] [--times N]

A detector is fitted to each part once, and to all repeats, without and with ``groups``. It judges
new parts, each measured once. docs/benchmarks.rst says what is measured.
"""

import warnings

import numpy as np
from PIL import Image
from sklearn.metrics import roc_auc_score

from skhgad import HGADDetector
from skhgad.metrics import image_metrics

from ._figures import markdown, row, write_json, write_markdown
from ._options import (
    benchmark_parser,
    describe_run,
    positive_int,
    read_parameters,
    read_parts,
    repeats,
    say,
)

# Of simulated vectors: features, parts, times, standard deviation within parts; over all it is 1.
SIMULATED = [
    (n_features, n_parts, times, within)
    for n_features, n_parts, times in ((6, 40, 5), (20, 40, 5), (20, 10, 20))
    for within in (1.0, 0.5, 0.2, 0.05)
]
WITHIN = 0.2  # of feature vectors: noise of a repeat, over the spread of the class
_FRESH = 1000
_FITS = {"once": "each part once", "all": "all repeats", "groups": "all repeats, `groups`"}
_COLUMNS = {
    f"{figure}, {title}": (key, name)
    for name, figure in (("alarms", "false alarms"), ("auroc", "AUROC"))
    for key, title in _FITS.items()
}


def simulated(n_features, n_parts, times, within, rng):
    """Return independent Gaussian features of parts, each measured several times."""
    centers = (1 - within**2) ** 0.5 * rng.normal(size=(n_parts, 1, n_features))
    X = centers + within * rng.normal(size=(n_parts, times, n_features))
    return X.reshape(-1, n_features)


def compare_simulated(setting, parameters, seed):
    """Return the figures of `compare` for parts as `simulated` makes them.

    Anomalies are new parts to whose features Gaussian noise of standard deviation 1 is added.
    """
    (n_features, n_parts, times, within), rng = setting, np.random.default_rng(seed)
    X, groups = simulated(*setting, rng), np.repeat(np.arange(n_parts), times)
    normal = simulated(n_features, _FRESH, 1, within, rng)
    anomalous = simulated(n_features, _FRESH, 1, within, rng) + rng.normal(size=normal.shape)
    tested = np.concatenate((normal, anomalous)), np.repeat([1, -1], _FRESH), None
    return compare(X, None, groups, tested, parameters, seed)


def compare(X, y, groups, tested, parameters, seed):
    """Fit to one sample of each part, to all, and to all with groups.

    `tested` are samples, +1 or -1 for each, and their classes, None for one.

    Returns
    -------
    dict of str to dict
        Of each fit, the share of normal test samples that is flagged, and the AUROC, mean over the
        classes.
    """
    first, found = np.unique(groups, return_index=True)[1], {}
    for name in _FITS:
        rows = first if name == "once" else np.arange(len(groups))
        detector = HGADDetector(**parameters, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of few samples, and of repeats
            detector.fit(
                [X[i] for i in rows], None if y is None else y[rows],
                groups=groups if name == "groups" else None,
            )  # fmt: skip
        fresh, truth, labels = tested
        scores = detector.score_samples(fresh)
        if labels is None:
            auroc = roc_auc_score(truth, scores)
        else:
            auroc = image_metrics(truth, scores, labels).mean.auroc
        alarms = float(np.mean(scores[truth == 1] < detector.offset_))
        found[name] = {"alarms": alarms, "auroc": float(auroc)}
    return found


def measured(part, rows, is_trained, rng):
    """Return new measurements of samples of a part: pictures moved, lit and with noise; vectors.

    Pictures are moved by up to 3 pixels, 3 % brighter or darker, with noise of 2 grey levels.
    """
    X = (part.X_train if is_trained else part.X_test)[rows]
    if not part.is_images:
        spread = np.mean([part.X_train[part.rows_of(k)[0]].std(0) for k in part.classes], axis=0)
        return list(X + WITHIN * spread * rng.normal(size=X.shape))
    return [_photographed(path, rng) for path in X]


def _photographed(path, rng):
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).astype(float)
    pixels = np.roll(pixels, rng.integers(-3, 4, 2), (0, 1)) * rng.uniform(0.97, 1.03)
    return np.clip(pixels + 2 * rng.normal(size=pixels.shape), 0, 255).astype(np.uint8)


def compare_part(part, n_parts, times, parameters, seed):
    """Return the figures of `compare` for some normals of each class, each measured anew."""
    rng = np.random.default_rng(seed)
    rows = [rng.permutation(part.rows_of(label)[0])[:n_parts] for label in part.classes]
    groups = np.repeat(np.concatenate(rows), times)
    X = measured(part, groups, True, rng)
    tested = measured(part, np.arange(len(part.X_test)), False, rng), part.y, part.class_test
    return compare(X, part.class_train[groups], groups, tested, parameters, seed)


def main(arguments=None):
    """Run, print the table and write it."""
    parser = benchmark_parser("repeats", __doc__)
    parser.add_argument(
        "--parts", nargs="+", type=positive_int, default=[20, 60], metavar="N",
        help="normals of each class (default: 20 60)",
    )  # fmt: skip
    parser.add_argument("--times", type=positive_int, default=3, help="of each (default: 3)")
    parser.add_argument("--no-simulation", action="store_true", help="the data alone")
    args = parser.parse_args(arguments)
    parts, parameters = read_parts(parser, args), read_parameters(parser, args)
    runs = {} if args.no_simulation else {
        f"{d} features, {n} x {times}, within {within:g}": (compare_simulated, setting)
        for setting in SIMULATED for d, n, times, within in [setting]
    }  # fmt: skip
    for part in parts:
        for n in args.parts:
            runs[f"{part.name}, {n} x {args.times} of a class"] = (
                lambda given, parameters, seed: compare_part(*given, parameters, seed),
                (part, n, args.times),
            )
    records = {}
    for name, (study, setting) in runs.items():
        records[name] = [study(setting, parameters, seed) for seed in range(args.seeds)]
        found = records[name][-1]
        say(f"{name}: " + ", ".join(f"{key} {one['alarms']:.3f}" for key, one in found.items()))
        write_json(args.json, {**describe_run(parameters), "runs": records})
    rows = [
        row(name, found, [(key, 3) for key in _COLUMNS.values()]) for name, found in records.items()
    ]
    title = f"### Repeats, {repeats(args.seeds)}"
    text = "\n".join([title, "", *markdown(["parts x times", *_COLUMNS], rows), ""])
    print(text, flush=True)
    write_markdown(args.markdown, [text])


if __name__ == "__main__":
    main()
