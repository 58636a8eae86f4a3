"""How many pixels the normal pictures of a fit had: pictures with fewer are blurred beside them."""

import numpy as np

from ..caller import warn_caller
from ..validation import listed

_FEWER = 0.75  # of the sides that count, in both directions


def least_sides(sizes, codes, n_classes, before=None):
    """Return the least height and width of the pictures of each class, ndarray (n_classes, 2).

    Parameters
    ----------
    sizes : ndarray of shape (n_pictures, 2), int64
        Height and width; 0 where a picture was not read.
    codes : ndarray of shape (n_pictures,), int64
        Class of each; -1: none.
    n_classes : int
    before : ndarray of shape (n_classes, 2), default=None
        Of earlier pictures. 0: of these classes nothing is known.
    """
    least = np.zeros((n_classes, 2), dtype=np.int64) if before is None else before.copy()
    for code in np.unique(codes[codes >= 0]):
        own = sizes[(codes == code) & (sizes > 0).all(axis=1)]
        if least[code].any():
            own = np.vstack((own, least[code]))
        if len(own):
            least[code] = own.min(axis=0)
    return least


def warn_of_fewer_pixels(source, codes, least, target):
    """Name the pictures that have fewer pixels than those of the fit, and too few for the model.

    Parameters
    ----------
    source : ObservedSource
        What was read of it counts.
    codes : ndarray of shape (n_pictures,), int64
        Class of each.
    least : ndarray of shape (n_classes, 2), int64
        From `least_sides`.
    target : tuple (height, width)
        To which pictures are resized.
    """
    sizes, needed = source.sizes, np.minimum(least, target)[codes]
    fewer = np.flatnonzero((sizes > 0).all(axis=1) & (sizes < _FEWER * needed).all(axis=1))
    if not len(fewer):
        return
    names = listed(
        f"{source.name(row)} ({sizes[row, 0]} x {sizes[row, 1]} beside "
        f"{least[codes[row], 0]} x {least[codes[row], 1]})"
        for row in fewer.tolist()
    )
    warn_caller(
        f"{len(fewer)} of {len(sizes)} pictures have fewer pixels than any normal picture of their "
        f"class (height x width): {names}. They are enlarged, and so blurred, and good ones may be "
        "judged as anomalies. Take pictures as large as those of the fit."
    )
