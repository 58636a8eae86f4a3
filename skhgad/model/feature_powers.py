"""Skewed features of vectors, made symmetric by a power or a logarithm of each."""

import torch
from torch import nn


class FeaturePowers(nn.Module):
    r"""A power, or the logarithm, of each feature, beyond an origin; linear before it.

    With u = (s x - a) / t, the sign s of the skewness, and :math:`v = \max(u, 0) + c`, a feature
    becomes :math:`s t ((v^p - 1) / p + c^{p - 1} \min(u, 0))`; for p = 0 the logarithm of v is in
    place of the power. It is as smooth at the origin as a line that goes on. Features of exponent 1
    stay as they are.

    Parameters
    ----------
    signs, origins, units, shifts, exponents : Tensor of shape (n_features,), float64
        s, a, t > 0, c > 0, and p from 0 to 1.

    References
    ----------
    .. [1] Box, Cox, "An Analysis of Transformations", J. R. Stat. Soc. B 26, 1964.
    """

    def __init__(self, signs, origins, units, shifts, exponents):
        super().__init__()
        self.register_buffer("signs", signs)
        self.register_buffer("origins", origins)
        self.register_buffer("units", units)
        self.register_buffer("shifts", shifts)
        self.register_buffer("exponents", exponents)

    @classmethod
    def identity(cls, n_features):
        """Return what leaves all features as they are."""
        one = torch.ones(n_features, dtype=torch.float64)
        return cls(one, 0 * one, one.clone(), one.clone(), one.clone())

    def forward(self, x):
        """Map features (..., n_features)."""
        u = (self.signs * x - self.origins) / self.units
        y = self._beyond(u.clamp_min(0)) + self._slopes() * u.clamp_max(0)
        return torch.where(self.exponents == 1, x, self.signs * self.units * y)

    def log_slopes(self, x):
        """Log-derivatives (..., n_features) of the map at features of this shape."""
        u = (self.signs * x - self.origins) / self.units
        return (self.exponents - 1) * (u.clamp_min(0) + self.shifts).log()

    def inverse(self, y):
        """Undo `forward`."""
        p = self.exponents
        v = self.signs * y / self.units
        least = self._beyond(torch.zeros_like(self.shifts))
        above, below = v.maximum(least), (v - least).clamp_max(0)
        root = (1 + p * above).clamp_min(0) ** (1 / p.where(p > 0, 1))
        u = torch.where(p == 0, above.exp(), root) - self.shifts + below / self._slopes()
        return torch.where(p == 1, y, self.signs * (self.units * u + self.origins))

    def _beyond(self, u):
        p, v = self.exponents, u + self.shifts
        return torch.where(p == 0, v.log(), (v**p - 1) / p.where(p > 0, 1))

    def _slopes(self):
        return self.shifts ** (self.exponents - 1)
