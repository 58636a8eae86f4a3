"""Images for the speed benchmarks: of the benchmark folder where there is one, else drawn."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from skhgad.datasets import load_folder
from skhgad.images import ImageSource

DEFAULT_DATA = Path(os.environ.get("SKHGAD_BENCH", "../shared/bench"))
_DRAWN_CLASSES = 4


class Pictures(NamedTuple):
    """Images of one size and the files they come from.

    Attributes
    ----------
    pixels : ndarray of shape (n, height, width, 3), uint8
    labels : ndarray of shape (n,), str
        Product class of each image.
    paths : list of n Path, or None
        None = the images were drawn.
    y : ndarray of shape (n,)
        +1 normal, -1 anomaly.
    """

    pixels: np.ndarray
    labels: np.ndarray
    paths: list | None
    y: np.ndarray

    def codes(self):
        """Classes as numbers 0 .. K - 1."""
        return np.unique(self.labels, return_inverse=True)[1].astype(np.int64)

    def files(self, folder):
        """Paths of the images; drawn ones are written to `folder` first."""
        return self.paths or write_files(self.pixels, folder)


def load_pictures(data, size, n=None, *, split="train"):
    """Read images of the benchmark folder, or draw them where there is none.

    Parameters
    ----------
    data : Path
        Holds ``images/`` in the MVTec AD layout.
    size : int
        Side to which images are resized.
    n : int, default=None
        How many, taken from all classes in turn, again from the first when they run out; None =
        each image of the folder once.
    split : {"train", "test"}

    Returns
    -------
    Pictures

    Raises
    ------
    FileNotFoundError
        If all images are asked for and there is no folder.
    """
    if not (data / "images").is_dir():
        if n is None:
            raise FileNotFoundError(f"no folder {data / 'images'}: set --data or SKHGAD_BENCH.")
        return draw_pictures(n, size)
    bunch = load_folder(data / "images")
    rows = np.flatnonzero(bunch.split == split)
    if n is not None:
        rows = np.resize(_in_turn(rows, bunch.class_label[rows]), n)
    source = ImageSource(list(bunch.images[rows]))
    pixels = np.stack([_resized(source.read(i), size) for i in range(len(rows))])
    return Pictures(pixels, bunch.class_label[rows], list(bunch.images[rows]), bunch.y[rows])


def draw_pictures(n, size, seed=0):
    """Draw blurred noise, a coarseness for each class: only shapes and speed count."""
    rng = np.random.default_rng(seed)
    kinds = np.arange(n) % _DRAWN_CLASSES
    pixels = np.empty((n, size, size, 3), dtype=np.uint8)
    for picture, kind in zip(pixels, kinds, strict=True):
        cells = rng.integers(0, 256, (8 << kind, 8 << kind, 3), dtype=np.uint8)
        picture[:] = np.asarray(Image.fromarray(cells).resize((size, size), Image.BILINEAR))
    return Pictures(pixels, np.char.add("texture ", kinds.astype(str)), None, np.ones(n, int))


def write_files(pixels, folder):
    """Write images, any iterable of them, as JPEG of quality 92; returns their paths in order."""
    paths = []
    for number, picture in enumerate(pixels):
        paths.append(Path(folder) / f"{number:05d}.jpg")
        Image.fromarray(picture).save(paths[-1], quality=92)
    return paths


def _in_turn(rows, labels):
    """Order rows so that the classes take turns, those of one class at random."""
    rng = np.random.default_rng(0)
    place = np.empty(len(rows), dtype=np.int64)
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        place[rng.permutation(own)] = np.arange(len(own))
    return rows[np.argsort(place, kind="stable")]


def _resized(pixels, size):
    if pixels.shape[:2] == (size, size):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((size, size), Image.BILINEAR))
