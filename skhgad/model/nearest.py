"""Normal vectors that a level keeps, and how far a position lies from the nearest of them."""

import torch
from torch import nn

from .copies import copied
from .short_numbers import short

# Of a matrix of distances, positions by kept vectors: 2 MiB, which stay in a processor's cache. A
# GPU takes as few operations as its memory allows.
_BLOCK_ENTRIES = {"cpu": 1 << 19, "cuda": 1 << 25}

_PER_CLASS = ("scales", "origins", "weights")
_REPLACED = (*_PER_CLASS, "vectors", "counts", "axes", "axes_of")  # where classes come or go
_CLOSE = 1e-2  # square of a distance, as a share of that of the vector's length
LEAST_NOVELTY = 0.05  # of the usual distance; rounding is less, what lies closer is a copy


class NearestNormals(nn.Module):
    """Some normal vectors of each class: a memory bank, as in PatchCore.

    A Gaussian knows how the vectors of a class spread; the nearest normal vector knows whether one
    like this was ever seen. The distance to it, times a weight of the class, is taken off the
    log-likelihood of the Gaussian: a kernel density beside it, with one narrow kernel for each
    vector. Of a table, the distance is a term of its own; see `novelty`.

    Positions of maps are compared along a few axes, those along which the raw features of all
    normals vary most. In the whitened space all axes vary alike, and all distances are nearly the
    same. Classes that were added later have axes of their own, those of all normals at that time.

    They are kept as whole numbers times a scale of the class. Those of two bytes have a scale that
    is a power of two. Those of one byte are counted from the middle of the class's vectors.

    Parameters
    ----------
    n_classes : int
    n_latent : int
        Length of the level's latent vectors; of feature vectors, their number of features.
    n_axes : int
    n_kept : int
        Vectors of all classes together.
    n_sets : int, default=1
        Sets of axes. ``axes_of`` holds the number of the set of each class.
    kind : torch.int16 or torch.int8, default=torch.int16

    References
    ----------
    .. [1] Roth et al., "Towards Total Recall in Industrial Anomaly Detection", CVPR 2022.
    """

    def __init__(self, n_classes, n_latent, n_axes, n_kept, n_sets=1, kind=torch.int16):
        super().__init__()
        self.register_buffer("axes", torch.zeros(n_sets, n_latent, n_axes))
        self.register_buffer("axes_of", torch.zeros(n_classes, dtype=torch.int64))
        # Those of the first class, then those of the second, and so on.
        self.register_buffer("vectors", torch.zeros(n_kept, n_axes, dtype=kind))
        self.register_buffer("counts", torch.zeros(n_classes, dtype=torch.int64))
        self.register_buffer("scales", torch.ones(n_classes))
        self.register_buffer("origins", torch.zeros(n_classes, n_axes))
        self.register_buffer("weights", torch.zeros(n_classes))
        # Whether normal vectors are often copies of others; see `novelty`.
        self.register_buffer("has_copies", torch.zeros((), dtype=torch.bool))

    @classmethod
    def of(cls, axes, vectors, weights, kind=torch.int16, *, is_centered=False):
        """Keep vectors, a list of one Tensor (n, n_axes) a class, along `axes` (n_latent, n_axes).

        `weights` holds one for each class. `is_centered`: vectors of two bytes, too, are counted
        from the middle of their class, and are as exact as it is narrow, however far away it lies.
        """
        result = cls(len(vectors), *axes.shape, n_kept=0, kind=kind).to(axes)
        result.axes[0] = axes
        result.weights.copy_(torch.as_tensor(weights))
        numbers = [
            result._shortened(code, values, is_centered) for code, values in enumerate(vectors)
        ]
        result._set_numbers(numbers)
        return result

    @classmethod
    def along(cls, axes, n_classes, kind=torch.int16):
        """Return one without any vectors, for latent vectors along `axes` (n_latent, n_axes)."""
        nothing = [axes.new_zeros(0, axes.shape[1])] * n_classes
        return cls.of(axes, nothing, [0.0] * n_classes, kind)

    def _shortened(self, code, vectors, is_centered=False):
        """Return vectors as whole numbers, and set scale and origin of their class."""
        kind, vectors = self.vectors.dtype, vectors.to(self.axes)
        is_centered = is_centered or kind == torch.int8
        if is_centered and len(vectors) and not int(self.counts[code]):
            self.origins[code] = (vectors.amin(0) + vectors.amax(0)) / 2
        numbers, self.scales[code] = short(vectors - self.origins[code], kind)
        return numbers

    def axes_of_class(self, code):
        """Axes of one class, Tensor (n_latent, n_axes)."""
        return self.axes[self.axes_of[code]]

    def set_axes(self, codes, axes):
        """Replace the axes (n_latent, n_axes) of classes that share a set, and have no vectors."""
        self.axes[self.axes_of[codes[0]]] = axes.to(self.axes)

    def vectors_of(self, code):
        """Vectors of one class, Tensor (n, n_axes)."""
        return self.vectors[self._places(code)] * self.scales[code] + self.origins[code]

    def _places(self, code):
        """Return where the vectors of a class stand among those of all, a slice."""
        first = int(self.counts[:code].sum())
        return slice(first, first + int(self.counts[code]))

    def _numbers(self):
        """Return the whole numbers of each class, a list of Tensors (n, n_axes)."""
        return list(self.vectors.split(self.counts.tolist()))

    def _set_numbers(self, numbers):
        self.vectors = torch.cat(tuple(numbers)).to(self.vectors)
        self.counts = torch.tensor([len(values) for values in numbers]).to(self.counts)

    def set_class(self, code, vectors, weight=None):
        """Replace the vectors (n, n_axes) of a class, and its weight if one is given."""
        numbers = self._shortened(code, vectors)
        places = self._places(code)
        if len(numbers) == int(self.counts[code]):
            self.vectors[places] = numbers
        else:
            before, after = self.vectors[: places.start], self.vectors[places.stop :]
            self.vectors = torch.cat((before, numbers, after))
            self.counts[code] = len(numbers)
        if weight is not None:
            self.weights[code] = weight

    def penalty(self, z, codes):
        """Weighted distances (n_images, n_positions) of latent vectors to the nearest normals.

        `z` has shape (n_images, n_positions, n_latent), `codes` (n_images,).
        """
        if torch.jit.is_tracing():  # without loops over the images
            moved = z @ (self.axes[0] if len(self.axes) == 1 else self.axes[self.axes_of[codes]])
            return self.weights[codes, None] * self._traced_distances(moved, codes)
        distances = torch.zeros_like(z[..., 0])
        for code in codes.unique().tolist():
            chosen = codes == code
            moved = z[chosen] @ self.axes_of_class(code)
            distances[chosen] = distances_to_nearest(moved, self.vectors_of(code))
        return self.weights[codes, None] * distances

    def _traced_distances(self, moved, codes):
        counts = self.counts[codes, None]
        # All classes as long as the longest: the last vector of a class fills it.
        places = torch.arange(int(self.counts.max()))[None].minimum(counts - 1)
        places = places + self.counts.cumsum(0)[codes, None] - counts
        kept = self.vectors[places.clamp_min(0)].to(moved) * self.scales[codes, None, None]
        kept = kept + self.origins[codes, None]
        # Around one of them: squares of large numbers are less exact than their differences.
        origin = kept[:, :1]
        moved, kept = moved - origin, kept - origin
        squares = kept.square().sum(-1)
        nearest = (squares[:, None] - 2 * moved @ kept.transpose(1, 2)).argmin(-1)
        places = nearest[..., None].expand(-1, -1, kept.shape[-1])
        return (moved - kept.gather(1, places)).square().sum(-1).sqrt() * (counts > 0)

    def novelty(self, x):
        """Return how far vectors lie from the nearest kept one, whatever its class: Tensor (n,).

        The logarithm of the distance, in units of what is usual in the class of the kept one:
        `weights` are the inverse of that. A copy of a kept vector was in the fit, and is compared
        with the others; unless `has_copies`, where a new one may be a copy, too. `x` has shape
        (n, n_latent). All classes have one set of axes.
        """
        every = torch.arange(len(self.counts), device=self.counts.device)
        code_of = every.repeat_interleave(self.counts)
        kept = self.vectors * self.scales[code_of, None] + self.origins[code_of]
        moved = x @ self.axes[0]
        two = _numbers_of_nearest(moved, kept)
        distances = (moved[:, None] - kept[two]).norm(dim=2) * self.weights[code_of[two]]
        first, second = distances[:, 0], distances[:, -1]
        is_itself = (first < LEAST_NOVELTY) & ~self.has_copies
        return (torch.where(is_itself, second, first) + LEAST_NOVELTY).log()

    def joined(self, other, order, *, shares_axes=False):
        """Return the vectors of the classes of both; see `HierarchicalMixture.joined`.

        Both are of one `kind`. `shares_axes`: both have the same set of axes, which becomes one.
        """
        result, numbers = copied(self, but=_REPLACED), self._numbers() + other._numbers()
        result._set_numbers([numbers[place] for place in order.tolist()])
        for name in _PER_CLASS:
            values = torch.cat((getattr(self, name), getattr(other, name)))
            setattr(result, name, values[order])
        first = 0 if shares_axes else len(self.axes)
        result.axes = self.axes.clone() if shares_axes else torch.cat((self.axes, other.axes))
        result.axes_of = torch.cat((self.axes_of, first + other.axes_of))[order]
        return result

    def without(self, codes):
        """Return the vectors without those of some classes, Tensor of int64."""
        kept = torch.ones_like(self.counts, dtype=torch.bool)
        kept[codes] = False
        result, numbers = copied(self, but=_REPLACED), self._numbers()
        result._set_numbers([numbers[code] for code in kept.nonzero()[:, 0].tolist()])
        for name in _PER_CLASS:
            setattr(result, name, getattr(self, name)[kept])
        used, result.axes_of = torch.unique(self.axes_of[kept], return_inverse=True)
        result.axes = self.axes[used]
        return result


