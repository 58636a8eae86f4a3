"""Other draws, single products, pairs, few samples, a long tail, contaminated normals, no labels.

    python -m benchmarks.robustness --data DIR [--only STUDY ...]

Peers are fitted class by class and told the class of each test sample; HGAD is told neither.
docs/benchmarks.rst says what is measured.
"""

import math
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
from sklearn.covariance import LedoitWolf

from skhgad import HGADDetector

from ._features import extract
from ._figures import cell, markdown, values, write_json, write_markdown
from ._methods import SUMMED, TITLES, Bench, applicable, run_hgad, run_peer
from ._options import (
    benchmark_parser,
    describe_run,
    memory_folder,
    read_parameters,
    read_parts,
    say,
    say_run,
)
from ._scales import run_scales_summed

STUDIES = ("redraw", "alone", "pairs", "few", "tail", "contamination", "discovery")
PEERS = ("mahalanobis", "nn", "padim")
FIGURES = {
    "mean": ("image", "mean", "auroc"),
    "pooled": ("image", "pooled", "auroc"),
    "pixel": ("pixel", "mean", "auroc"),
}
RATES = {
    "false alarms": ("image", "pooled", "false_alarm_rate"),
    "misses": ("image", "pooled", "miss_rate"),
}
_LABELLED = "labels given"
_TAIL, _EQUAL, _ALONE = "long tail", "equal numbers", "each alone"


def redraw(part, rng):
    """Return the part with its normals dealt anew: as many of each class to fit and to test on."""
    X_train, X_test = part.X_train.copy(), part.X_test.copy()
    for label in part.classes:
        fitted = np.flatnonzero(part.class_train == label)
        tested = np.flatnonzero((part.class_test == label) & (part.y == 1))
        pool = np.concatenate((X_train[fitted], X_test[tested]))[
            rng.permutation(len(fitted) + len(tested))
        ]
        X_train[fitted], X_test[tested] = pool[: len(fitted)], pool[len(fitted) :]
    return replace(part, X_train=X_train, X_test=X_test)


