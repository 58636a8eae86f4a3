"""The images of every product that show most clearly what a detector gets right and wrong."""

import heapq
from collections import Counter
from typing import NamedTuple

import numpy as np


class Kind(NamedTuple):
    """A kind of images that the page shows, with its heading.

    `verdicts` are those of labelled rows. `most_normal` tells which images come first: those of the
    highest score, or of the lowest. The kinds `beside` stand beside each other.
    """

    title: str
    verdicts: tuple
    most_normal: bool
    beside: bool = False


UNLABELLED = Kind("Most anomalous", (), False)
RIGHT = Kind("Judged rightly, the most anomalous first", ("anomaly", "normal"), False)
MISSED = Kind("Missed: labelled as defective, but not flagged", ("missed",), True, True)
FALSE_ALARMS = Kind("False alarms: labelled good, but flagged", ("false alarm",), False, True)
KINDS = (UNLABELLED, RIGHT, MISSED, FALSE_ALARMS)


def kind_of(row):
    """Return the kind of image that a Row is about."""
    if row.defect is None:
        return UNLABELLED
    return next(kind for kind in KINDS if row.verdict in kind.verdicts)


class Clear(NamedTuple):
    """One of the clearest images of its product and kind, at the size of the page.

    Tuples compare by clearness, then by `minus_index`: the earlier image is greater. `pixels`, of
    shape (height, width[, 3]), are uint8; the map, the mask of the defect and the region of
    interest (bool, or None) have shape (height, width).
    """

    clearness: float
    minus_index: int
    pixels: np.ndarray
    anomaly_map: np.ndarray
    mask: np.ndarray | None
    roi: np.ndarray | None = None


class Group(NamedTuple):
    """The images of one product and kind, the clearest first; there are `n_all` of them."""

    product: str
    kind: Kind
    images: list
    n_all: int

    @property
    def title(self):
        """The heading, with how many are shown where these are not all."""
        n_shown = len(self.images)
        return self.kind.title + (f" ({n_shown} of {self.n_all})" if n_shown < self.n_all else "")


class Clearest:
    """Keep the `n_images` clearest images of every product and kind, while all are visited."""

    def __init__(self, n_images):
        self.n_images = n_images
        self._heaps = {}
        self._counts = Counter()

    def offer(self, index, row, page_size):
        """Keep the image `index` if it is among the clearest so far.

        `row` is its Row; page_size() returns the other fields of Clear.
        """
        kind = kind_of(row)
        place = row.product, KINDS.index(kind)
        heap = self._heaps.setdefault(place, [])
        self._counts[place] += 1
        order = (row.score if kind.most_normal else -row.score, -index)
        if len(heap) < self.n_images:
            heapq.heappush(heap, Clear(*order, *page_size()))
        elif heap and order > heap[0][:2]:
            heapq.heapreplace(heap, Clear(*order, *page_size()))

    def groups(self):
        """Return a list of Group, by product, then in the order of KINDS; none is empty."""
        return [
            Group(
                place[0],
                KINDS[place[1]],
                sorted(heap, key=lambda clear: clear[:2], reverse=True),
                self._counts[place],
            )
            for place, heap in sorted(self._heaps.items())
            if heap
        ]
