"""Normal pictures that are blank beside all others of their class: they take no part in a fit.

A few pictures of a dead camera among few normals would lower the threshold so far that defects
pass.
"""

import numpy as np

from ..caller import warn_caller
from ..scoring.appearances import appearances_of
from ..scoring.blank import contrast_limits, is_blank
from ..validation import listed


def leave_out_blank(looks, codes, labels, name, before=None):
    """Name blank pictures in a warning, and return which they are, a bool ndarray (n,).

    Parameters
    ----------
    looks : ndarray of shape (n, 3)
        As in `ObservedSource`; NaN where a picture was not read.
    codes : ndarray of shape (n,), int64
        Classes; -1: none.
    labels : ndarray of shape (n_classes,)
    name : callable
        Names the picture in a row of `looks`.
    before : KeptVectors, default=None
        How normal pictures of an earlier fit looked.
    """
    appearances = appearances_of(looks, codes, before)
    if appearances is None:
        return np.zeros(len(codes), dtype=bool)
    found = is_blank(looks, codes, contrast_limits(appearances, len(labels)))
    rows, labels = np.flatnonzero(found), labels.tolist()
    if len(rows):
        texts = [f"{name(row)} (class {labels[codes[row]]!r})" for row in rows.tolist()]
        warn_caller(
            "normal pictures with less than a third of the contrast that the others of their class "
            f"have, as of a dead camera: {listed(texts)}. They look blank, and such pictures are "
            "judged as anomalies: they take no part. If such parts are good, bring more of them: "
            "two of a class with less than 100 normals, or more than 2 %, count."
        )
    return found
