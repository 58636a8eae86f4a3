"""Time and memory of `fit` as images and classes grow.

    python -m benchmarks.scaling [--json FILE] [--plot docs/scaling.png]

Every point is `HGADDetector(max_iter=1).fit(paths, labels)` in a fresh process: reading, backbone,
start, ONE training pass over the data, covariances and calibration. The default schedule
(``--max-iter auto``) trains a fixed number of steps instead, which flattens the growth. Images are
JPEG files made of the benchmark folder's (or of drawn) pictures, shifted and brightened.

images   Seconds and peak memory for growing numbers of images of four classes, and the slope of the
         time in a log-log plot from 250 to 4,000 images (1 = proportional).
classes  Seconds for the same images under growing numbers of classes, over those of the fewest.

Peak memory is what the system counts as resident (`getrusage`), which includes the pages of the
spilled features that the system keeps but may drop at any time; "anonymous" is without them (Linux
only, sampled). It may grow by --budget-mib, the detector's `cache_budget`.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

_SLOPE_RANGE = (250, 4000)  # images
_SLOPE_TARGET, _CLASS_TARGET = 1.1, 1.3
_MEMORY_TARGET_MIB = 3 * 1024  # at 256 px, for all sizes asked for
_IMAGE_CLASSES = 4  # at every number of images
_BASE_PICTURES = 64
_MIB = 1 << 20


class PeakAnonymous:
    """Largest anonymous resident memory while the block runs; `mib` is None where unknown."""

    def __enter__(self):
        self.mib, self._done = self._now(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception):
        self._done.set()
        self._thread.join()

    def _watch(self):
        while self.mib is not None and not self._done.wait(0.02):
            self.mib = max(self.mib, self._now())

    @staticmethod
    def _now():
        try:
            lines = Path("/proc/self/status").read_text().splitlines()
        except OSError:
            return None
        found = [line.split()[1] for line in lines if line.startswith("RssAnon:")]
        return int(found[0]) / 1024 if found else None


def peak_resident_mib():
    """Largest resident memory of this process so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _MIB


def measure(point):
    """Fit once; what a fresh process does for one point.

    Parameters
    ----------
    point : dict
        folder, n_images, n_classes, image_size, budget_mib, max_iter, threads.

    Returns
    -------
    dict
        The point with seconds, peak_mib, start_mib (before fit) and anonymous_mib.
    """
    import torch

    from skhgad import HGADDetector

    if point["threads"]:
        torch.set_num_threads(point["threads"])
    paths = sorted(Path(point["folder"]).glob("*.jpg"))[: point["n_images"]]
    detector = HGADDetector.fast(
        image_size=point["image_size"],
        max_iter=point["max_iter"],
        cache_budget=point["budget_mib"] * _MIB,
        device="cpu",
        random_state=0,
    )
    start_mib = peak_resident_mib()
    with PeakAnonymous() as anonymous:
        start = time.perf_counter()
        detector.fit(paths, np.arange(len(paths)) % point["n_classes"])
        seconds = time.perf_counter() - start
    return point | {
        "seconds": seconds,
        "start_mib": start_mib,
        "peak_mib": peak_resident_mib(),
        "anonymous_mib": anonymous.mib,
        "n_passes": detector.n_iter_,
    }


def in_fresh_process(point):
    """`measure` in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.scaling", "--point"]
    done = subprocess.run([*command, json.dumps(point)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{point}: {done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def write_varied(folder, data, n_images, size):
    """Write `n_images` different JPEG files: base pictures, shifted and brightened."""
    from .pictures import load_pictures, write_files

    base = load_pictures(data, size, min(n_images, _BASE_PICTURES)).pixels
    rng = np.random.default_rng(0)

    def pictures():
        for number in range(n_images):
            shift = rng.integers(0, size, 2)
            moved = np.roll(base[number % len(base)], shift, axis=(0, 1))
            yield np.clip(moved * rng.uniform(0.8, 1.2), 0, 255).astype(np.uint8)

    write_files(pictures(), folder)


def log_slope(x, y):
    """Slope of the least-squares line through log y over log x."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def summarize(images, classes, budget_mib):
    """Slopes and growth, each with its target: list of (what, figure, target, met)."""
    rows = []
    inside = [p for p in images if _SLOPE_RANGE[0] <= p["n_images"] <= _SLOPE_RANGE[1]]
    if len(inside) > 1:
        slope = log_slope([p["n_images"] for p in inside], [p["seconds"] for p in inside])
        rows.append(("log-log slope of time over images", slope, _SLOPE_TARGET))
    if len(classes) > 1:
        worst = max(p["seconds"] for p in classes) / classes[0]["seconds"]
        fewest, most = classes[0]["n_classes"], classes[-1]["n_classes"]
        rows.append((f"time for up to {most} classes over that for {fewest}", worst, _CLASS_TARGET))
    if images:
        peaks = [p["peak_mib"] for p in images]
        rows.append(("growth of peak memory, MiB", max(peaks) - peaks[0], float(budget_mib)))
        rows.append(("peak memory, MiB", max(peaks), float(_MEMORY_TARGET_MIB)))
    return [(what, figure, target, figure <= target) for what, figure, target in rows]


