"""One conditional affine coupling block."""

import math

import torch
from torch import nn
from torch.nn import functional as F

# scale = 0.1 * softplus(raw, beta=0.5); this raw value gives a scale of exactly 1.
_RAW_UNIT_SCALE = 2.0 * math.log(math.expm1(5.0))


def random_orthogonal(n_features, generator):
    """Draw an orthogonal matrix uniformly (Haar measure).

    Parameters
    ----------
    n_features : int
    generator : torch.Generator

    Returns
    -------
    Tensor of shape (n_features, n_features), float64
    """
    gaussian = torch.randn(n_features, n_features, generator=generator, dtype=torch.float64)
    q, r = torch.linalg.qr(gaussian)
    return q * torch.sign(torch.diagonal(r))


def linear_parameters(n_in, n_out, generator):
    """Draw weight and bias of a linear layer as `torch.nn.Linear` does, from `generator`."""
    bound = 1.0 / math.sqrt(max(n_in, 1))
    weight = torch.empty(n_out, n_in).uniform_(-bound, bound, generator=generator)
    bias = torch.empty(n_out).uniform_(-bound, bound, generator=generator)
    return nn.Parameter(weight), nn.Parameter(bias)


class CouplingBlock(nn.Module):
    r"""Affine coupling, then a per-channel affine map, then a fixed orthogonal channel mix.

    With :math:`x = (x_1, x_2)` and :math:`(s, t) = 0.1 \, \mathrm{MLP}(x_1, c)`,

    .. math::

        z = R \, \bigl( g \odot (x_1, \; x_2 \odot e^{\alpha \tanh s} + t) + b \bigr),
        \qquad
        \log |\det| = \sum \alpha \tanh s + \sum \log g .

    The same map as FrEIA's ``AllInOneBlock`` with ``affine_clamping=alpha``,
    ``global_affine_type="SOFTPLUS"`` and ``permute_soft=True``.

    Parameters
    ----------
    n_features : int
        Channels of x. With one channel nothing is left to couple: the block is its affine map.
    n_conditions : int, default=0
        Channels of the condition c.
    hidden_ratio : float, default=2.0
        Width of the hidden layer over the width of the network's input (x_1, c).
    clamp : float, default=1.9
        :math:`\alpha`, the largest log-scale.
    identity_start : bool, default=False
        Start the last layer at zero, so that s = t = 0 and the block is a rotation.
    generator : torch.Generator
        Source of all randomness.
    """

    def __init__(
        self,
        n_features,
        n_conditions=0,
        *,
        hidden_ratio=2.0,
        clamp=1.9,
        identity_start=False,
        generator,
    ):
        super().__init__()
        self.n_passive = n_features - n_features // 2
        self.n_active = n_features // 2
        self.clamp = clamp
        n_hidden = max(1, round(hidden_ratio * (self.n_passive + n_conditions)))
        weight, self.hidden_bias = linear_parameters(
            self.n_passive + n_conditions, n_hidden, generator
        )
        # The condition enters linearly: its share of the hidden layer is kept apart, so that it is
        # computed once for each position instead of once for each vector.
        self.hidden_weight = nn.Parameter(weight.detach()[:, : self.n_passive].clone())
        self.condition_weight = nn.Parameter(weight.detach()[:, self.n_passive :].clone())
        self.output_weight, self.output_bias = linear_parameters(
            n_hidden, 2 * self.n_active, generator
        )
        if identity_start:
            nn.init.zeros_(self.output_weight)
            nn.init.zeros_(self.output_bias)
        self.raw_scale = nn.Parameter(torch.full((n_features,), _RAW_UNIT_SCALE))
        self.offset = nn.Parameter(torch.zeros(n_features))
        # float64 until the owner casts the module: rounded to float32 first, the mix would be
        # orthogonal, and the block exact, only to 1e-7 after a cast to float64.
        self.register_buffer("mix", random_orthogonal(n_features, generator))

    def forward(self, x, condition=None):
        """Map x to z.

        Parameters
        ----------
        x : Tensor of shape (n_images, n_positions, n_features)
        condition : Tensor of shape (n_positions, n_conditions) or None
            Shared by all images.

        Returns
        -------
        z : Tensor of shape (n_images, n_positions, n_features)
        log_det : Tensor of shape (n_images, n_positions)
        """
        passive, active = x.split((self.n_passive, self.n_active), dim=-1)
        log_scale, shift = self._coupling(passive, condition)
        active = torch.addcmul(shift, active, log_scale.exp())
        scale = self._scale()
        scaled = torch.cat((passive, active), dim=-1) * scale + self.offset
        return F.linear(scaled, self.mix.to(x.dtype)), log_scale.sum(-1) + scale.log().sum()

    def inverse(self, z, condition=None):
        """Map z back to x; shapes as in `forward`, without the log-determinant."""
        x = (F.linear(z, self.mix.T.to(z.dtype)) - self.offset) / self._scale()
        passive, active = x.split((self.n_passive, self.n_active), dim=-1)
        log_scale, shift = self._coupling(passive, condition)
        return torch.cat((passive, (active - shift) * (-log_scale).exp()), dim=-1)

    def _coupling(self, passive, condition):
        hidden_bias = self.hidden_bias
        if condition is not None:
            hidden_bias = F.linear(condition, self.condition_weight, hidden_bias)
        hidden = F.relu(F.linear(passive, self.hidden_weight) + hidden_bias)
        raw_scale, raw_shift = F.linear(hidden, self.output_weight, self.output_bias).chunk(2, -1)
        return self.clamp * torch.tanh(0.1 * raw_scale), 0.1 * raw_shift

    def _scale(self):
        return 0.1 * F.softplus(self.raw_scale, beta=0.5)
