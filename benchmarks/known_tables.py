"""Known anomalies of tables of one class: HGAD beside classifiers that learn from them.

    python -m benchmarks.known_tables [--data DIR] [--known 5 20 50] [--draws 3] [--only NAME ...]

DIR holds NAME.npz with X (n, n_features) and y (0 normal, 1 anomaly). At most 3,000 normals, of the
first half in file order, are fitted on together with some known anomalies, after StandardScaler; at
most 2,000 other normals and 2,000 other anomalies are scored. *Same types*: the known ones are
drawn from all anomalies. *Other types*: of three clusters of anomalies, one is tested and the known
ones are drawn from the other two. A table counts only where it has enough anomalies.

The classifiers are scikit-learn's: a random forest of 200 trees and a logistic regression, with
balanced classes.
"""

import argparse
import os
from pathlib import Path

import numpy as np
from sklearn.cluster import KMeans
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from skhgad import HGADDetector

from ._figures import markdown
from ._options import positive_int, say

SAME, OTHER = "same types", "other types"
_MOST_FITTED, _MOST_TESTED, _FEWEST_TESTED = 3000, 2000, 5
_N_CLUSTERS, _FARTHEST = 3, 10  # standard deviations, at which features are cut for the clusters


def read_table(path):
    """Return the normals to fit on, those to test on, and the anomalies, standardised."""
    with np.load(path) as file:
        X, y = file["X"].astype(np.float64), file["y"]
    normal, half = X[y == 0], (y == 0).sum() // 2
    scaler = StandardScaler().fit(normal[:half][:_MOST_FITTED])
    parts = normal[:half][:_MOST_FITTED], normal[half:][:_MOST_TESTED], X[y == 1]
    return tuple(map(scaler.transform, parts))


def draw(anomalies, protocol, n, seed):
    """Return `n` known anomalies and those to test on; None where there are too few."""
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(anomalies))
    known, tested = rows[:n], rows[n:]
    if protocol == OTHER:
        k_means = KMeans(_N_CLUSTERS, n_init=3, random_state=0)
        clusters = k_means.fit_predict(anomalies.clip(-_FARTHEST, _FARTHEST))
        is_tested = clusters[rows] == seed % _N_CLUSTERS
        known, tested = rows[~is_tested][:n], rows[is_tested]
    if len(known) < n or len(tested) < _FEWEST_TESTED:
        return None
    return anomalies[known], anomalies[tested[:_MOST_TESTED]]


def hgad(known_anomalies):
    """Return a method that fits HGADDetector with this parameter."""

    def scores(X, y, tested):
        detector = HGADDetector(random_state=0, known_anomalies=known_anomalies)
        return detector.fit(X, y).score_samples(tested)

    return scores


def classifier(make):
    """Return a method that fits a classifier."""

    def scores(X, y, tested):
        return make().fit(X, y).predict_proba(tested)[:, 1]

    return scores


METHODS = {
    "ignore": hgad("ignore"),
    "auto": hgad("auto"),
    "random forest": classifier(
        lambda: RandomForestClassifier(200, class_weight="balanced", random_state=0)
    ),
    "logistic regression": classifier(
        lambda: LogisticRegression(class_weight="balanced", max_iter=1000)
    ),
}


def measure(table, protocol, n, n_draws):
    """Return the AUROC of each method in each draw, ndarray (n_draws, n_methods)."""
    normal, fresh, anomalies = table
    found = []
    for seed in range(n_draws):
        drawn = draw(anomalies, protocol, n, seed)
        if drawn is None:
            continue
        known, tested = drawn
        X, y = np.concatenate([normal, known]), np.repeat([1, -1], [len(normal), n])
        Z, labels = np.concatenate([fresh, tested]), np.repeat([1, 0], [len(fresh), len(tested)])
        found.append([roc_auc_score(labels, method(X, y, Z)) for method in METHODS.values()])
    return np.array(found).reshape(-1, len(METHODS))


def main(arguments=None):
    """Run and print the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.known_tables",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    bench = os.environ.get("SKHGAD_BENCH", "../shared/bench")
    parser.add_argument("--data", metavar="DIR", default=os.path.join(bench, "tables"))
    parser.add_argument("--known", nargs="+", type=positive_int, default=[5, 20, 50])
    parser.add_argument("--draws", type=positive_int, default=3)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="tables to run")
    args = parser.parse_args(arguments)
    results = {(protocol, n): {} for protocol in (SAME, OTHER) for n in args.known}
    for path in sorted(Path(args.data).glob("*.npz")):
        if args.only is not None and path.stem not in args.only:
            continue
        table = read_table(path)
        for key, found in results.items():
            figures = measure(table, *key, args.draws)
            if len(figures):
                found[path.stem] = figures.mean(0)
        say(path.stem)
    rows, gains = [], []
    for (protocol, n), found in results.items():
        if found:
            mean = np.mean(list(found.values()), axis=0)
            rows.append([f"{protocol}, {n}", str(len(found)), *(f"{v:.3f}" for v in mean)])
            gain, name = min((values[1] - values[0], name) for name, values in found.items())
            rows[-1].append(f"{gain:+.3f} ({name})")
        gains += [
            [f"{name}, {protocol}, {n}", *(f"{v:.3f}" for v in values)]
            for name, values in found.items()
        ]
    header = ["known anomalies", "tables", *METHODS, "smallest gain"]
    print("\n".join(["", *markdown(header, rows), "", *markdown(["table", *METHODS], gains)]))


if __name__ == "__main__":
    main()
