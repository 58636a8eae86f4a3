"""The one way from X to features, for vectors and images."""

import hashlib
from contextlib import closing

import numpy as np
import torch
from joblib import cpu_count, effective_n_jobs
from tqdm import tqdm

from ..budget import images_per_batch
from ..devices import keep_to_one_thread_if_forked, move_to, resolve_device, to_device
from ..images import ImageSource, iter_batches
from ..parameters import memory_folder
from .extractor import build_extractor
from .store import FeatureStore

_MOST_THREADS = 8  # that decode images for a GPU unless n_jobs says otherwise
_VECTOR_BATCH = 1024


class FeatureReader:
    """Reads the features of samples, batch by batch, onto a device.

    `extractor` is None for feature vectors. Features of images are remembered in `memory`, a folder
    or the location of a joblib.Memory, as `FeatureStore` does it. `n_jobs` threads decode images.
    `verbose` >= 1 shows a progress bar of images. Raises ValueError if the device is not there,
    TypeError for a `memory` of another type.
    """

    def __init__(self, extractor, *, device="auto", memory=None, n_jobs=None, verbose=0):
        self.extractor = extractor
        self.device = resolve_device(device)
        self.folder = memory_folder(memory)
        self.n_jobs = n_jobs
        self.verbose = verbose

    @classmethod
    def for_fit(cls, parameters, X):
        """Return the reader of `X`, from `check_X`, to fit on; images get a new extractor."""
        running = {name: parameters[name] for name in ("device", "memory", "n_jobs", "verbose")}
        reader = cls(None, **running)
        if isinstance(X, ImageSource):
            reader.extractor = build_extractor(parameters, weights=parameters["weights"])
        return reader

    @property
    def dtype(self):
        """NumPy dtype of the features: float64 for vectors, float32 for images."""
        return np.dtype(np.float64 if self.extractor is None else np.float32)

    def level_shapes(self, X):
        """Return (n_features, height, width) of each level; a vector is a map of one position."""
        return [(X.shape[1], 1, 1)] if self.extractor is None else self.extractor.levels

    def batches(self, X, rows=None, *, quiet=False):
        """Read samples of X, from `check_X`: those in `rows`, or all.

        Yields a list of Tensors (n, n_positions, n_features) on `device`, one a level; and the
        (height, width) of each image before resizing, (1, 1) for vectors. `quiet` hides the
        progress bar in any case.
        """
        keep_to_one_thread_if_forked()
        if self.extractor is None:
            for features, sizes in vector_batches(X, rows):
                yield [level.to(self.device) for level in features], sizes
            return
        move_to(self.extractor, self.device)
        total = len(X) if rows is None else len(rows)
        with tqdm(
            total=total, desc="images", unit="image", disable=quiet or self.verbose < 1
        ) as bar:
            for features, sizes in self._image_batches(X, rows):
                yield features, sizes
                bar.update(len(sizes))

    def view_batches(self, views, rows=None, *, quiet=False):
        """Read views of pictures, a ViewSource: those in `rows`, or all.

        Yields a list of features as `batches` does; and which positions lie inside, a list of bool
        Tensors (n, n_positions), one a level. Outside, a map repeats what it has inside, so that
        what looks at all positions sees nothing else.
        """
        rows, first = np.arange(len(views)) if rows is None else rows, 0
        for features, sizes in self.batches(views, rows, quiet=quiet):
            part = rows[first : first + len(sizes)]
            first += len(sizes)
            inside = [torch.from_numpy(i).to(self.device) for i in views.inside_of_views(part)]
            yield [repeated(x, i) for x, i in zip(features, inside, strict=True)], inside

    def _image_batches(self, source, rows):
        """Decode images and extract their features; remembered images skip the backbone."""
        spec, n_jobs = self.extractor.spec, self.n_jobs
        size = tuple(spec["image_size"])
        if n_jobs is None and self.device.type != "cpu" and effective_n_jobs(None) == 1:
            n_jobs = min(_MOST_THREADS, cpu_count())
        n_images = images_per_batch(size, spec["image_scales"], self.extractor.levels)
        batches = iter_batches(source, size=size, batch_size=n_images, n_jobs=n_jobs, indices=rows)
        extract = self._extract
        if self.folder is not None:
            shapes = [(height * width, n) for n, height, width in self.extractor.levels]
            store = FeatureStore(self.folder, shapes)
            digest = self.extractor.digest(self.device)

            def extract(pixels):
                return self._extract_once(pixels, digest, store)

        with closing(batches):  # ends its threads, whatever a traceback still refers to
            for batch in batches:
                yield extract(batch.pixels), batch.sizes

    def _extract(self, pixels):
        with torch.inference_mode():
            return self.extractor(to_device(torch.from_numpy(pixels), self.device))

    def _extract_once(self, pixels, digest, store):
        """Extract the features of the images that the store does not hold, and store them."""
        keys = [hashlib.sha256(digest.encode() + image.tobytes()).hexdigest() for image in pixels]
        images = [store.load(key) for key in keys]
        unknown = [i for i, levels in enumerate(images) if levels is None]
        if unknown:
            arrays = [level.cpu().numpy() for level in self._extract(pixels[unknown])]
            for row, i in enumerate(unknown):
                images[i] = [array[row] for array in arrays]
                store.save(keys[i], images[i])
        return [
            torch.from_numpy(np.stack(level)).to(self.device) for level in zip(*images, strict=True)
        ]


def repeated(x, inside):
    """Return vectors (n, n_positions, d), those outside replaced by copies of vectors inside.

    Copies are spread evenly. A map with nothing inside stays as it is.
    """
    if bool(inside.all()):
        return x
    x = x.clone()
    for row, chosen in zip(x, inside, strict=True):
        places = torch.nonzero(chosen)[:, 0]
        if 0 < len(places) < len(chosen):
            n_outside = len(chosen) - len(places)
            copied = torch.arange(n_outside, device=x.device) * len(places) // n_outside
            if n_outside > len(places):
                copied = torch.arange(n_outside, device=x.device) % len(places)
            row[~chosen] = row[places[copied]]
    return x


def vector_batches(X, rows=None, batch_size=_VECTOR_BATCH):
    """Cut float64 vectors into batches as `FeatureReader.batches`: one level with one position."""
    rows = np.arange(len(X)) if rows is None else rows
    for first in range(0, len(rows), batch_size):
        block = X[rows[first : first + batch_size]]
        yield [torch.from_numpy(block)[:, None]], [(1, 1)] * len(block)
