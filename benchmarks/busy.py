"""Fits beside a process at full load: wall and CPU time over those of a fit without it.

    python -m benchmarks.busy [--kinds cells table] [--repeats 3] [--markdown FILE] [--json FILE]

cells   100 pictures of 384 pixels of two products, drawn from those that scikit-image comes with
table   two public tables of one class each, from scikit-learn
trained cells with max_iter=2: small products, one after another

Each fit runs in a process of its own, with the threads that a user gets. Time is that of `fit`
alone, CPU time that of all its threads. The load is one process that computes without end. In each
repeat both are measured, the one that goes first in turn; a ratio is of neighbours. Whatever else
the machine does is in both: the average load of the last minute stands beside the figures.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from contextlib import contextmanager

import numpy as np

from ._figures import markdown, write_json, write_markdown

KINDS = ("cells", "trained", "table")
TARGETS = {"wall": 2.2, "cpu": 1.3}
_HEAD = (
    "fit", "without load, s", "CPU, s", "beside load, s", "CPU, s", "wall ratio", "CPU ratio",
    "asked",
)  # fmt: skip
_LOAD = "while True: pass"
_N_PICTURES, _SIDE = 100, 384


def pictures():
    """Return pictures of two products and their labels: windows of pictures of scikit-image."""
    from skimage import data
    from skimage.transform import resize

    rng, parts, labels = np.random.default_rng(0), [], []
    for name in ("brick", "gravel"):
        whole = getattr(data, name)()
        for _ in range(_N_PICTURES // 2):
            top, left = rng.integers(0, np.array(whole.shape) - 256)
            window = whole[top : top + 256, left : left + 256]
            window = resize(window, (_SIDE, _SIDE), preserve_range=True).astype(np.uint8)
            parts.append(np.repeat(window[..., None], 3, axis=2))
            labels.append(name)
    return np.stack(parts), labels


def tables():
    """Return the normal rows of two tables."""
    from sklearn.datasets import load_breast_cancer, load_wine

    cancer, wine = load_breast_cancer(return_X_y=True), load_wine(return_X_y=True)
    return [cancer[0][cancer[1] == 1], wine[0][wine[1] < 2]]


def fit(kind):
    """Fit; return the seconds and the CPU seconds that it took."""
    from skhgad import HGADDetector

    warnings.simplefilter("ignore")
    if kind == "table":
        fits = [(HGADDetector(random_state=0), X, None) for X in tables()]
    else:
        settings = {"max_iter": 2} if kind == "trained" else {}
        fits = [(HGADDetector(random_state=0, **settings), *pictures())]
    start, cpu = time.perf_counter(), time.process_time()
    for detector, X, y in fits:
        detector.fit(X, y)
    return {"wall": time.perf_counter() - start, "cpu": time.process_time() - cpu}


@contextmanager
def load(is_on):
    """Keep one core busy, if asked to."""
    process = subprocess.Popen([sys.executable, "-c", _LOAD]) if is_on else None
    try:
        yield
    finally:
        if process is not None:
            process.kill()
            process.wait()


def measure(kind, repeats):
    """Return the times of fits without and with load, a list of (idle, busy) of `repeats` pairs."""
    pairs = []
    for number in range(repeats):
        found = {}
        for is_on in (False, True) if number % 2 == 0 else (True, False):
            with load(is_on):
                command = [sys.executable, "-m", "benchmarks.busy", "--fit", kind]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
            found[is_on] = json.loads(done.stdout.splitlines()[-1])
        pairs.append((found[False], found[True]))
    return pairs


def row(kind, pairs):
    """Return a line of the table: medians over the pairs."""
    seconds = [
        statistics.median(pair[side][name] for pair in pairs) for side in (0, 1) for name in TARGETS
    ]
    ratios = {name: statistics.median(b[name] / a[name] for a, b in pairs) for name in TARGETS}
    met = all(ratios[name] <= target for name, target in TARGETS.items())
    asked = f"<= {TARGETS['wall']} and {TARGETS['cpu']}: {'yes' if met else 'NO'}"
    return [kind, *(f"{s:.1f}" for s in seconds), *(f"{r:.2f}" for r in ratios.values()), asked]


def main(arguments=None):
    """Measure, print and write; with --fit, one fit in this process."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=["cells", "table"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--fit", choices=KINDS, help="one fit, as the others are made of")
    parser.add_argument("--json", metavar="FILE", help="write every figure here")
    parser.add_argument("--markdown", metavar="FILE", help="write the table here")
    options = parser.parse_args(arguments)
    if options.fit:
        print(json.dumps(fit(options.fit)))
        return 0
    figures, rows = {}, []
    for kind in options.kinds:
        figures[kind] = measure(kind, options.repeats)
        rows.append(row(kind, figures[kind]))
    average = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    lines = [f"{os.cpu_count()} cores, load {average:.1f}", "", *markdown(_HEAD, rows)]
    print("\n".join(lines))
    write_json(options.json, figures)
    write_markdown(options.markdown, lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
