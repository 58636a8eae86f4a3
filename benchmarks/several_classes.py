"""Tables of several classes, one model: unknown classes and corrupted vectors are to be found.

    python -m benchmarks.several_classes [--data DIR] [--normals N ...] [--draws N]

Half of the classes of a table, at least two, are the products; N vectors of each are fitted on, at
most half of them, with their labels. Up to 60 others of each are the normal vectors to test on.
*Unknown* ones are of the other classes, at most 300. *Corrupted* ones are the normal vectors with a
fifth of their features taken from vectors of any product. The class of a tested vector is inferred.

The tables are digits, wine and iris of scikit-learn. DIR may hold more, as NAME.npz with X
(n, n_features) and y, the classes; classes of fewer than 20 vectors are unknown ones. Tables of
fewer than three classes, of which none could be unknown, are passed over.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from sklearn.covariance import LedoitWolf
from sklearn.datasets import load_digits, load_iris, load_wine
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from skhgad import HGADDetector

from ._figures import markdown
from ._options import positive_int, say

_LEAST_VECTORS = 20  # of a product
_FEWEST_CLASSES = 3  # of a table
_MOST_TESTED, _MOST_UNKNOWN = 60, 300
_CORRUPTED_SHARE = 5  # one feature in so many


def read_tables(folder=None):
    """Yield the name, X and y of each table."""
    for name, load in (("digits", load_digits), ("iris", load_iris), ("wine", load_wine)):
        yield name, *load(return_X_y=True)
    for path in sorted(Path(folder).glob("*.npz")) if folder is not None else ():
        with np.load(path) as file:
            X, y = file["X"].astype(np.float64), file["y"]
        if len(np.unique(y)) >= _FEWEST_CLASSES:
            yield path.stem, X, np.unique(y, return_inverse=True)[1]


def split(X, y, n_normals, draw):
    """Draw products and vectors.

    Returns
    -------
    X_fit, y_fit : ndarrays
    normal : ndarray
    y_normal : ndarray
    unknown, corrupted : ndarrays
    """
    rng = np.random.default_rng(draw)
    labels, counts = np.unique(y, return_counts=True)
    labels = labels[counts >= _LEAST_VECTORS]
    products = rng.permutation(labels)[: max(2, (len(labels) + 1) // 2)]
    fitted, tested = [], []
    for label in products:
        rows = rng.permutation(np.flatnonzero(y == label))
        n = min(n_normals, len(rows) // 2)
        fitted += rows[:n].tolist()
        tested += rows[n : n + _MOST_TESTED].tolist()
    others = rng.permutation(np.flatnonzero(~np.isin(y, products)))[:_MOST_UNKNOWN]
    corrupted = X[tested]
    for vector in corrupted:
        n_features = max(1, len(vector) // _CORRUPTED_SHARE)
        features = rng.choice(len(vector), n_features, replace=False)
        vector[features] = X[rng.choice(fitted)][features]
    return X[fitted], y[fitted].astype(str), X[tested], y[tested].astype(str), X[others], corrupted


def hgad(X, y, tested):
    """Return the anomaly of each tested vector, and the threshold."""
    detector = HGADDetector(random_state=0).fit(X, y)
    return -detector.score_samples(tested), -detector.offset_


def nearest_neighbour(X, y, tested):
    """Return distances to the nearest vector of any class, features of equal variance."""
    scaler = StandardScaler().fit(X)
    search = NearestNeighbors(n_neighbors=1).fit(scaler.transform(X))
    return search.kneighbors(scaler.transform(tested))[0][:, 0], None


def ledoit_wolf(X, y, tested):
    """Return the smallest Mahalanobis distance to a class."""
    scaler = StandardScaler().fit(X)
    Z, tested = scaler.transform(X), scaler.transform(tested)
    each = [LedoitWolf().fit(Z[y == label]).mahalanobis(tested) for label in np.unique(y)]
    return np.min(each, axis=0), None


METHODS = {
    "HGAD": hgad,
    "nearest neighbour": nearest_neighbour,
    "Ledoit-Wolf of each class": ledoit_wolf,
}


def measure(method, parts):
    """AUROC of unknown and of corrupted vectors; normals flagged, of all and of the worst class."""
    X, y, normal, y_normal, unknown, corrupted = parts
    ends = np.cumsum([len(normal), len(unknown)])
    anomaly, threshold = METHODS[method](X, y, np.concatenate((normal, unknown, corrupted)))
    normals, *others = np.split(anomaly, ends)
    found = [
        roc_auc_score(np.repeat([0, 1], [len(normals), len(own)]), np.append(normals, own))
        for own in others
    ]
    if threshold is None:
        return [*found, np.nan, np.nan]
    flagged = normals > threshold
    worst = max(flagged[y_normal == label].mean() for label in np.unique(y))
    return [*found, flagged.mean(), worst]


def main(arguments=None):
    """Print a table of figures for each method."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.several_classes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", metavar="DIR", help="folder of further tables")
    parser.add_argument("--normals", type=positive_int, nargs="+", default=[20, 100])
    parser.add_argument("--draws", type=positive_int, default=2)
    args = parser.parse_args(arguments)
    if args.data is not None and not Path(args.data).is_dir():
        parser.error(f"--data: {args.data!r} is no folder.")
    header = ["table", "normals"]
    header += [f"{name}: {what}" for name in METHODS for what in ("unknown", "corrupted")]
    header += ["HGAD flags", "of the worst class"]
    rows, figures = [], []
    for name, X, y in read_tables(args.data):
        for n in args.normals:
            draws = [split(X, y, n, draw) for draw in range(args.draws)]
            found = [[measure(method, parts) for method in METHODS] for parts in draws]
            mean = np.mean(found, axis=0)
            figures.append([*mean[:, :2].ravel(), *mean[0, 2:]])
            rows.append([name, str(n), *(f"{value:.3f}" for value in figures[-1])])
            say(f"{name}, {n} normals: done")
    rows.append(["**mean**", "", *(f"{value:.3f}" for value in np.mean(figures, axis=0))])
    print("\n".join(markdown(header, rows)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
