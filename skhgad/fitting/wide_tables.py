"""Tables of more features than rows, rounded to as few bits as change nothing.

A model holds their rows: its axes are sums of them, and an update fits them again. `fit` rounds,
not `save`, so that a saved model is the fitted one.
"""

import torch

from ..model.short_rows import (
    N_BITS,
    ShortRows,
    bytes_of_rows,
    rounded,
    rounding_units,
    without_factors,
)
from ..scoring.kept_vectors import MOST_KEPT

_LEAST_VALUES = 1 << 16  # smaller tables stay as they are
# How far rounding may move the squared distance of a vector from what the rows span, as a share of
# the standard deviation of such distances.
_MOST_CHANGE = 2e-4
_SMALLEST_EIGENVALUE = 1e-16  # of the largest: rounding
_SHARE_OF_UNIT = 0.99  # by which rounding may move equal values apart


def rounded_rows(x):
    r"""Return a table (n, d), float64, with values of as few bits as its rows allow.

    Let h be the median distance of a row from the flat through all others, and e h the root mean
    square change of a row. The squared distance of a new vector from the flat through n rows then
    changes by about :math:`e \sqrt{2 n / d}` of the standard deviation that such distances have.
    This may be 0.0002. It takes 8, 12 or 16 bits from end to end of what few common factors leave
    of each feature, or the 24 of float32. A table for which these are too few, one that is not wide
    and a small one are returned as they are.
    """
    n, d = x.shape
    if d <= n or n > MOST_KEPT or x.size < _LEAST_VALUES:
        return x
    rows = torch.from_numpy(x)
    if ShortRows.of(rows) is not None:
        return x
    # The largest root mean square change of a row.
    most = _MOST_CHANGE * (d / (2 * n) * float(_squared_heights(rows).median())) ** 0.5
    for n_factors, found in _rounded_rows(rows, most):
        if not n_factors or ShortRows.of(found) is not None:
            return found.numpy()
    single = rows.float().double()
    changes = (single - rows) / most
    return single.numpy() if changes.square().sum() <= n else x


def _rounded_rows(rows, most):
    """Yield numbers of factors, and rows (n, d) rounded so that they take few bytes beside these.

    No row changes by more than `most`. The choice that takes the fewest bytes comes first; those
    that take as many as float32 are left out.
    """
    choices = []
    for n_factors, rest in without_factors(rows):
        for n_bits in N_BITS:
            units = rounding_units(rest, n_bits)
            n_bytes = bytes_of_rows(*rows.shape, 2**n_bits, n_factors)
            # The variance of rounding is a twelfth.
            if (units / most).square().sum() <= 12 and n_bytes < 4 * rows.numel():
                choices.append((n_bytes, n_factors, units))
                break
    for _, n_factors, units in sorted(choices, key=lambda choice: choice[:2]):
        yield n_factors, rounded(rows, units)


def rounding_of(x):
    """Return how far apart `rounded_rows` may have moved equal values of a table (n, d): (d,).

    Less than the unit of a feature, so that different values of a table of whole numbers differ by
    more.
    """
    (n, d), rows = x.shape, torch.from_numpy(x)
    found = rows.new_zeros(d)
    if d > n > 0:
        short = ShortRows.of(rows)
        if short is not None:
            found = _SHARE_OF_UNIT * torch.exp2(short.exponents.double())
        elif torch.equal(rows.float().double(), rows):
            found = torch.finfo(torch.float32).eps * rows.abs().amax(0)
    return found.numpy()


def with_rounded_rows(X, rows):
    """Return X with these of its rows as `rounded_rows` leaves them; X itself does not change."""
    chosen = X[rows]
    short = rounded_rows(chosen)
    if short is chosen:
        return X
    X = X.copy()
    X[rows] = short
    return X


def place_rows(model, places, n_rows):
    """Tell where among the kept vectors are those that the axes of a wide table are sums of.

    Parameters
    ----------
    model : ScoringModel
        Of vectors. `row_weights` of its start changes; without them, nothing does.
    places : ndarray of shape (n,), int64
        Of the rows of the fit, in order.
    n_rows : int
        Kept vectors. Those that took no part in the fit get the weight 0.
    """
    start = model.levels[0].start
    if hasattr(start, "row_weights"):
        weights = start.row_weights.new_zeros(n_rows, start.row_weights.shape[1])
        weights[places] = start.row_weights
        start.row_weights = weights


def _squared_heights(rows):
    """Squared distances (n,) of rows (n, d) from the flats through all others."""
    centered = rows - rows.mean(0)
    # The rows span one dimension less than they are many; the ones are the missing direction.
    gram = centered @ centered.T
    gram = gram + gram.trace() / len(gram) ** 2
    values, vectors = torch.linalg.eigh(gram)
    values = values.clamp_min(_SMALLEST_EIGENVALUE * float(values[-1]))
    return 1 / (vectors.square() / values).sum(1)
