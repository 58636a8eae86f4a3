"""How well does DriftMonitor keep its promise, and how soon does it find a drift?

Part "simulation": streams of pictures that do not drift, without and with defects: their scores,
brightness, contrast and sharpness, each with calibration values of its own. Part "pictures": a
model of the normal pictures of each class; the stream begins with normal pictures that it has not
seen, and goes on with changed ones.

    python -m benchmarks.drift --part simulation
    python -m benchmarks.drift --part pictures --data DIR
"""

import argparse
import time
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from skhgad import HGADDetector
from skhgad.monitor import DriftMonitor
from skhgad.monitor.martingale import BETS, FIRST, Martingale, factors
from skhgad.monitor.ranks import OnlineRanks

from ._data import load_parts
from ._figures import markdown

CHANGES = {
    "none": lambda image: image,
    "brightness +10 %": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
    "blur, sigma 1": lambda image: image.filter(ImageFilter.GaussianBlur(1)),
    "blur, sigma 2": lambda image: image.filter(ImageFilter.GaussianBlur(2)),
    "rotation of 3 degrees": lambda image: _rotated(image, 3),
    "noise, sigma 5": lambda image: _noisy(image, 5),
}


TOLERATED = 0.03  # defects, as by default
_BEFORE, _AFTER = 300, 1000  # pictures of a stream


def _rotated(image, degrees):
    # Zoomed a little, so that no corner is empty.
    wide, high = image.size
    turned = image.rotate(degrees, Image.Resampling.BICUBIC)
    edge_x, edge_y = round(0.06 * wide), round(0.06 * high)
    inner = turned.crop((edge_x, edge_y, wide - edge_x, high - edge_y))
    return inner.resize((wide, high), Image.Resampling.BICUBIC)


def _noisy(image, sigma):
    pixels = np.asarray(image, dtype=float)
    noise = np.random.default_rng(0).normal(0, sigma, pixels.shape)
    return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))


def simulate(n_streams, length, n_calibration, defect_rate, seed=0):
    """Return how many of the streams raise an alarm at the probabilities 0.01 and 0.05.

    Defects have the lowest scores, and are brighter and of more contrast than all normals, and
    blurred.
    """
    rng = np.random.default_rng(seed)
    defective = rng.random((length, n_streams)) < defect_rate
    capitals = []
    for index, side in enumerate((-1, 1, 1, -1)):  # of the score and of STATISTICS
        p_values = np.empty((length, n_streams))
        for column in range(n_streams):
            ranks = OnlineRanks(rng.normal(size=n_calibration), limit=20_000)
            stream = rng.normal(size=length) + 50 * side * defective[:, column]
            p_values[:, column] = [ranks.p_value(score, rng) for score in stream.tolist()]
        capitals.append(capitals_of(p_values, "low" if index == 0 else "anywhere"))
    largest = np.mean(capitals, axis=0).max(axis=0)
    return np.array([np.sum(largest >= 100), np.sum(largest >= 20)])


def capitals_of(p_values, defects):
    """Do what `Martingale` does for many streams at once.

    `p_values` has shape (length, n_streams), as the array that is returned.
    """
    factor = factors(TOLERATED, defects)
    stakes = np.zeros((p_values.shape[1], len(BETS)))
    capitals = np.empty_like(p_values)
    for n, now in enumerate(p_values):
        stakes += FIRST / ((n + FIRST) * (n + 1 + FIRST)) / len(BETS)
        stakes *= factor[np.minimum((now * len(factor)).astype(int), len(factor) - 1)]
        capitals[n] = stakes.sum(1) + FIRST / (n + 1 + FIRST)
    martingale = Martingale(TOLERATED, defects)
    expected = [martingale.update(p_value) for p_value in p_values[:, 0]]
    assert np.allclose(capitals[:, 0], expected), "the loop over streams differs from Martingale"
    return capitals


def run_simulation(args):
    """Print the table of false alarms."""
    rows = []
    for n_calibration, rate in ((40, 0.0), (40, 0.02), (300, 0.02)):
        start = time.perf_counter()
        alarms = simulate(args.streams, args.length, n_calibration, rate)
        rows.append([n_calibration, f"{rate:.0%}", *(f"{n / args.streams:.1%}" for n in alarms)])
        print(f"{rows[-1]}: {time.perf_counter() - start:.0f} s", flush=True)
    print(f"{args.streams} streams of {args.length} scores")
    print(
        "\n".join(
            markdown(["calibration scores", "defects", "alarms at 1 %", "alarms at 5 %"], rows)
        )
    )


