"""Tables of one class, beside the usual detectors: AUROC, rank and time.

    python -m benchmarks.tables [--data DIR] [--only NAME ...] [--methods NAME ...]
    python -m benchmarks.tables --unclean --methods hgad hgad-unclean nn lof ledoit-wolf iforest
    python -m benchmarks.tables --simulated
    python -m benchmarks.tables --rows 100000 1000000
    python -m benchmarks.tables --rows 200 --features 20000

DIR holds NAME.npz with X (n, n_features) and y (0 normal, 1 anomaly). The first half of the normals
in file order is fitted on, after StandardScaler; the rest and all anomalies are scored. No detector
gets labels. --simulated makes the data: several modes, and relations between features.

--unclean puts anomalies among the samples to fit: of all normals and at most a ninth as many
anomalies, drawn at random, a random half is fitted on and the other half scored.

--methods names HGAD, the detectors of scikit-learn (these are the default) and those of PyOD, which
keep PyOD's defaults; "pyod" stands for all of PyOD's. --json FILE keeps every run, and a run that
it holds is not repeated: a long comparison can be made in parts.

--rows measures instead the time and the memory of a fit on so many rows of 20 features, or of
--features, and the size of the model. Each runs in a process of its own.
"""

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from ._figures import markdown, write_json, write_markdown
from ._table_methods import METHODS, PYOD, SKLEARN, check_methods

_MOST_KERNELS = 100  # centers of a class up to which the number is told
_N_FACTORS = 20  # of the tables of --rows, that their features are made of
_N_BLOBS = 5


def holds_tables(folder):
    """Whether a folder holds tables of one class: NAME.npz with X and y, without splits."""
    paths = sorted(Path(folder).glob("*.npz"))
    if not paths:
        return False
    with np.load(paths[0]) as file:
        return {"X", "y"} <= set(file) and "split" not in file


def load_table(path):
    """Return the samples to fit on, those to score and their labels, standardised."""
    with np.load(path) as file:
        X, y = file["X"].astype(np.float64), file["y"]
    normal, half = X[y == 0], (y == 0).sum() // 2
    scaler = StandardScaler().fit(normal[:half])
    test = np.concatenate([normal[half:], X[y == 1]])
    labels = np.repeat([0, 1], [len(normal) - half, (y == 1).sum()])
    return scaler.transform(normal[:half]), scaler.transform(test), labels


