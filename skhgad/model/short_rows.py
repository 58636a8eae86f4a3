"""Rows of a table in 8, 12 or 16 bits a value, and the axes of the space that they span."""

from typing import NamedTuple

import torch

N_BITS = (8, 12, 16)
_FIRST = 16  # rows
_LEAST, _MOST = -1022, 1023  # exponents of float64


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
    """

    high: torch.Tensor
    low: torch.Tensor
    exponents: torch.Tensor
    lows: torch.Tensor

    @classmethod
    def of(cls, rows):
        """Return rows (n, d), float64, in as few bits as hold them exactly; None: 16 do not."""
        if len(rows) > _FIRST and cls.of(rows[:_FIRST]) is None:  # of most tables
            return None
        found = None
        for n_bits in reversed(N_BITS) if rows.numel() else ():
            exponents, lows = _exponents(rows, 2**n_bits - 1), rows.amin(0)
            counts = (rows - lows) / _units(exponents)
            if float(counts.max()) >= 2**n_bits or (counts != counts.round()).any():
                break
            counts = counts.to(torch.int32)
            fewer = cls(*_bytes_of(counts, n_bits), exponents.to(torch.int16), lows)
            if not torch.equal(fewer.rows(), rows):
                break
            found = fewer
        return found

    def rows(self):
        """Return the rows (n, d), float64; of a hostile file they may be infinite, or nan."""
        d, width = self.high.shape[1], self.low.shape[1]
        counts = self.high.to(torch.int32) + 128
        if width == d:
            counts = (counts << 8) + self.low
        elif width:
            low = self.low.to(torch.int32)
            counts = (counts << 4) + torch.stack((low >> 4, low & 15), -1).flatten(1)[:, :d]
        return counts * _units(self.exponents) + self.lows

    def check(self):
        """Raise ValueError unless the parts, read from a file, fit each other."""
        n, d = self.high.shape
        shapes = self.low.shape, self.exponents.shape, self.lows.shape
        if shapes not in [((n, width), (d,), (d,)) for width in (0, -(-d // 2), d)]:
            raise ValueError(f"{n} x {d} short rows have parts of the shapes {shapes}.")
        types = tuple(part.dtype for part in self)
        if types != (torch.int8, torch.uint8, torch.int16, torch.float64):
            raise ValueError(f"short rows have parts of the types {types}.")
        if not _LEAST <= int(self.exponents.min()) <= int(self.exponents.max()) <= _MOST:
            raise ValueError("short rows have exponents that float64 has not.")


def rounding_units(rows, n_bits):
    """Return units (d,) to whose multiples rows (n, d) can be rounded, to need so many bits.

    Features that do not vary need none: `rounded`.
    """
    return _units(_exponents(rows, 2**n_bits - 2))  # both ends may move outwards by half a unit


def rounded(rows, units):
    """Return rows rounded to multiples of `rounding_units`; what does not vary stays."""
    varies = rows.amax(0) > rows.amin(0)
    return torch.where(varies, (rows / units).round() * units, rows)


def _exponents(rows, most):
    """Return the least powers of two of which `most` reach from end to end of each feature."""
    extent = (rows.amax(0) - rows.amin(0)) / most
    fraction, exponents = torch.frexp(extent)
    exponents = torch.where(fraction == 0.5, exponents - 1, exponents)
    return torch.where(extent == 0, _LEAST, exponents).clamp_min(_LEAST)


def _units(exponents):
    """Return 2 to these powers, float64, exactly: made of their bits."""
    return ((exponents.to(torch.int64) + 1023) << 52).view(torch.float64)


def _bytes_of(counts, n_bits):
    """Return `high` and `low` of counts (n, d), int32."""
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