def pairs(part):
    """Return labels of the normals to fit on, by setting: each two neighbouring classes as one.

    Or each class with that in the other half.
    """
    codes, half = part.codes(part.class_train), max(1, len(part.classes) // 2)
    found = {"neighbours": codes // 2, "halves": codes % half}
    return {setting: np.char.add("pair ", pair.astype(str)) for setting, pair in found.items()}


def few_normals(part, n, rng):
    """Return the part with at most `n` normals of each class to fit on, drawn at random."""
    chosen = np.zeros(len(part.X_train), dtype=bool)
    for label in part.classes:
        chosen[rng.permutation(np.flatnonzero(part.class_train == label))[:n]] = True
    return part.taking(chosen, np.ones(len(part.X_test), dtype=bool))


def contaminate(part, share, rng):
    """Put test anomalies among the normals to fit on, as normals of their class.

    Parameters
    ----------
    part : Part
    share : float in (0, 0.5]
        Of the samples of each class to fit on; no more than half of the class's anomalies, rounded
        down, are taken.
    rng : numpy.random.Generator

    Returns
    -------
    clean, contaminated : Part
        Both are tested on what is left, so that their figures compare.
    """
    taken = np.zeros(len(part.X_test), dtype=bool)
    for label in part.classes:
        anomalies = np.flatnonzero((part.class_test == label) & (part.y == -1))
        n_normal = np.count_nonzero(part.class_train == label)
        wanted = math.ceil(n_normal * share / (1 - share))
        taken[rng.permutation(anomalies)[: min(wanted, len(anomalies) // 2)]] = True
    clean = part.taking(np.ones(len(part.X_train), dtype=bool), ~taken)
    contaminated = replace(
        clean,
        X_train=np.concatenate((part.X_train, part.X_test[taken])),
        class_train=np.concatenate((part.class_train, part.class_test[taken])),
    )
    return clean, contaminated


def long_tail(part, n_long, few, rng):
    """Give one class many normals to fit on, the others few.

    Parameters
    ----------
    part : Part
    n_long : int
        Normals of the class that has most. Where a table has fewer, more are drawn from the
        Ledoit-Wolf Gaussian of the class; images are as many as there are.
    few : (int, int)
        Normals of the others: from the first number to the second, evenly spaced, in random order.
    rng : numpy.random.Generator

    Returns
    -------
    tail, equal : Part
        `equal` has the same normals, but of the long class as many as the others have in the
        median. The long class takes no part in the test.
    """
    labels, counts = np.unique(part.class_train, return_counts=True)
    long = labels[counts.argmax()]
    small = rng.permutation(labels[labels != long])
    numbers = np.linspace(*few, len(small)).round().astype(int)
    chosen = np.zeros(len(part.X_train), dtype=bool)
    for label, n in zip(small, numbers, strict=True):
        chosen[rng.permutation(np.flatnonzero(part.class_train == label))[:n]] = True
    rows = rng.permutation(np.flatnonzero(part.class_train == long))
    tested = part.class_test != long
    parts = []
    for n in (n_long, int(np.median(numbers))):
        taken = chosen.copy()
        taken[rows[:n]] = True
        parts.append(part.taking(taken, tested))
    n_missing = n_long - len(rows)
    if n_missing > 0 and not part.is_images:
        gaussian = LedoitWolf().fit(part.X_train[rows])
        drawn = rng.multivariate_normal(gaussian.location_, gaussian.covariance_, n_missing)
        parts[0] = replace(
            parts[0],
            X_train=np.concatenate((parts[0].X_train, drawn.astype(part.X_train.dtype))),
            class_train=np.concatenate((parts[0].class_train, np.repeat(long, n_missing))),
        )
    return tuple(parts)


class Study:
    """Runs of one part: settings, in each of them methods, of each of those one record a seed.

    Parameters
    ----------
    name : str
        What is said of progress.
    methods : sequence of str
        Keys of `TITLES`.
    parameters : dict
        Of HGADDetector, with `memory`.
    pixel_size : int, (height, width) or None
    progress : callable
        Called after each run.
    """

    def __init__(self, name, methods, parameters, pixel_size, progress):
        self.name = name
        self.methods = methods
        self.parameters = parameters
        self.pixel_size = pixel_size
        self.progress = progress
        self.records = {}

    @contextmanager
    def bench(self, part):
        """Yield the Bench of a part, with its features."""
        detector = HGADDetector(**self.parameters)
        with (
            extract(detector, part.X_train, part.is_images) as train,
            extract(detector, part.X_test, part.is_images) as test,
        ):
            yield Bench(
                part, train, test, self.parameters, self.methods, pixel_size=self.pixel_size
            )

    def peers(self, part):
        """Keys of the peers among the methods that can run on a part."""
        keys = [key for key in applicable(part) if not key.startswith("hgad")]
        return [key for key in keys if key in self.methods]

    def run(self, setting, part, seed):
        """Run all methods on a part."""
        with self.bench(part) as bench:
            if {"hgad", "hgad-given"} & set(self.methods):
                for _, title, record in run_hgad(bench, seed):
                    self.add(setting, title, record)
            for key in self.peers(part):
                record = run_peer(bench, key, "class given", seed)
                self.add(setting, f"{TITLES[key]}, class given", record)

    def run_alone(self, part, seed):
        """Fit HGAD and the peers to each class by itself."""
        with self.bench(part) as bench:
            if {"hgad", "hgad-given"} & set(self.methods):
                self.add(_ALONE, TITLES["hgad-alone"], bench.fit_each_and_score(seed))
            for key in self.peers(part):
                self.add(_ALONE, TITLES[key], run_peer(bench, key, "class given", seed))
                if key in SUMMED and part.is_images:
                    record = run_scales_summed(bench, key, seed)
                    self.add(_ALONE, f"{TITLES[key]}, scales summed", record)

    def run_pairs(self, part, seed):
        """Fit HGAD to classes that are given in pairs, two as one, with modes and without."""
        bench = Bench(part, None, None, self.parameters, pixel_size=self.pixel_size)
        for setting, labels in pairs(part).items():
            for title, n_components in (("modes", "auto"), ("one Gaussian", 1)):
                record = bench.fit_and_score(seed, labels=labels, n_components=n_components)
                self.add(setting, title, record)

    def run_discovery(self, part, seed):
        """Fit HGAD with labels, told their number, and told nothing."""
        bench = Bench(part, None, None, self.parameters, pixel_size=self.pixel_size)
        for setting, changes in (
            (_LABELLED, {"labels": True}),
            ("number given", {"labels": False, "n_classes": len(part.classes)}),
            ("discovered", {"labels": False, "n_classes": "discover"}),
        ):
            self.add(setting, TITLES["hgad"], bench.fit_and_score(seed, **changes))

    def run_tail(self, tail, equal, seed):
        """Fit HGAD on the parts of `long_tail`, and on each class of the tail by itself."""
        for setting, part in ((_EQUAL, equal), (_TAIL, tail)):
            bench = Bench(part, None, None, self.parameters, pixel_size=self.pixel_size)
            self.add(setting, TITLES["hgad"], bench.fit_and_score(seed))
        bench = Bench(tail, None, None, self.parameters, pixel_size=self.pixel_size)
        self.add(_ALONE, TITLES["hgad"], bench.fit_each_and_score(seed))

    def add(self, setting, title, record):
        """Keep a record."""
        self.records.setdefault(setting, {}).setdefault(title, []).append(record)
        say_run(f"{self.name}, {setting}, {title}", record)
        self.progress()


def run_part(part, args, parameters, progress):
    """Run the studies that the options ask for.

    Parameters
    ----------
    part : Part
    args : argparse.Namespace
    parameters : dict
        Of HGADDetector, with `memory`.
    progress : callable
        Called with the records so far after each run.

    Returns
    -------
    dict
        For each study a dict from setting to method to a list of records, one a seed.
    """
    pixel_size = None if args.no_pixels else args.pixel_size
    studies = {}

    def report():
        progress({name: study.records for name, study in studies.items()})

    for name in args.only:
        if name == "tail" and len(part.classes) < 2:
            say(f"{part.name}, tail: left out, it takes two classes")
            continue
        title = f"{part.name}, {name}"
        studies[name] = Study(title, args.methods, parameters, pixel_size, report)
    for seed in range(args.seeds):
        for name, study in studies.items():
            rng = np.random.default_rng(seed)
            if name == "redraw":
                study.run("normals dealt anew", redraw(part, rng), seed)
            elif name == "alone":
                study.run_alone(redraw(part, rng), seed)
            elif name == "pairs":
                study.run_pairs(part, seed)
            elif name == "few":
                for n in args.few:
                    study.run(f"{n} normals", few_normals(part, n, rng), seed)
            elif name == "tail":
                study.run_tail(*long_tail(part, args.tail, args.tail_few, rng), seed)
            elif name == "contamination":
                clean, contaminated = contaminate(part, args.share, rng)
                study.run("clean", clean, seed)
                study.run("contaminated", contaminated, seed)
            else:
                study.run_discovery(part, seed)
    return {name: study.records for name, study in studies.items()}


def margins(records, path):
    """Figure of HGAD, class inferred, minus that of the best peer, seed by seed."""
    own = values(records[TITLES["hgad"]], path)
    peers = [values(runs, path) for title, runs in records.items() if "HGAD" not in title]
    return [a - max(others) for a, *others in zip(own, *peers, strict=True)]


def losses(before, after, path):
    """Figures of the records `before` minus those of `after`, seed by seed."""
    return list(np.subtract(values(before, path), values(after, path)))


def tables(part_name, studies):
    """Return the Markdown of `run_part`'s records, one table a study."""
    blocks = []
    for name, settings in studies.items():
        figures = {
            key: path
            for key, path in (FIGURES | RATES if name == "redraw" else FIGURES).items()
            if not all(
                np.isnan(values(runs, path)).any()
                for methods in settings.values()
                for runs in methods.values()
            )
        }
        renderers = {"alone": _alone_table, "discovery": _discovery_table, "tail": _tail_table}
        render = renderers.get(name, _methods_table)
        lines = render(settings, figures, with_losses=name == "contamination")
        blocks.append("\n".join([f"### {part_name}, {name}", "", *lines, ""]))
    return "\n".join(blocks)


def _methods_table(settings, figures, with_losses):
    """Lines of a table: a row a method, a column a setting and figure."""
    columns = [(setting, key) for setting in settings for key in figures]
    header = ["method", *(f"{setting}: {key}" for setting, key in columns)]
    titles = list(next(iter(settings.values())))
    rows = []
    for title in titles:
        rows.append([title])
        rows[-1] += [cell(values(settings[s][title], figures[key]), 3) for s, key in columns]
        if with_losses:
            pair = [methods[title] for methods in settings.values()]
            rows[-1] += [cell(losses(*pair, path), 3) for path in figures.values()]
    if with_losses:
        header += [f"loss: {key}" for key in figures]
    has_peers = any("HGAD" not in title for title in titles)
    if TITLES["hgad"] in titles and has_peers:
        row = ["HGAD, class inferred - best peer"]
        row += [cell(margins(settings[s], figures[key]), 3) for s, key in columns]
        rows.append(row + [""] * (len(header) - len(row)))
    return markdown(header, rows)


def _alone_table(settings, figures, with_losses):
    """Lines of a table: a row a method, a column a class, and HGAD less the best peer of each."""
    (records,) = settings.values()
    labels = list(next(iter(records.values()))[0]["image"]["per_class"])
    columns = [("image", "per_class", label, "auroc") for label in labels]
    columns.append(("image", "mean", "auroc"))
    rows = [
        [title, *(cell(values(runs, path), 3) for path in columns)]
        for title, runs in records.items()
    ]
    own = records.get(TITLES["hgad-alone"])
    peers = [runs for runs in records.values() if runs is not own]
    if own is not None and peers:
        row = ["HGAD - best peer of all seeds"]
        for path in columns:
            best = max(peers, key=lambda runs: np.mean(values(runs, path)))
            row.append(cell(losses(own, best, path), 3))
        rows.append(row)
    return markdown(["image AUROC", *labels, "mean"], rows)


def _discovery_table(settings, figures, with_losses):
    """Lines of a table: a row for each way to have classes."""
    header = ["HGAD, class inferred", *figures, *(f"loss: {key}" for key in figures)]
    header += ["classes", "Rand index"]
    rows, (first,) = [], settings[_LABELLED].values()
    for setting, methods in settings.items():
        (runs,) = methods.values()
        row = [setting, *(cell(values(runs, path), 3) for path in figures.values())]
        row += [cell(losses(first, runs, path), 3) for path in figures.values()]
        row += [cell(values(runs, ("n_classes",)), 1), cell(values(runs, ("rand_index",)), 3)]
        rows.append(row)
    return markdown(header, rows)


def _tail_table(settings, figures, with_losses):
    """Lines of a table: a row a setting, with what the long tail gains over it."""
    header = ["HGAD, small classes", *figures, *(f"long tail gains: {key}" for key in figures)]
    by_setting = {setting: methods[TITLES["hgad"]] for setting, methods in settings.items()}
    rows = []
    for setting, runs in by_setting.items():
        row = [setting, *(cell(values(runs, path), 3) for path in figures.values())]
        gains = (losses(by_setting[_TAIL], runs, path) for path in figures.values())
        rows.append(row + ["" if setting == _TAIL else cell(gain, 3) for gain in gains])
    return markdown(header, rows)


def parse_arguments(arguments=None):
    """Return the options, the parts and the detector's parameters; exit on wrong usage."""
    parser = benchmark_parser("robustness", __doc__, pixels=True)
    keys = [key for key in TITLES if key not in ("hgad-unlabelled", "hgad-alone")]
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=keys,
        default=["hgad", *PEERS],
        metavar="NAME",
        help=f"of {', '.join(keys)} (default: hgad {' '.join(PEERS)})",
    )
    parser.add_argument("--only", nargs="+", choices=STUDIES, default=STUDIES, help="default: all")
    parser.add_argument(
        "--few", nargs="+", type=int, default=[10, 20, 50], metavar="N", help="normals of a class"
    )
    parser.add_argument(
        "--share", type=float, default=0.05, help="of anomalies among the normals (default: 0.05)"
    )
    parser.add_argument(
        "--tail", type=int, default=500, metavar="N", help="normals of the long class"
    )
    parser.add_argument(
        "--tail-few",
        nargs=2,
        type=int,
        default=[10, 50],
        metavar=("LOW", "HIGH"),
        help="normals of the others (default: 10 50)",
    )
    args = parser.parse_args(arguments)
    if not 1 <= args.tail_few[0] <= args.tail_few[1] <= args.tail:
        parser.error(
            "--tail-few and --tail: 1 <= LOW <= HIGH <= N is needed, got "
            f"{args.tail_few[0]}, {args.tail_few[1]} and {args.tail}."
        )
    if min(args.few) < 1:
        parser.error(f"--few must be at least 1, got {min(args.few)}.")
    if not 0 < args.share <= 0.5:
        parser.error(f"--share must lie in (0, 0.5], got {args.share:g}.")
    return args, read_parts(parser, args), read_parameters(parser, args)


def main(arguments=None):
    """Run the studies, print their tables and write them."""
    args, parts, parameters = parse_arguments(arguments)
    content, texts = {**describe_run(parameters), "seeds": args.seeds, "parts": {}}, []
    with memory_folder(args) as memory:
        for part in parts:

            def progress(studies, name=part.name):
                content["parts"][name] = studies
                write_json(args.json, content)

            studies = run_part(part, args, {**parameters, "memory": memory}, progress)
            texts.append(tables(part.name, studies))
            print(texts[-1], flush=True)
            write_markdown(args.markdown, texts)


if __name__ == "__main__":
    main()
