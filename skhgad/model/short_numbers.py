"""Numbers of a class in one or two bytes each: whitening matrices and kept vectors are rounded.

What is rounded already stays exactly as it is when rounded again. So fit rounds, and a saved model
has the scores of the fitted one.
"""

from typing import NamedTuple

import torch

# Of each kind of whole number: the largest, and how many bits the scale of a unit has. A number
# times its scale is exact in float32, and the largest of all finds its scale again.
_LARGEST = {torch.int8: 127, torch.int16: 32767}
_SCALE_BITS = {torch.int8: 16, torch.int16: 0}
_LEAST_SCALE = 2.0**-100
# Standard deviation of the change of a squared distance by rounding, as a share of it.
_MOST_CHANGE = 1.5e-3
_FEW = 128  # features; their matrices are small in two bytes, too


def short(values, kind, dim=()):
    """Return values as whole numbers, and the scales of their units.

    Parameters
    ----------
    values : Tensor of floats
    kind : torch.int8 or torch.int16
    dim : int, default=()
        Numbers along it have one scale; (): all have.

    Returns
    -------
    numbers : Tensor of the shape of `values`
    scales : Tensor of float32
        Of the same shape, without `dim`.
    """
    exact = values.cpu().double()  # not every device has float64
    largest = exact.abs().amax(dim, keepdim=True) if exact.numel() else exact.new_zeros(())
    fraction, exponent = torch.frexp(largest / _LARGEST[kind])
    fraction = (fraction * 2 ** _SCALE_BITS[kind]).ceil() / 2 ** _SCALE_BITS[kind]
    scales = torch.ldexp(fraction, exponent).clamp_min(_LEAST_SCALE)
    numbers = (exact / scales).round().clamp(-_LARGEST[kind], _LARGEST[kind])
    scales = scales.reshape(()) if dim == () else scales.squeeze(dim)
    return numbers.to(values.device, kind), scales.to(values.device, torch.float32)


class ShortMatrix(NamedTuple):
    """A symmetric matrix of size d: its diagonal, and a whole number for each entry above it.

    Attributes
    ----------
    diagonal : Tensor of shape (d,), float32
    scales : Tensor of shape (d,), float32
        What one unit of the entries of a row stands for.
    entries : Tensor of shape (d (d - 1) / 2,), int8 or int16
        Row by row.
    """

    diagonal: torch.Tensor
    scales: torch.Tensor
    entries: torch.Tensor

    @classmethod
    def of(cls, matrix, kind):
        """Round a symmetric matrix (d, d) on the CPU."""
        numbers, scales = short(matrix.triu(1), kind, dim=1)
        row, column = torch.triu_indices(*matrix.shape, offset=1)
        return cls(matrix.diagonal().float(), scales, numbers[row, column])

    def matrix(self):
        """Return the rounded matrix (d, d), float32."""
        d = len(self.diagonal)
        row, column = torch.triu_indices(d, d, offset=1)
        result = torch.zeros(d, d)
        result[row, column] = self.entries * self.scales[row]
        return result + result.T + torch.diag(self.diagonal)


def rounded_whitener_of_vectors(whitener):
    """Return a whitener (d, d), float64, rounded as `rounded_whitener` does where it is large."""
    if len(whitener) < _FEW:
        return whitener
    rounded, single = rounded_whitener(whitener.float()), whitener.float()
    return whitener if torch.equal(rounded, single) else rounded.double()


def rounded_whitener(whitener, *, is_fine=False):
    """Return a whitener (d, d) rounded to entries of one byte, or of two where one is too rough.

    `is_fine` asks for two, and few features get two. A whitener of float64, one that is not
    symmetric, and one for which two bytes are too rough, too, are returned as they are.
    """
    if whitener.dtype != torch.float32 or not torch.allclose(whitener, whitener.T):
        return whitener
    exact = whitener.cpu()
    for kind in (torch.int16,) if is_fine or len(exact) < _FEW else (torch.int8, torch.int16):
        rounded = ShortMatrix.of(exact, kind).matrix()
        noise, info = torch.linalg.solve_ex(exact, rounded - exact)
        # A vector u of the class, whitened, becomes u + u N: |u|^2, about d, changes by 2 u N u^T.
        if not info and 2 * noise.norm() <= _MOST_CHANGE * len(exact):
            return rounded.to(whitener)
    return whitener