def render(images, classes, summary):
    """Markdown tables of all points and of the summary."""
    lines = [
        "| images | classes | s | images/s | MiB before fit | peak MiB | anonymous MiB |",
        "| --- " * 7 + "|",
    ]
    for p in images + classes:
        anonymous = "" if p["anonymous_mib"] is None else f"{p['anonymous_mib']:.0f}"
        lines.append(
            f"| {p['n_images']} | {p['n_classes']} | {p['seconds']:.1f} | "
            f"{p['n_images'] / p['seconds']:.1f} | {p['start_mib']:.0f} | "
            f"{p['peak_mib']:.0f} | {anonymous} |"
        )
    lines += ["", "| figure | measured | at most | met |", "| --- " * 4 + "|"]
    for what, figure, target, met in summary:
        digits = 0 if figure >= 100 else 2
        lines.append(f"| {what} | {figure:.{digits}f} | {target:g} | {'yes' if met else 'NO'} |")
    return "\n".join(lines)


def draw(images, classes, budget_mib, path):
    """Draw time and memory over images, and time over classes."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (time_axes, memory_axes, class_axes) = plt.subplots(
        1, 3, figsize=(12, 3.4), layout="constrained"
    )
    n = np.array([p["n_images"] for p in images])
    seconds = np.array([p["seconds"] for p in images])
    time_axes.loglog(n, seconds, "o-", label=f"fit, max_iter={images[0]['max_iter']}")
    time_axes.loglog(n, seconds[0] * n / n[0], "k:", label="proportional")
    time_axes.set(xlabel="images", ylabel="seconds")
    time_axes.set_xticks(n, n, rotation=45)
    time_axes.set_xticks([], minor=True)
    memory_axes.plot(n, [p["peak_mib"] for p in images], "o-", label="peak resident")
    if all(p["anonymous_mib"] is not None for p in images):
        memory_axes.plot(n, [p["anonymous_mib"] for p in images], "s--", label="anonymous")
    limit = images[0]["peak_mib"] + budget_mib
    memory_axes.axhline(limit, color="k", linestyle=":", label="smallest + cache_budget")
    memory_axes.set(xlabel="images", ylabel="MiB", ylim=(0, None))
    class_axes.plot([p["n_classes"] for p in classes], [p["seconds"] for p in classes], "o-",
                    label=f"fit, {classes[0]['n_images']} images")  # fmt: skip
    class_axes.set(xlabel="classes", ylabel="seconds", ylim=(0, None))
    for axes in (time_axes, memory_axes, class_axes):
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=100)


def parse(arguments=None):
    """Command line."""
    from .pictures import DEFAULT_DATA

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--sizes", type=int, nargs="*", default=[250, 500, 1000, 2000, 4000, 5000])
    add("--classes", type=int, nargs="*", default=[2, 5, 10, 20, 40])
    add("--class-images", type=int, default=800, help="images at every number of classes")
    add("--image-size", type=int, default=256)
    add("--max-iter", default=1, type=lambda text: text if text == "auto" else int(text))
    add("--budget-mib", type=int, default=1024, help="cache_budget of the detector")
    add("--threads", type=int, default=0, help="of torch; default: torch's")
    add("--data", type=Path, default=DEFAULT_DATA, help="folder of the benchmark")
    add("--json", type=Path, help="write every figure here")
    add("--plot", type=Path, help="draw the curves here")
    options = parser.parse_args(arguments)
    options.sizes, options.classes = sorted(options.sizes), sorted(options.classes)
    if not options.sizes and not options.classes:
        parser.error("--sizes and --classes: give at least one number.")
    if options.plot and not (options.sizes and options.classes):
        parser.error("--plot needs both --sizes and --classes.")
    return options


def main():
    """Measure, print, and draw."""
    from .measurement import environment

    options = parse()
    shared = {
        name: getattr(options, name) for name in ("image_size", "budget_mib", "max_iter", "threads")
    }
    plan = [(n, _IMAGE_CLASSES) for n in options.sizes]
    plan += [(options.class_images, k) for k in options.classes]
    points = []
    with tempfile.TemporaryDirectory(prefix="skhgad-scaling-") as folder:
        write_varied(folder, options.data, max(n for n, _ in plan), options.image_size)
        for n_images, n_classes in plan:
            point = shared | {"folder": folder, "n_images": n_images, "n_classes": n_classes}
            points.append(in_fresh_process(point))
            del points[-1]["folder"]
            print(
                f"{n_images} images, {n_classes} classes: {points[-1]['seconds']:.1f} s, "
                f"{points[-1]['peak_mib']:.0f} MiB",
                file=sys.stderr,
                flush=True,
            )
    images, classes = points[: len(options.sizes)], points[len(options.sizes) :]
    summary = summarize(images, classes, options.budget_mib)
    found = environment("cpu")
    print(", ".join(f"{name} {value}" for name, value in found.items()))
    print(f"max_iter={options.max_iter}, cache_budget={options.budget_mib} MiB\n")
    print(render(images, classes, summary))
    if options.json:
        content = {"environment": found, "images": images, "classes": classes, "summary": summary}
        options.json.write_text(json.dumps(content, indent=1) + "\n")
    if options.plot:
        draw(images, classes, options.budget_mib, options.plot)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--point"]:
        print(json.dumps(measure(json.loads(sys.argv[2]))))
    else:
        main()