def _numbers_of_nearest(x, kept):
    """Return the numbers of the two nearest kept vectors of each vector x (n, d), int64 (n, 2).

    Of one, where only one is kept.
    """
    n = min(2, len(kept))
    # Around one of them: squares of large numbers are less exact than their differences.
    x, kept = x - kept[0], kept - kept[0]
    squares = kept.square().sum(1)
    if torch.jit.is_tracing():  # without a loop
        return (squares - 2 * x @ kept.T).topk(n, largest=False).indices
    step = max(1, _BLOCK_ENTRIES.get(x.device.type, 1 << 22) // len(kept))
    products = (torch.addmm(squares, rows, kept.T, alpha=-2) for rows in x.split(step))
    return torch.cat([block.topk(n, largest=False).indices for block in products])


def distances_to_nearest(x, kept, is_excluded=None):
    """Return the Euclidean distance of each vector to the nearest kept one, 0 where none counts.

    Parameters
    ----------
    x : Tensor of shape (..., d)
    kept : Tensor of shape (n, d)
    is_excluded : callable, default=None
        Gets a slice of the vectors, numbered as in x.reshape(-1, d). Returns which of the kept do
        not count for each of them, bool (n_in_slice, n). None: all count.

    Returns
    -------
    Tensor of shape (...)
    """
    flat = x.reshape(-1, x.shape[-1])
    distances = torch.zeros_like(flat[:, 0])
    if not len(kept):
        return distances.reshape(x.shape[:-1])
    # Around one of them: squares of large numbers are less exact than their differences.
    flat, kept = flat - kept[0], kept - kept[0]
    entries = _BLOCK_ENTRIES.get(x.device.type, 1 << 22)
    squares, step = kept.square().sum(1), max(1, entries // len(kept))
    for first in range(0, len(flat), step):
        rows = slice(first, first + step)
        partial = torch.addmm(squares, flat[rows], kept.T, alpha=-2)
        if is_excluded is not None:
            partial.masked_fill_(is_excluded(rows), torch.inf)
        lengths = flat[rows].square().sum(1)
        least = partial.amin(1) + lengths
        found = torch.where(least.isinf(), 0, least.clamp_min(0).sqrt())
        # A small difference of large squares is rounding: there, from the difference itself.
        close = (least < _CLOSE * lengths).nonzero()[:, 0]
        if len(close):
            apart = flat[rows][close] - kept[partial[close].argmin(1)]
            found[close] = apart.square().sum(1).sqrt()
        distances[rows] = found
    return distances.reshape(x.shape[:-1])