def run_pictures(args):
    """Print after how many pictures each change is found."""
    (part,) = [part for part in load_parts(args.data) if part.is_images]
    rng = np.random.default_rng(0)
    chosen, held_out = _halves(part, args.train, rng)
    detector = HGADDetector.fast(random_state=0).fit(part.X_train[chosen], part.class_train[chosen])
    paths = np.concatenate([part.X_train[held_out], part.X_test[part.y == 1]])
    classes = np.concatenate([part.class_train[held_out], part.class_test[part.y == 1]])
    paths = np.concatenate(
        [rng.permutation(paths[classes == k])[: args.stream] for k in part.classes]
    )
    found = {}
    if args.keep and Path(args.keep).exists():
        with np.load(args.keep) as kept:
            found = {name: tuple(kept[f"{name}, {i}"] for i in range(3)) for name in CHANGES}
    for name, change in CHANGES.items():
        if name not in found:
            found[name] = _scores(detector, paths, change)
        if args.keep:
            np.savez(args.keep, **{f"{k}, {i}": v[i] for k, v in found.items() for i in range(3)})
        print(f"{name}: mean score {found[name][0].mean():.2f}", flush=True)
    broken = rng.permutation(part.X_test[part.y == -1])[: args.stream]
    defects = _scores(detector, broken, CHANGES["none"])
    rows = []
    for name in CHANGES:
        runs = [_alarm(detector, found, name, np.random.default_rng(i)) for i in range(args.runs)]
        rows.append([name, *_summary(runs)])
    alarms = [_rare(detector, found["none"], defects, np.random.default_rng(i)) for i in range(50)]
    rows.append(["2 % defects", f"{sum(alarms)} of 50", "-", "-", "-"])
    lots = [lot for lot in ("solar_mono", "solar_poly") if lot in part.classes]
    if len(lots) == 2:
        rows.append(["new lot: poly among mono cells", *_new_lot(part, lots, args)])
    print(f"{len(chosen)} pictures to fit on; of {len(paths)} others {_BEFORE}, then {_AFTER}")
    head = ["change", "alarms", "median pictures", "most pictures", "what is named"]
    print("\n".join(markdown(head, rows)))


def _halves(part, n_train, rng):
    chosen = np.concatenate(
        [rng.permutation(np.flatnonzero(part.class_train == k))[:n_train] for k in part.classes]
    )
    return chosen, np.setdiff1d(np.arange(len(part.X_train)), chosen)


def _scores(detector, paths, change):
    labels, scores, looks = [], [], []
    for first in range(0, len(paths), 32):
        images = []
        for path in paths[first : first + 32]:
            with Image.open(path) as image:
                images.append(change(image.convert("RGB")))
        source = detector.model_.observed(images)
        inspection = detector.inspect(source)
        labels.append(inspection.class_label)
        scores.append(inspection.score)
        looks.append(source.appearance)
    return np.concatenate(scores), np.concatenate(labels), np.concatenate(looks)


def _alarm(detector, found, name, rng):
    """Return the pictures from the change to the alarm and what is named; None without an alarm.

    -1 is before the change.
    """
    # Drawn with replacement: without a change, both come from one population.
    n = len(found["none"][0])
    before, after = rng.choice(n, _BEFORE), rng.choice(len(found[name][0]), _AFTER)
    monitor = DriftMonitor(detector)
    for key, rows in (("none", before), (name, after)):
        monitor.update_scores(*(values[rows] for values in found[key]))
    if monitor.alarm_ is None:
        return None
    alarm = monitor.alarm_
    return max(-1, alarm.n_seen - len(before)), f"{alarm.statistic} {alarm.direction}"


def _rare(detector, normal, defects, rng):
    """Whether 2 % defects among normal pictures raise an alarm."""
    order = rng.choice(len(normal[0]), _BEFORE + _AFTER)
    stream = [values[order] for values in normal]
    rows = np.flatnonzero(rng.random(len(order)) < 0.02)
    drawn = rng.choice(len(defects[0]), len(rows))
    for values, broken in zip(stream, defects, strict=True):
        values[rows] = broken[drawn]
    return DriftMonitor(detector).update_scores(*stream).alarm_ is not None


def _new_lot(part, lots, args):
    """Fit on one kind of cells; the other kind arrives in its place."""
    rng = np.random.default_rng(0)
    of_first = np.flatnonzero(part.class_train == lots[0])
    rows = rng.permutation(of_first)
    detector = HGADDetector.fast(random_state=0).fit(part.X_train[rows[: args.train]])
    none = CHANGES["none"]
    found = _scores(detector, part.X_train[rows[args.train :][: args.stream]], none)
    other = _scores(detector, part.X_train[part.class_train == lots[1]][: len(found[0])], none)
    both = {"none": found, "lot": other}
    runs = [_alarm(detector, both, "lot", np.random.default_rng(i)) for i in range(args.runs)]
    return _summary(runs)


def _summary(runs):
    found = [delay for delay, _ in filter(None, runs)]
    alarms = f"{len(found)} of {len(runs)}"
    early = sum(delay == -1 for delay in found)
    if early:
        alarms += f", {early} before the change"
    if not found:
        return [alarms, "-", "-", "-"]
    named = Counter(name for _, name in filter(None, runs)).most_common(1)[0][0]
    return [alarms, f"{np.median(found):.0f}", str(max(found)), named]


def main(argv=None):
    """Run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drift", description=__doc__)
    parser.add_argument("--part", choices=("simulation", "pictures"), required=True)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--length", type=int, default=5000)
    parser.add_argument("--data", nargs="+", metavar="DIR")
    parser.add_argument("--train", type=int, default=100, help="pictures of each class to fit on")
    parser.add_argument("--stream", type=int, default=100, help="pictures of each class after it")
    parser.add_argument(
        "--keep", metavar="FILE.npz", help="scores and classes: read, if it exists, else written"
    )
    parser.add_argument("--runs", type=int, default=20, help="orders of the stream")
    args = parser.parse_args(argv)
    (run_simulation if args.part == "simulation" else run_pictures)(args)


if __name__ == "__main__":
    main()
