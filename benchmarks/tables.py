"""Tables of one class, beside the usual detectors: AUROC, rank and time.

    python -m benchmarks.tables [--data DIR] [--only NAME ...] [--markdown FILE]
    python -m benchmarks.tables --simulated [--markdown FILE]

DIR holds NAME.npz with X (n, n_features) and y (0 normal, 1 anomaly). The first half of the normals
in file order is fitted on, after StandardScaler; the rest and all anomalies are scored. No detector
gets labels. --simulated makes the data: several modes, and relations between features.
"""

import argparse
import os
import time
from pathlib import Path

import numpy as np
from scipy.stats import rankdata
from sklearn.covariance import LedoitWolf
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors
from sklearn.preprocessing import StandardScaler

from skhgad import HGADDetector

from ._figures import write_markdown

_MOST_KERNELS = 100  # centers of a class up to which the number is told


def hgad(train, test):
    """Return anomaly scores of the default detector, and its number of centers."""
    detector = HGADDetector(random_state=0).fit(train)
    return -detector.score_samples(test), int(detector.n_components_[0, 0])


def nearest_neighbours(train, test):
    """Distance to the fifth neighbour."""
    found = NearestNeighbors(n_neighbors=min(5, len(train))).fit(train)
    return found.kneighbors(test)[0][:, -1]


def gaussian_mixture(train, test):
    """Five Gaussians."""
    model = GaussianMixture(min(5, len(train)), reg_covar=1e-3, random_state=0)
    return -model.fit(train).score_samples(test)


def local_outlier_factor(train, test):
    """LOF with 20 neighbours."""
    model = LocalOutlierFactor(n_neighbors=min(20, len(train) - 1), novelty=True)
    return -model.fit(train).score_samples(test)


def ledoit_wolf(train, test):
    """Mahalanobis distance under the covariance of Ledoit and Wolf."""
    return LedoitWolf().fit(train).mahalanobis(test)


def isolation_forest(train, test):
    """Isolation forest."""
    return -IsolationForest(random_state=0).fit(train).score_samples(test)


PEERS = {
    "nearest neighbours": nearest_neighbours,
    "GMM(5)": gaussian_mixture,
    "LOF": local_outlier_factor,
    "Ledoit-Wolf": ledoit_wolf,
    "isolation forest": isolation_forest,
}


def load_table(path):
    """Return the samples to fit on, those to score and their labels, standardised."""
    with np.load(path) as file:
        X, y = file["X"].astype(np.float64), file["y"]
    normal, half = X[y == 0], (y == 0).sum() // 2
    scaler = StandardScaler().fit(normal[:half])
    test = np.concatenate([normal[half:], X[y == 1]])
    labels = np.repeat([0, 1], [len(normal) - half, (y == 1).sum()])
    return scaler.transform(normal[:half]), scaler.transform(test), labels


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


def simulated_tables():
    """Yield names and tables."""
    for n_features in (2, 8, 64):
        for n in (30, 300, 3000):
            yield f"two modes, {n_features} features, {n} rows", two_modes(n_features, n)
    for n_features in (5, 20, 50):
        name = f"relations, {n_features} features, {10 * n_features} rows"
        yield name, relations(n_features, 10 * n_features)


def measure(table):
    """Return the AUROC and the seconds of each detector, and the centers that HGAD chose."""
    train, test, labels = table
    auroc, seconds = {}, {}
    for name, scores in {"HGAD": hgad, **PEERS}.items():
        start = time.process_time()
        found = scores(train, test)
        seconds[name] = time.process_time() - start
        if name == "HGAD":
            found, n_centers = found
        auroc[name] = roc_auc_score(labels, found)
    return auroc, seconds, n_centers


def main(arguments=None):
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    bench = os.environ.get("SKHGAD_BENCH", "../shared/bench")
    parser.add_argument("--data", metavar="DIR", default=os.path.join(bench, "tables"))
    parser.add_argument("--only", nargs="+", metavar="NAME", help="tables to run")
    parser.add_argument("--simulated", action="store_true", help="make the tables")
    parser.add_argument("--markdown", metavar="FILE")
    args = parser.parse_args(arguments)
    if args.simulated:
        tables = simulated_tables()
    else:
        paths = sorted(Path(args.data).glob("*.npz"))
        if args.only:
            paths = [path for path in paths if path.stem in args.only]
        if not paths:
            parser.error(f"--data {args.data!r} holds no such table (NAME.npz).")
        tables = ((path.stem, load_table(path)) for path in paths)
    names = ["HGAD", *PEERS]
    lines = [f"| table | centers | {' | '.join(names)} |", "| --- " * (2 + len(names)) + "|"]
    results = []
    for name, table in tables:
        auroc, seconds, n_centers = measure(table)
        results.append(([auroc[key] for key in names], [seconds[key] for key in names]))
        centers = "kernels" if n_centers > _MOST_KERNELS else n_centers
        figures = " | ".join(f"{auroc[key]:.3f}" for key in names)
        lines.append(f"| {name} | {centers} | {figures} |")
        print(lines[-1], flush=True)
    auroc, seconds = (np.array(part) for part in zip(*results, strict=True))
    ranks = rankdata(-auroc, axis=1).mean(0)
    for title, values, digits in (
        ("mean", auroc.mean(0), 3),
        ("mean rank", ranks, 2),
        ("processor seconds", seconds.sum(0), 1),
    ):
        figures = " | ".join(f"{value:.{digits}f}" for value in values)
        lines.append(f"| **{title}** |  | {figures} |")
        print(lines[-1])
    write_markdown(args.markdown, [*lines, ""])


if __name__ == "__main__":
    main()