def load_unclean_table(path):
    """Return halves of a table, both with at most a tenth of anomalies, and labels of the second.

    The first half is standardised, and the second as the first.
    """
    with np.load(path) as file:
        X, y = file["X"].astype(np.float64), file["y"]
    rng = np.random.default_rng(0)
    normal, anomalies = (rng.permutation(np.flatnonzero(y == label)) for label in (0, 1))
    rows = rng.permutation(np.concatenate([normal, anomalies[: len(normal) // 9]]))
    train, test = rows[::2], rows[1::2]
    scaler = StandardScaler().fit(X[train])
    return scaler.transform(X[train]), scaler.transform(X[test]), y[test]


def two_modes(n_features, n):
    """Two blobs 6 apart in every feature, anomalies half way."""
    rng = np.random.default_rng(0)

    def blobs(n):
        return rng.normal(size=(n, n_features)) + 6 * (np.arange(n) % 2)[:, None]

    anomalies = np.full((200, n_features), 3.0) + 0.1 * rng.normal(size=(200, n_features))
    return blobs(n), np.concatenate([blobs(200), anomalies]), np.repeat([0, 1], 200)


def relations(n_features, n):
    """Two features are sums of others, with noise 0.01; anomalies break one by 0.1."""
    rng = np.random.default_rng(0)
    free = rng.normal(size=(n + 2000, n_features - 2))
    sums = np.stack([free.sum(1), free[:, 0] - free[:, 1]], 1)
    X = np.concatenate([free, sums + 0.01 * rng.normal(size=sums.shape)], 1)
    X[n + 1000 :, -1] += 0.1
    return X[:n], X[n:], np.repeat([0, 1], 1000)


def spreads(n_features, n):
    """Three round blobs of standard deviation 0.1, 0.5 and 2.

    Anomalies lie around the tight two, at 3 to 5 times the usual distance from their centers.
    """
    rng = np.random.default_rng(0)
    deviations, centers = np.array([0.1, 0.5, 2.0]), np.zeros((3, n_features))
    centers[1, 0], centers[2, 1] = 6, 10

    def blobs(n):
        names = rng.permutation(np.arange(n) % 3)
        return centers[names] + deviations[names, None] * rng.normal(size=(n, n_features))

    train, normal, names = blobs(n), blobs(600), np.arange(300) % 2
    moves = rng.normal(size=(300, n_features))
    moves *= rng.uniform(3, 5, (300, 1)) * n_features**0.5 / np.linalg.norm(moves, axis=1)[:, None]
    anomalies = centers[names] + deviations[names, None] * moves
    return train, np.concatenate([normal, anomalies]), np.repeat([0, 1], [600, 300])


def rotated(n_features, n):
    """Three blobs of axes 0.1 to 2 long, each turned in its own way; anomalies are turned wrong."""
    rng = np.random.default_rng(0)
    axes = np.geomspace(0.1, 2, n_features)
    turns = [np.linalg.qr(rng.normal(size=(n_features, n_features)))[0] for _ in range(3)]
    centers = rng.uniform(-4, 4, (3, n_features))

    def blobs(n, step):
        names = rng.permutation(np.arange(n) % 3)
        noise = axes * rng.normal(size=(n, n_features))
        turned = np.stack([x @ turns[(k + step) % 3] for x, k in zip(noise, names, strict=True)])
        return centers[names] + turned

    test = np.concatenate([blobs(600, 0), blobs(300, 1)])
    return blobs(n, 0), test, np.repeat([0, 1], [600, 300])


def edges(n_features, n):
    """Exponential features; one feature of an anomaly is negative, by 0.1 to 1."""
    rng = np.random.default_rng(0)
    train, test = rng.exponential(size=(n, n_features)), rng.exponential(size=(900, n_features))
    test[np.arange(600, 900), rng.integers(0, n_features, 300)] = -rng.uniform(0.1, 1, 300)
    return train, test, np.repeat([0, 1], [600, 300])


def skewed(n_features, n):
    """Log-normal features of three causes in common; one of an anomaly is 3.3 times off."""
    rng = np.random.default_rng(0)
    causes = 0.7 * rng.normal(size=(3, n_features))

    def logarithms(n):
        return rng.normal(size=(n, 3)) @ causes + 0.2 * rng.normal(size=(n, n_features))

    train, test = logarithms(n), logarithms(900)
    test[np.arange(600, 900), rng.integers(0, n_features, 300)] += rng.choice([-1.2, 1.2], 300)
    return np.exp(train), np.exp(test), np.repeat([0, 1], [600, 300])


def tails(n_features, n):
    """Correlated rows of a multivariate t distribution of 2 degrees of freedom.

    Each feature of an anomaly is that of another such row.
    """
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(n_features, n_features)) / n_features**0.5 + 0.3 * np.eye(n_features)

    def rows(n):
        lengths = np.sqrt(rng.chisquare(2, size=(n, 1)) / 2)
        return rng.normal(size=(n, n_features)) @ mixing / lengths

    train, normal, anomalies = rows(n), rows(400), rng.permuted(rows(400), axis=0)
    return train, np.concatenate([normal, anomalies]), np.repeat([0, 1], 400)


def simulated_tables():
    """Yield names and tables."""
    for n_features in (2, 8, 64):
        for n in (30, 300, 3000):
            yield f"two modes, {n_features} features, {n} rows", two_modes(n_features, n)
    for n_features in (5, 20, 50):
        name = f"relations, {n_features} features, {10 * n_features} rows"
        yield name, relations(n_features, 10 * n_features)
    for kind in (spreads, rotated, edges, skewed):
        for n_features in (2, 8):
            for n in (100, 300, 1000):
                name = f"{kind.__name__}, {n_features} features, {n} rows"
                yield name, kind(n_features, n)
    for n_features in (20, 50):
        for n in (60, 300, 1000):
            yield f"tails, {n_features} features, {n} rows", tails(n_features, n)


def run_method(key, table):
    """Return the record of one method on one table: auroc, seconds and, of HGAD, n_centers."""
    train, test, labels = table
    method = METHODS[key][1]
    start = time.process_time()
    scores = method(train, test)
    seconds = time.process_time() - start
    record = {"auroc": float(roc_auc_score(labels, scores)), "seconds": seconds}
    return record | ({"n_centers": method.n_centers} if key == "hgad" else {})


def run_tables(tables, keys, path=None, most_seconds=math.inf):
    """Run the methods `keys` on (name, table) pairs; yield each name with {key: record}.

    `path` is a JSON file with records of earlier runs, {table: {key: record}}, which are not
    repeated; new ones are added after each run. A method that has spent `most_seconds` of
    processor time runs on no further table.
    """
    stored = json.loads(Path(path).read_text()) if path and Path(path).exists() else {}
    spent = dict.fromkeys(keys, 0.0)
    for name, table in tables:
        records = stored.setdefault(name, {})
        for key in keys:
            if key not in records and spent[key] < most_seconds:
                records[key] = run_method(key, table)
                write_json(path, stored)
            spent[key] += records.get(key, {}).get("seconds", 0.0)
        yield name, {key: records[key] for key in keys if key in records}


def row_of(name, records, keys):
    """Cells of one table: its name, the number of centers of HGAD, and an AUROC a method."""
    n_centers = records.get("hgad", {}).get("n_centers", "")
    centers = "kernels" if n_centers and n_centers > _MOST_KERNELS else n_centers
    return [name, centers, *(_cell(records.get(key, {}).get("auroc", math.nan)) for key in keys)]


def summary_rows(results, keys):
    """Cells of the mean, the mean rank and the seconds of each method, on the tables that it ran.

    Where a method did not run on all tables, its number of tables is told, and the mean of the
    first method on the same.
    """
    auroc, seconds = (
        np.array([[found.get(key, {}).get(what, math.nan) for key in keys] for found in results])
        for what in ("auroc", "seconds")
    )
    ran = ~np.isnan(auroc)
    rows = [
        ("mean", np.nanmean(auroc, axis=0), 3),
        ("mean rank", np.nanmean(rankdata(-auroc, axis=1, nan_policy="omit"), axis=0), 2),
        ("processor seconds", np.nansum(seconds, axis=0), 1),
    ]
    if not ran.all():
        same = [auroc[chosen, 0].mean() for chosen in ran.T]
        rows += [("tables", ran.sum(0), 0), (f"{METHODS[keys[0]][0]} on the same tables", same, 3)]
    return [
        [f"**{title}**", "", *(_cell(value, digits) for value in values)]
        for title, values, digits in rows
    ]


def _cell(value, digits=3):
    return "-" if np.isnan(value) else f"{value:.{digits}f}"


def blobs_table(n_rows, n_features):
    """Make a table of rows from five Gaussians, each with relations of its own."""
    rng = np.random.default_rng(0)
    X, blobs = np.empty((n_rows, n_features)), rng.integers(0, _N_BLOBS, n_rows)
    for blob in range(_N_BLOBS):
        mixing = rng.normal(size=(_N_FACTORS, n_features)) / _N_FACTORS**0.5
        rows = np.flatnonzero(blobs == blob)
        X[rows] = rng.normal(size=(len(rows), _N_FACTORS)) @ mixing
        X[rows] += 2 * rng.normal(size=n_features)
    if n_features > _N_FACTORS:
        X += 0.1 * rng.normal(size=X.shape)
    return X


def measure_fit(n_rows, n_features):
    """Fit the default detector on so many rows; what a fresh process does. Returns a dict."""
    X = blobs_table(n_rows, n_features)
    from skhgad import HGADDetector

    detector = HGADDetector(random_state=0)  # imports torch
    unit = 1 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds, processor_seconds = time.perf_counter(), time.process_time()
    detector.fit(X)
    found = {
        "rows": n_rows,
        "seconds": time.perf_counter() - seconds,
        "processor_seconds": time.process_time() - processor_seconds,
        "mib_before": before * unit / (1 << 20),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / (1 << 20),
    }
    with tempfile.TemporaryDirectory() as folder:
        detector.save(Path(folder, "model"))
        sizes = [file.stat().st_size for file in Path(folder, "model").iterdir()]
    return {**found, "model_mib": sum(sizes) / (1 << 20)}


def fits_of_rows(sizes, n_features):
    """Measure fits of `sizes` rows; return the lines of a Markdown table."""
    header = ["rows", "s", "processor s", "MiB before fit", "peak MiB", "MiB of model"]
    rows = []
    for n_rows in sizes:
        command = [sys.executable, "-m", "benchmarks.tables", "--measure-fit", str(n_rows)]
        command += ["--features", str(n_features)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{n_rows} rows: {done.stderr.strip()[-2000:]}")
        found = json.loads(done.stdout.splitlines()[-1])
        seconds = [f"{found[key]:.1f}" for key in ("seconds", "processor_seconds")]
        memory = [f"{found[key]:.0f}" for key in ("mib_before", "peak_mib", "model_mib")]
        rows.append([f"{n_rows:,}", *seconds, *memory])
        print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    return markdown(header, rows)


def parse(arguments=None):
    """Return the options, and the (name, table) pairs to run on; exit on wrong usage."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    bench = os.environ.get("SKHGAD_BENCH", "../shared/bench")
    parser.add_argument("--data", metavar="DIR", default=os.path.join(bench, "tables"))
    parser.add_argument("--only", nargs="+", metavar="NAME", help="tables to run")
    parser.add_argument("--simulated", action="store_true", help="make the tables")
    parser.add_argument("--unclean", action="store_true", help="fit on anomalies, too")
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=[*METHODS, "pyod"],
        default=["hgad", *SKLEARN],
        metavar="NAME",
        help=f"of {', '.join(METHODS)}, or pyod (default: hgad {' '.join(SKLEARN)})",
    )
    parser.add_argument("--json", metavar="FILE", help="keep every run here; go on from it")
    parser.add_argument(
        "--most-seconds",
        type=float,
        default=math.inf,
        metavar="S",
        help="a method that has spent so much processor time runs on no further table",
    )
    parser.add_argument("--markdown", metavar="FILE")
    parser.add_argument("--rows", nargs="+", type=int, metavar="N", help="measure fits of N rows")
    parser.add_argument("--features", type=int, default=_N_FACTORS, metavar="N", help="of --rows")
    parser.add_argument("--measure-fit", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.rows and min(args.rows) < 1:
        parser.error(f"--rows must be at least 1, got {min(args.rows)}.")
    wanted = {key for name in args.methods for key in (PYOD if name == "pyod" else [name])}
    args.methods = [key for key in METHODS if key in wanted]
    if args.rows or args.measure_fit:
        return args, []
    try:
        check_methods(args.methods)
    except ModuleNotFoundError as error:
        parser.error(f"--methods {error}")
    if args.simulated:
        return args, simulated_tables()
    # Small ones first: a method that --most-seconds stops has then run on most tables.
    paths = sorted(Path(args.data).glob("*.npz"), key=lambda path: (path.stat().st_size, path))
    if args.only:
        paths = [path for path in paths if path.stem in args.only]
    if not paths:
        parser.error(f"--data {args.data!r} holds no such table (NAME.npz).")
    if args.unclean:  # under another name, because --json keeps runs by it
        return args, ((f"{path.stem}, unclean", load_unclean_table(path)) for path in paths)
    return args, ((path.stem, load_table(path)) for path in paths)


def main(arguments=None):
    """Run the benchmark."""
    args, tables = parse(arguments)
    if args.measure_fit:
        print(json.dumps(measure_fit(args.measure_fit, args.features)))
        return
    if args.rows:
        lines = fits_of_rows(args.rows, args.features)
        print("\n".join(lines))
        write_markdown(args.markdown, [*lines, ""])
        return
    rows, results = [], []
    for name, records in run_tables(tables, args.methods, args.json, args.most_seconds):
        results.append(records)
        rows.append(row_of(name, records, args.methods))
        print(f"[{time.strftime('%H:%M:%S')}] {name}", file=sys.stderr, flush=True)
    if not args.simulated:
        rows.sort(key=lambda row: row[0])
    rows += summary_rows(results, args.methods)
    lines = markdown(["table", "centers", *(METHODS[key][0] for key in args.methods)], rows)
    print("\n".join(lines))
    write_markdown(args.markdown, [*lines, ""])


if __name__ == "__main__":
    main()
