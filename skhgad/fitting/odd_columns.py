"""Columns of a table that are hardly measurements: marks of missing values, and running numbers."""

import re
from typing import NamedTuple

import numpy as np

_FEWEST = 10  # other values of a column
_FEWEST_MARKS = 3
_MARK_SHARE = 0.005
# How far a mark lies from all other values, in multiples of their range: codes such as -999, and
# any other value.
_FAR, _VERY_FAR = 1.0, 20.0
_NINES = re.compile(r"-?9{2,}(\.9+)?")
_LIMITS = frozenset((-32768, 32767, 65535, -2147483648, 2147483647, 4294967295))
_FEWEST_NUMBERS = 20
_MOST_UNEVEN = 1.5  # how much longer large steps of a running number are than small ones
_STEP_RANKS = 0.1, 0.9


class Mark(NamedTuple):
    """A value that stands for "missing" in a column, and the number of rows that have it."""

    column: int
    value: float
    n_rows: int


def marks_of_missing(X):
    """Find values that many rows have and that lie far from all others of their column.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), float64

    Returns
    -------
    list of Mark
        By column, at most one for each. Columns whose other values are all equal have none.
    """
    found, least = [], max(_FEWEST_MARKS, _MARK_SHARE * len(X))
    if len(X) < _FEWEST_MARKS + _FEWEST:
        return found
    for ends, are_lowest in ((X.min(axis=0), True), (X.max(axis=0), False)):
        is_end = X == ends
        counts = is_end.sum(axis=0)
        for column in np.flatnonzero((counts >= least) & (counts <= len(X) - _FEWEST)).tolist():
            end, rest = ends[column], X[~is_end[:, column], column]
            low, high = rest.min(), rest.max()
            gap = low - end if are_lowest else end - high
            far = _FAR if _is_code(end) else _VERY_FAR
            if high > low and gap > far * (high - low):
                found.append(Mark(column, float(end), int(counts[column])))
    first = {mark.column: mark for mark in sorted(found, key=lambda mark: -mark.n_rows)}
    return [first[column] for column in sorted(first)]


def running_numbers(X):
    """Find columns that count the rows, or tell their time: they rise or fall by even steps.

    Returns their numbers, a list of int. A table that is sorted by a measurement has uneven steps.
    """
    if len(X) < _FEWEST_NUMBERS:
        return []
    columns = np.arange(X.shape[1])
    for n in (_FEWEST_NUMBERS, len(X)):  # few columns pass the first rows
        steps = np.diff(X[:n, columns], axis=0)
        is_steady = (steps > 0).all(axis=0) | (steps < 0).all(axis=0)
        columns, steps = columns[is_steady], steps[:, is_steady]
    if not len(columns):
        return []
    small, large = np.quantile(np.abs(steps), _STEP_RANKS, axis=0)
    return columns[large <= _MOST_UNEVEN * small].tolist()


def _is_code(value):
    return value in _LIMITS or _NINES.fullmatch(f"{value:g}") is not None
