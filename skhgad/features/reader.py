"""The one way from X to features, for vectors and images."""

import hashlib
from collections import deque
from contextlib import ExitStack, closing, contextmanager
from functools import partial

import numpy as np
import torch
from joblib import cpu_count, effective_n_jobs
from tqdm import tqdm

from ..budget import images_at_once, images_per_batch
from ..devices import (
    keep_to_one_thread_if_forked,
    move_to,
    resolve_device,
    to_device,
    usual_torch,
)
from ..images import ImageSource, iter_batches
from ..parameters import check_n_jobs, memory_folder
from ..threads import granted_threads, torch_threads, worker_threads
from .extractor import build_extractor
from .store import FeatureStore

_MOST_THREADS = 8  # that decode images for a GPU unless n_jobs says otherwise
_VECTOR_BATCH = 1024


class FeatureReader:
    """Reads the features of samples, batch by batch, onto a device.

    `extractor` is None for feature vectors. Features of images are remembered in `memory`, a folder
    or the location of a joblib.Memory, as `FeatureStore` does it. `n_jobs` threads decode images
    and, on the CPU, run the backbone, each on images of its own. `verbose` >= 1 shows a progress
    bar of images. Raises ValueError if the device is not there or `n_jobs` is out of range,
    TypeError for a `memory` or `n_jobs` of another type.
    """

    def __init__(self, extractor, *, device="auto", memory=None, n_jobs=None, verbose=0):
        self.extractor = extractor
        self.device = resolve_device(device)
        self.folder = memory_folder(memory)
        check_n_jobs(n_jobs)
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
        if n_jobs is None and self.device.type != "cpu":
            n_jobs = effective_n_jobs(None)  # of the caller's thread
            n_jobs = min(_MOST_THREADS, cpu_count()) if n_jobs == 1 else n_jobs
        n_images = images_per_batch(size, spec["image_scales"], self.extractor.levels)
        batches = iter_batches(
            source,
            size=size,
            batch_size=n_images,
            n_jobs=n_jobs,
            indices=rows,
            keep_bytes=self.device.type != "cpu",
        )
        store = digest = None
        if self.folder is not None:
            shapes = [(height * width, n) for n, height, width in self.extractor.levels]
            store = FeatureStore(self.folder, shapes)
            digest = self.extractor.digest(self.device)
        n_threads = granted_threads(self.n_jobs)
        total = len(source) if rows is None else len(rows)
        spreads = n_threads > 1 and total > 1 and self.cuts_batches
        with ExitStack() as stack:
            stack.enter_context(closing(batches))  # ends its threads, whatever refers to them
            workers = stack.enter_context(worker_threads(n_threads)) if spreads else None
            if self.device.type == "cuda" and total > n_images:
                batches = stack.enter_context(read_ahead(map(_pinned, batches)))

            def begin(batch):
                if store is None:
                    return self._begin(batch.pixels, n_threads, workers), batch.sizes
                finish = self._begin_unknown(batch.pixels, digest, store, n_threads, workers)
                return finish, batch.sizes

            for finish, sizes in _one_ahead(map(begin, batches), is_ahead=spreads):
                yield finish(), sizes

    @property
    def cuts_batches(self):
        """Whether images pass the backbone a few at a time, which any thread may do.

        A GPU takes whole batches, and so does a module that may remember what it saw last.
        """
        return self.device.type == "cpu" and self.extractor.is_stateless

    def _begin(self, pixels, n_threads, workers=None):
        """Begin to extract features; return a function that waits for them."""
        if not self.cuts_batches:
            return partial(self._extract, pixels, n_threads)
        spec = self.extractor.spec
        # It does not depend on the number of threads, so that features do not, either.
        n_images = images_at_once(len(pixels), spec["image_size"], spec["image_scales"])
        pieces = np.split(pixels, range(n_images, len(pixels), n_images))
        if workers is None:
            # A single image is not cut, so only torch itself can use several threads.
            threads = n_threads if len(pixels) == 1 else 1
            return lambda: _joined([self._extract(piece, threads) for piece in pieces])
        begun = [workers.submit(self._extract, piece) for piece in pieces]
        return lambda: _joined([future.result() for future in begun])

    def _extract(self, pixels, n_threads=1):
        with torch_threads(n_threads), usual_torch(), torch.inference_mode():
            return self.extractor(as_floats(to_device(torch.from_numpy(pixels), self.device)))

    def _begin_unknown(self, pixels, digest, store, *threads):
        """As `_begin`, of the images that the store does not hold; they are stored in the end."""
        keys = [hashlib.sha256(digest.encode() + image.tobytes()).hexdigest() for image in pixels]
        images = [store.load(key) for key in keys]
        unknown = [i for i, levels in enumerate(images) if levels is None]
        extracted = self._begin(pixels[unknown], *threads) if unknown else list

        def finish():
            arrays = [level.cpu().numpy() for level in extracted()]
            for row, i in enumerate(unknown):
                images[i] = [array[row] for array in arrays]
                store.save(keys[i], images[i])
            return [
                torch.from_numpy(np.stack(level)).to(self.device)
                for level in zip(*images, strict=True)
            ]

        return finish


def as_floats(pixels):
    """Return pixels of a batch as float32 (n, channels, height, width) in [0, 1].

    They are that already, or uint8 of shape (n, height, width, channels).
    """
    return pixels.permute(0, 3, 1, 2).float() / 255 if pixels.dtype == torch.uint8 else pixels


def _pinned(batch):
    """Return a batch whose pixels lie where a GPU fetches them without a copy in between."""
    return batch._replace(pixels=torch.from_numpy(batch.pixels).pin_memory().numpy())


@contextmanager
def read_ahead(items):
    """Enter an iterator over the same items; a thread takes them, two ahead of the caller.

    An error comes where its item is due.
    """
    with worker_threads(1) as workers:

        def taken():
            waiting = deque(workers.submit(next, items, None) for _ in range(2))
            while (item := waiting.popleft().result()) is not None:
                waiting.append(workers.submit(next, items, None))
                yield item

        yield taken()


def _joined(pieces):
    """Join the levels of several pieces of a batch."""
    if len(pieces) == 1:
        return pieces[0]
    return [torch.cat(level) for level in zip(*pieces, strict=True)]


def _one_ahead(items, *, is_ahead):
    """Yield each item after the next one was taken, if `is_ahead`; an error comes in its turn."""
    waiting, error = [], None
    while error is None:
        try:
            waiting.append(next(items))
        except StopIteration:
            break
        except Exception as raised:
            error = raised
        if waiting and (not is_ahead or len(waiting) > 1 or error is not None):
            yield waiting.pop(0)
    yield from waiting
    if error is not None:
        raise error


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
