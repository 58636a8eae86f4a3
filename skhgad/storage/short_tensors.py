"""Tensors are stored in as few bytes as hold their values exactly, and read again.

What fit rounded takes one or two bytes a number, what float32 holds four.
"""

import torch

from ..model.short_numbers import ShortMatrix, short

# The large tensors of wide tables, float64 in memory.
_NARROWED = ("model.levels.0.start.matrix", "model.levels.0.densities.whiteners", "kept.x")
_KINDS = {"one_byte": torch.int8, "two_bytes": torch.int16}


def narrowed(tensors):
    """Return all tensors of a detector, the large ones of tables in float32 if that holds them."""
    return tensors | {
        name: tensors[name].float()
        for name in _NARROWED
        if name in tensors and torch.equal(tensors[name].float().double(), tensors[name].double())
    }


def widened(tensors):
    """Return all tensors of a detector for tables, those in float64 that `narrowed` changed."""
    return tensors | {
        name: tensors[name].double()
        for name in _NARROWED
        if name in tensors and tensors[name].dtype == torch.float32
    }


def shortened(tensors):
    """Return the tensors of a model, rounded whiteners as parts of `ShortMatrix`.

    Parameters
    ----------
    tensors : dict of Tensor
        A stack of whiteners (n, d, d) keeps those that are not rounded: all in float64, and those
        of models of older versions.

    Returns
    -------
    dict of Tensor
        For the stack NAME and KIND, one_byte or two_bytes, also ``NAME.KIND.places`` (m,), where in
        the stack the matrices are, and the parts of `ShortMatrix`, each of one more axis, (m, ...).
    """
    result = dict(tensors)
    for name in tensors:
        if name.endswith("whiteners") and tensors[name].dtype == torch.float32:
            result.update(_shortened(name, tensors[name].cpu()))
    return result


def _shortened(name, stack):
    found, whole = {kind: ([], []) for kind in _KINDS}, []
    for place, matrix in enumerate(stack):
        for kind, dtype in _KINDS.items():
            parts = ShortMatrix.of(matrix, dtype)
            if torch.equal(parts.matrix(), matrix):
                found[kind][0].append(place)
                found[kind][1].append(parts)
                break
        else:
            whole.append(place)
    result = {name: stack[whole]}
    for kind, (places, parts) in found.items():
        if places:
            result[f"{name}.{kind}.places"] = torch.tensor(places)
            for part in ShortMatrix._fields:
                values = torch.stack([getattr(matrix, part) for matrix in parts])
                result[f"{name}.{kind}.{part}"] = values
    return result


def lengthened(tensors):
    """Return the tensors of a model from what `shortened` returned.

    They take at most about eight times the memory of what is stored. Raises ValueError or KeyError
    for parts that do not fit each other.
    """
    result = dict(tensors)
    for name in tensors:
        if name.endswith("whiteners"):
            result[name] = _lengthened(name, result)
        if name.endswith("nearest.vectors"):
            prefix = name.removesuffix("vectors")
            if tensors[name].ndim == 3:
                _rounded_vectors(prefix, result)
            _from_zero(prefix, result)
    return result


def _lengthened(name, tensors):
    """Take the parts of a stack out of the tensors, and return the stack."""
    whole, places, matrices = tensors[name], [], []
    for kind, dtype in _KINDS.items():
        if f"{name}.{kind}.places" not in tensors:
            continue
        own, *parts = (tensors.pop(f"{name}.{kind}.{k}") for k in ("places", *ShortMatrix._fields))
        n, d = parts[0].shape
        shapes = whole.shape[1:], own.shape, *(part.shape for part in parts)
        if shapes != ((d, d), (n,), (n, d), (n, d), (n, d * (d - 1) // 2)):
            raise ValueError(f"{name}.{kind} has parts of the shapes {shapes}.")
        types = whole.dtype, own.dtype, *(part.dtype for part in parts)
        if types != (torch.float32, torch.int64, torch.float32, torch.float32, dtype):
            raise ValueError(f"{name}.{kind} has parts of the types {types}.")
        places += own.tolist()
        matrices += map(ShortMatrix, *parts)
    if not places:
        return whole
    n_all = len(whole) + len(places)
    if len(set(places)) != len(places) or not 0 <= min(places) <= max(places) < n_all:
        raise ValueError(f"{name} has a place twice, or one that there is not.")
    stack = whole.new_empty(n_all, *whole.shape[1:])
    stack[sorted(set(range(n_all)).difference(places))] = whole
    for place, matrix in zip(places, matrices, strict=True):
        stack[place] = matrix.matrix()
    return stack


def _rounded_vectors(prefix, tensors):
    """Round the kept vectors (n_classes, n, n_axes) of a model of an older version."""
    vectors, counts = tensors[prefix + "vectors"], tensors[prefix + "counts"]
    if counts.shape != vectors.shape[:1] or not torch.isfinite(vectors).all():
        raise ValueError(f"{prefix}vectors or counts are not those of a fit.")
    if len(counts) and not 0 <= int(counts.min()) <= int(counts.max()) <= vectors.shape[1]:
        raise ValueError(f"{prefix}counts names vectors that there are not.")
    own = [values[:n] for values, n in zip(vectors, counts.long().tolist(), strict=True)]
    numbers, scales = zip(*(short(values, torch.int16) for values in own), strict=True)
    tensors[prefix + "vectors"] = torch.cat(numbers)
    tensors[prefix + "scales"] = torch.stack(scales)
    tensors[prefix + "axes"] = tensors[prefix + "axes"][None]
    tensors[prefix + "axes_of"] = torch.zeros(len(counts), dtype=torch.int64)


def _from_zero(prefix, tensors):
    """Count kept vectors of a model of an older version from zero; this takes no memory."""
    shape = len(tensors[prefix + "counts"]), tensors[prefix + "vectors"].shape[1]
    tensors.setdefault(prefix + "origins", torch.zeros(()).expand(shape))
