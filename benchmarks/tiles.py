"""Small defects in large pictures, with tiles and without.

    python -m benchmarks.tiles [--data DIR] [--size 3000 4000] [--tile 384] [--defect 12] [--fast]

Pastes normal images of one product beside each other to large pictures, the products of a camera
that sees many at once. Half of the tested pictures get a dark round spot somewhere. Prints how well
they are found with tiles and without, whether the peak of the map lies on the spot, the CPU
seconds a tile for pictures of several sizes, and the peak memory of a process that scores them.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from skhgad import HGADDetector
from skhgad.datasets import load_folder
from skhgad.images import ImageSource
from skhgad.images.layout import tiled

from .pictures import DEFAULT_DATA, draw_pictures, write_files
from .pixel_memory import peak_memory

_PASTED = 250  # pixels of each image that is pasted, from its middle
_NEAR = 24  # pixels from the middle of a defect to the peak of the map


def patches(data, product, split):
    """Return normal images of a product, (n, 250, 250, 3) uint8; drawn ones without a folder."""
    if not (data / "images").is_dir():
        return draw_pictures(40, _PASTED, seed=split == "test").pixels[::4]
    bunch = load_folder(data / "images")
    chosen = (bunch.split == split) & (bunch.class_label == product) & (bunch.y == 1)
    source = ImageSource(list(bunch.images[np.flatnonzero(chosen)]))
    found = []
    for index in range(len(source)):
        pixels = source.read(index)
        top, left = ((side - _PASTED) // 2 for side in pixels.shape[:2])
        found.append(pixels[top : top + _PASTED, left : left + _PASTED])
    return np.stack(found)


def pasted(patches, size, rng):
    """Paste images drawn at random to a picture of `size` (height, width)."""
    rows, columns = (-(-side // _PASTED) for side in size)
    drawn = patches[rng.integers(0, len(patches), (rows, columns))]
    picture = drawn.transpose(0, 2, 1, 3, 4).reshape(rows * _PASTED, columns * _PASTED, 3)
    return np.ascontiguousarray(picture[: size[0], : size[1]])


def with_spot(picture, diameter, rng):
    """Darken a round spot to 0.4 at a place drawn at random; return the picture and the place."""
    height, width = picture.shape[:2]
    row, column = (
        rng.integers(diameter, height - diameter),
        rng.integers(diameter, width - diameter),
    )
    rows, columns = np.ogrid[:height, :width]
    spot = (rows - row) ** 2 + (columns - column) ** 2 <= (diameter / 2) ** 2
    picture = picture.copy()
    picture[spot] = (0.4 * picture[spot]).astype(np.uint8)
    return picture, (row, column)


def judge(detector, normal, damaged, places):
    """Print how well damaged pictures are told from normal ones, and where the peaks lie."""
    found, start = [], time.perf_counter()
    for explanation in detector.explain([*normal, *damaged]):
        found.append((-explanation.score, explanation.is_anomaly, explanation.peak_position))
    seconds = time.perf_counter() - start
    scores, flagged, peaks = zip(*found, strict=True)
    is_damaged = np.arange(len(scores)) >= len(normal)
    near = [
        np.abs(np.subtract(peak, place)).max() <= _NEAR
        for peak, place in zip(peaks[len(normal) :], places, strict=True)
    ]
    name = "no tiles" if detector.tile_size is None else f"tiles of {detector.tile_size}"
    print(
        f"{name}: AUROC {roc_auc_score(is_damaged, scores):.3f}, flagged "
        f"{np.sum(flagged[len(normal) :])} of {len(damaged)} damaged and "
        f"{np.sum(flagged[: len(normal)])} of {len(normal)} normal, peak on the defect in "
        f"{np.sum(near)}; {seconds / len(scores):.2f} s a picture",
        flush=True,
    )


def peak_of_process():
    """Peak resident memory in bytes; unlike `peak_memory`, without that of the parent process."""
    try:
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
    except (OSError, IndexError):
        return peak_memory()


def measure(model, size):
    """Print JSON of the CPU seconds and the memory that scoring pictures of a size takes."""
    detector = HGADDetector.load(model)
    rng = np.random.default_rng(0)
    picture = pasted(draw_pictures(4, _PASTED).pixels, size, rng)
    detector.score_samples(picture[None, : detector.tile_size, : detector.tile_size])  # warm
    start = time.process_time()
    detector.score_samples([picture, picture])
    seconds = (time.process_time() - start) / 2
    print(json.dumps({"seconds": seconds, "bytes": peak_of_process()}))


def main(arguments=None):
    """Run the benchmark; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--product", default="solar_mono")
    parser.add_argument("--size", type=int, nargs=2, default=(3000, 4000))
    parser.add_argument("--tile", type=int, default=384)
    parser.add_argument("--defect", type=int, default=12, help="diameter in pixels")
    parser.add_argument("--fit", type=int, default=20, help="pictures to fit on")
    parser.add_argument("--test", type=int, default=10, help="pictures of each kind to score")
    parser.add_argument("--fast", action="store_true", help="HGADDetector.fast()")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    size = tuple(options.size)
    if options.measure:
        measure(options.measure, size)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        compare(options, size, Path(folder))
    return 0


def compare(options, size, folder):
    """Fit and score with tiles and without, then measure time and memory."""
    rng = np.random.default_rng(0)
    seen, unseen = (patches(options.data, options.product, split) for split in ("train", "test"))
    for name in ("fit", "normal", "damaged"):
        (folder / name).mkdir()
    X = write_files((pasted(seen, size, rng) for _ in range(options.fit)), folder / "fit")
    drawn = (pasted(unseen, size, rng) for _ in range(options.test))
    normal, places = write_files(drawn, folder / "normal"), []

    def spotted():
        for _ in range(options.test):
            picture, place = with_spot(pasted(unseen, size, rng), options.defect, rng)
            places.append(place)
            yield picture

    damaged = write_files(spotted(), folder / "damaged")
    n_tiles = len(tiled(size, (options.tile, options.tile)).corners)
    print(f"{size[0]} x {size[1]} pixels, {n_tiles} tiles, defects of {options.defect} pixels")
    for tile in (None, options.tile):
        make = HGADDetector.fast if options.fast else HGADDetector
        detector = make(tile_size=tile, random_state=0, cache_budget=1 << 28)
        start = time.perf_counter()
        detector.fit(X)
        print(f"fit on {len(X)} pictures in {time.perf_counter() - start:.0f} s", flush=True)
        judge(detector, normal, damaged, places)
    detector.save(folder / "model")
    for share in (4, 2, 1):
        part = [str(side // share) for side in size]
        command = ["-m", "benchmarks.tiles", "--measure", str(folder / "model"), "--size"]
        printed = subprocess.run(
            [sys.executable, *command, *part], check=True, capture_output=True, text=True
        ).stdout
        found = json.loads(printed.splitlines()[-1])
        n_tiles = len(tiled(tuple(map(int, part)), (options.tile, options.tile)).corners)
        print(
            f"{part[0]} x {part[1]}: {n_tiles} tiles, {found['seconds']:.2f} CPU s, "
            f"{1e3 * found['seconds'] / n_tiles:.0f} ms a tile, peak memory "
            f"of the process {found['bytes'] / 2**20:.0f} MiB"
        )


if __name__ == "__main__":
    sys.exit(main())
