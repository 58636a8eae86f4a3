"""Tables of more features than rows in a file: the rows in few bits, and no axes beside them.

`fit` rounded the rows (`fitting.wide_tables`), and the axes are sums of them.
"""

import torch

from ..fitting.far_cells import far_cells
from ..model.short_rows import ShortRows, axes_of_rows

_AXES, _MEAN = "model.levels.0.start.matrix", "model.levels.0.start.mean"
_WEIGHTS = "model.levels.0.start.row_weights"
_KEPT = "kept.x"
_SAME = 1e-6  # of the largest of all axes: float32


def without_axes(tensors):
    """Return all tensors of a detector, the kept rows as `ShortRows` where that holds them.

    The axes are left out if they are those of the first kept rows. After `forget`, which takes rows
    away, they are not, and their weights are left out instead, as those of images always are.
    """
    result = {name: t for name, t in tensors.items() if not name.endswith(".row_weights")}
    if _KEPT not in tensors:
        return result
    rows, weights = tensors[_KEPT], tensors.get(_WEIGHTS)
    n_first = len(rows)
    if weights is not None and _gives_axes(rows, weights, tensors):
        del result[_AXES]
        result[_WEIGHTS], n_first = weights, len(weights)
    is_wide = weights is not None
    places, short = _short_rows(rows[:n_first], tensors["kept.codes"][:n_first], is_wide)
    if short is not None:
        result[_KEPT] = rows[_others(places, len(rows))]
        result[f"{_KEPT}.places"] = places
        parts = short._asdict().items()
        result |= {f"{_KEPT}.{name}": values for name, values in parts if values is not None}
    return result


def _gives_axes(rows, weights, tensors):
    if len(weights) > len(rows):
        return False
    axes = tensors[_AXES].double().cpu()
    found = axes_of_rows(rows[: len(weights)], tensors[_MEAN].cpu(), weights.cpu())
    return bool((found - axes).abs().max() <= _SAME * axes.abs().max())


def _short_rows(rows, codes, is_wide):
    """Return which rows few bits hold, all or those without far cells, and `ShortRows` of them."""
    places, short = torch.arange(len(rows)), ShortRows.of(rows)
    if short is None and is_wide:  # `fit` rounded those without
        far = {cell.row for cell in far_cells(rows.numpy(), codes.numpy())}
        if far:
            places = _others(torch.tensor(sorted(far)), len(rows))
            short = ShortRows.of(rows[places])
    return places, short


def _others(places, n):
    """Return the numbers below n that are not among `places`, int64, in order."""
    is_other = torch.ones(n, dtype=torch.bool)
    is_other[places] = False
    return torch.nonzero(is_other)[:, 0]


def with_axes(tensors):
    """Return all tensors of a detector for tables from what `without_axes` returned.

    They take at most about eight times the memory of what is stored. Raises ValueError or KeyError
    for parts that do not fit each other.
    """
    result = dict(tensors)
    if f"{_KEPT}.places" in result:
        places = result.pop(f"{_KEPT}.places")
        names = [f"{_KEPT}.{name}" for name in ShortRows._fields]
        parts = [result.pop(name) for name in names[:4]]
        factors = [result.pop(name, None) for name in names[4:]]  # few tables have them
        short = ShortRows(*parts, *factors)
        result[_KEPT] = _joined(places, short, result[_KEPT])
    if _WEIGHTS in result:
        result[_AXES] = _axes(result)
    return result


def _axes(tensors):
    rows, mean, weights = (tensors[name] for name in (_KEPT, _MEAN, _WEIGHTS))
    (n, d), (n_first, n_axes) = rows.shape, weights.shape
    # No more axes than rows: else they may take any memory.
    if not 0 < n_axes <= n_first <= n or mean.shape != (d,) or _AXES in tensors:
        raise ValueError(f"{_WEIGHTS} ({n_first}, {n_axes}) are not those of {n} rows.")
    return axes_of_rows(rows[:n_first], mean, weights)


def _joined(places, short, others):
    """Put short rows and others in their common order."""
    short.check()
    n_short, n_all = len(short.high), len(short.high) + len(others)
    if others.shape[1:] != short.high.shape[1:]:
        raise ValueError(f"{_KEPT} has shape {tuple(others.shape)}.")
    if places.dtype != torch.int64 or places.shape != (n_short,):
        raise ValueError(f"{_KEPT}.places are {places.dtype} of shape {tuple(places.shape)}.")
    if len(places.unique()) != n_short or not 0 <= int(places.min()) <= int(places.max()) < n_all:
        raise ValueError(f"{_KEPT}.places has a place twice, or one that there is not.")
    rows = others.new_empty(n_all, others.shape[1])
    rows[places], rows[_others(places, n_all)] = short.rows(), others
    return rows
