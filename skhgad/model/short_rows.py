"""Rows of a table in 8, 12 or 16 bits a value, and the axes of the space that they span.

Where few common factors explain most of the values, as in spectra, the factors are held apart, and
the bits hold what they leave.
"""

from typing import NamedTuple

import torch

N_BITS = (8, 12, 16)
N_FACTORS = (0, 1, 2, 4, 8, 16, 32, 64)
_FIRST = 16  # rows
_LEAST, _MOST = -1022, 1023  # exponents of float64
_MOST_BITS = 31  # of a count that factors predict
_FACTOR_BITS = 23
_N_ITERATIONS = 3  # of the search for factors
_LEAST_SHARE = 0.75  # of the sum of squares, that factors explain
_MOST_FEATURES = 4096  # evenly spaced ones, that factors are found in


class ShortRows(NamedTuple):
    """The rows (n, d) of a table: multiples of a power of two, counted from the least of a feature.

    Attributes
    ----------
    high : Tensor of shape (n, d), int8
        The upper 8 bits of each count, less 128.
    low : Tensor of shape (n, w), uint8
        The other bits. w = 0: there are none. w = ceil(d / 2): four, two features a byte. w = d:
        eight.
    exponents : Tensor of shape (d,), int16
        A unit of a feature is 2 to this power.
    lows : Tensor of shape (d,), float64
    factors, loadings : Tensor of shape (n, r) and (r, d), int32, or None
        Their product / 2^23, rounded down, is added to the counts.
    """

    high: torch.Tensor
    low: torch.Tensor
    exponents: torch.Tensor
    lows: torch.Tensor
    factors: torch.Tensor | None = None
    loadings: torch.Tensor | None = None

    @classmethod
    def of(cls, rows):
        """Return rows (n, d), float64, in as few bytes as hold them exactly; None: 16 bits do not.

        Factors are looked for in tables of more features than rows.
        """
        n, d = rows.shape
        if not rows.numel() or (n > _FIRST and _counts(rows[:_FIRST]) is None):  # most tables
            return None
        found = _counts(rows)
        if found is None:
            return None
        counts, exponents, lows = found
        short = None
        if counts.max() < 2 ** N_BITS[-1]:
            short = cls(*_bytes_of(counts), exponents, lows)
        if d > n and (short is None or short.low.numel()):
            short = cls._with_factors(counts, exponents, lows) or short
        return short if short is not None and torch.equal(short.rows(), rows) else None

    @classmethod
    def _with_factors(cls, counts, exponents, lows):
        """Return counts (n, d), int64, as factors and a rest.

        None: that takes no fewer bytes than the counts alone or, where these need more than 16
        bits, than float32.
        """
        plain = bytes_of_rows(*counts.shape, int(counts.max()) + 1, 0)
        fewest, best = plain or counts.numel() * 4, None
        for factors, loadings in _factor_pairs(counts):
            rest = counts - _predicted(factors, loadings)
            least = rest.amin(0)
            n_bytes = bytes_of_rows(*rest.shape, int((rest - least).max()) + 1, len(loadings))
            if n_bytes is not None and n_bytes < fewest:
                fewest, best = n_bytes, (rest - least, least, factors, loadings)
        if best is None:
            return None
        rest, least, factors, loadings = best
        return cls(*_bytes_of(rest), exponents, lows + least * _units(exponents), factors, loadings)

    def rows(self):
        """Return the rows (n, d), float64; of a hostile file they may be infinite, or nan."""
        d, width = self.high.shape[1], self.low.shape[1]
        counts = self.high.to(torch.int32) + 128
        if width == d:
            counts = (counts << 8) + self.low
        elif width:
            low = self.low.to(torch.int32)
            counts = (counts << 4) + torch.stack((low >> 4, low & 15), -1).flatten(1)[:, :d]
        if self.factors is not None:
            counts = counts + _predicted(self.factors, self.loadings)
        return counts * _units(self.exponents) + self.lows

    def check(self):
        """Raise ValueError unless the parts, read from a file, fit each other."""
        n, d = self.high.shape
        shapes = self.low.shape, self.exponents.shape, self.lows.shape
        if shapes not in [((n, width), (d,), (d,)) for width in (0, -(-d // 2), d)]:
            raise ValueError(f"{n} x {d} short rows have parts of the shapes {shapes}.")
        types = tuple(part.dtype for part in self[:4])
        if types != (torch.int8, torch.uint8, torch.int16, torch.float64):
            raise ValueError(f"short rows have parts of the types {types}.")
        if not _LEAST <= int(self.exponents.min()) <= int(self.exponents.max()) <= _MOST:
            raise ValueError("short rows have exponents that float64 has not.")
        factors = [part for part in self[4:] if part is not None]
        if factors:
            shapes, types = ([getattr(f, name) for f in factors] for name in ("shape", "dtype"))
            n_factors = shapes[0][-1:]
            if shapes != [(n, *n_factors), (*n_factors, d)] or types != [torch.int32] * 2:
                raise ValueError(f"short rows have factors of {shapes}, {types}.")


def bytes_of_rows(n, d, n_values, n_factors):
    """Return the bytes that n x d counts below `n_values` take; None: 16 bits do not hold them."""
    for n_bits in N_BITS:
        if n_values <= 2**n_bits:
            return n * d * n_bits // 8 + 4 * n_factors * (n + d)
    return None


def rounding_units(rows, n_bits):
    """Return units (d,) to whose multiples rows (n, d) can be rounded, to need so many bits.

    Features that do not vary need none: `rounded`.
    """
    extent = (rows.amax(0) - rows.amin(0)) / (2**n_bits - 2)  # both ends may move by half a unit
    fraction, exponents = torch.frexp(extent)
    exponents = torch.where(fraction == 0.5, exponents - 1, exponents)
    return _units(torch.where(extent == 0, _LEAST, exponents).clamp_min(_LEAST))


def rounded(rows, units):
    """Return rows rounded to multiples of `rounding_units`; what does not vary stays."""
    varies = rows.amax(0) > rows.amin(0)
    return torch.where(varies, (rows / units).round() * units, rows)


def without_factors(rows):
    """Yield numbers of factors, and what is left of rows (n, d) without so many."""
    centered = rows - rows.mean(0)
    for left, right in _leading(rows):
        yield len(right), centered - left @ right


def _counts(rows):
    """Return rows (n, d) as multiples of a power of two, counted from the least of a feature.

    They are Tensors of int64, int16 (d,), the exponents, and float64 (d,), the least values. None:
    more than 31 bits, or rows that are no such numbers exactly.
    """
    lows = rows.amin(0)
    rest = rows - lows
    fraction, exponents = torch.frexp(rest)
    whole = (fraction * 2.0**53).to(torch.int64)
    lowest = torch.frexp((whole & -whole).double())[1] - 54 + exponents
    lowest = torch.where(rest == 0, _MOST, lowest).amin(0).clamp_min(_LEAST)
    exponents = torch.where(rest.amax(0) == 0, _LEAST, lowest).to(torch.int16)
    counts = rest / _units(exponents)
    if not float(counts.max()) < 2**_MOST_BITS or not torch.equal(
        counts * _units(exponents) + lows, rows
    ):
        return None
    return counts.to(torch.int64), exponents, lows


def _leading(rows):
    """Yield 0, 1, 2, 4, ... common factors of rows (n, d): matrices (n, r) and (r, d).

    Their product is what the factors explain of the centered rows. They are close to the leading
    singular vectors of the standardised features. Numbers of factors that explain less than three
    quarters of the sum of squares save about one bit a value, and are left out.
    """
    rest = rows - rows.mean(0)
    scales = rest.square().mean(0).sqrt()
    scales = torch.where(scales > 0, scales, torch.ones_like(scales))
    rest /= scales
    most = min(*rest.shape, N_FACTORS[-1])
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(len(rest), most, generator=generator, dtype=rest.dtype)
    sampled = rest[:, :: -(-rest.shape[1] // _MOST_FEATURES)].contiguous()
    for _ in range(_N_ITERATIONS):
        left = torch.linalg.qr(sampled @ (sampled.T @ left))[0]
    right = left.T @ rest
    squares, rotation = torch.linalg.eigh(right @ right.T)
    squares, rotation = squares.flip(0).cumsum(0), rotation.flip(1)
    least = _LEAST_SHARE * float(rest.square().sum())
    left, right = left @ rotation, rotation.T @ right * scales
    for n_factors in N_FACTORS:
        if n_factors == 0 or n_factors <= most and float(squares[n_factors - 1]) >= least:
            yield left[:, :n_factors], right[:n_factors]


def _factor_pairs(counts):
    """Yield `factors` and `loadings` of counts (n, d), int64; see ShortRows."""
    for left, right in _leading(counts.double()):
        # The product has the size of the counts: loadings as large as they, factors of 23 bits.
        sizes = left.abs().amax(0)
        factors = (left / sizes * 2.0**_FACTOR_BITS).round()
        loadings = (right * sizes[:, None]).round()
        if len(loadings) and loadings.abs().max() < 2**_MOST_BITS:
            yield factors.to(torch.int32), loadings.to(torch.int32)


def _predicted(factors, loadings):
    """Return counts (n, d), int64: in integers, so that every machine finds the same."""
    return (factors.to(torch.int64) @ loadings.to(torch.int64)) >> _FACTOR_BITS


def _units(exponents):
    """Return 2 to these powers, float64, exactly: made of their bits."""
    return ((exponents.to(torch.int64) + 1023) << 52).view(torch.float64)


def _bytes_of(counts):
    """Return `high` and `low` of counts (n, d) below 2^16."""
    n_bits = next(n_bits for n_bits in N_BITS if int(counts.max()) < 2**n_bits)
    counts = counts.to(torch.int32)
    high = (counts >> (n_bits - 8)) - 128
    low = counts & (2 ** (n_bits - 8) - 1)
    if n_bits == 8:
        low = low[:, :0]
    if n_bits == 12:
        pairs = torch.nn.functional.pad(low, (0, low.shape[1] % 2)).unflatten(1, (-1, 2))
        low = (pairs[..., 0] << 4) + pairs[..., 1]
    return high.to(torch.int8), low.to(torch.uint8)


def axes_of_rows(rows, mean, weights):
    """Return axes (d, m) that are sums of rows (n, d) less their mean (d,), weighted by (n, m).

    They are rounded to values of float32, so that the same rows give the same axes. Rows of weight
    0 may hold anything.
    """
    used = weights.any(1)
    axes = (rows[used] - mean).T @ weights[used]
    in_range = 1e-30 < float(axes.abs().max()) < 1e30
    return axes.float().double() if in_range else axes
