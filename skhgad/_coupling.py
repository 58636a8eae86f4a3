"""One conditional affine coupling block."""

import math
from typing import NamedTuple

import torch
from torch import nn
from torch.autograd.function import once_differentiable
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


class GridCondition(NamedTuple):
    """Condition of the positions of a grid, in which each row and each column has its own share.

    Attributes
    ----------
    columns : Tensor of shape (width, n_of_columns)
    rows : Tensor of shape (height, n_of_rows)
    positions : Tensor of shape (n_positions,), int64, or None
        Row-major places on the grid; None = all of them, in order.
    """

    columns: torch.Tensor
    rows: torch.Tensor
    positions: torch.Tensor | None = None

    def linear(self, weight, bias):
        """Map the condition of every position linearly, at the price of one row and one column.

        Parameters
        ----------
        weight : Tensor of shape (n_out, n_of_columns + n_of_rows)
        bias : Tensor of shape (n_out,)

        Returns
        -------
        Tensor of shape (n_positions, n_out)
        """
        column_weight, row_weight = weight.split((self.columns.shape[1], self.rows.shape[1]), 1)
        of_columns = F.linear(self.columns, column_weight, bias)
        of_rows = F.linear(self.rows, row_weight)
        mapped = (of_rows[:, None] + of_columns).flatten(0, 1)
        return mapped if self.positions is None else F.embedding(self.positions, mapped)


class _HiddenLayer(torch.autograd.Function):
    """A network of one hidden layer, with one array as wide as that layer where autograd has five.

    output_weight @ relu(weight @ x + bias) + output_bias, with a bias for each position. The
    products, and what backward keeps, are of `dtype`; what comes out is of the dtype of x.
    """

    @staticmethod
    def forward(ctx, x, bias, weight, output_weight, output_bias, dtype):
        """Map x of shape (n_images, n_positions, n_in)."""
        ctx.has_positions, ctx.dtype = bias.ndim == 2, x.dtype
        x, bias, weight, output_weight, output_bias = (
            values.to(dtype) for values in (x, bias, weight, output_weight, output_bias)
        )
        bias = bias.expand(len(x), x.shape[1], -1)
        hidden = torch.baddbmm(bias, x, weight.T.expand(len(x), -1, -1)).relu_()
        ctx.save_for_backward(x, weight, output_weight, hidden)
        return F.linear(hidden, output_weight, output_bias).to(ctx.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        """Gradients in the order of the inputs."""
        x, weight, output_weight, hidden = ctx.saved_tensors
        shape, n_images = x.shape, len(x)
        x, hidden, grad = (values.flatten(0, 1) for values in (x, hidden, grad.to(x.dtype)))
        inner = grad @ output_weight
        torch.ops.aten.threshold_backward.grad_input(inner, hidden, 0, grad_input=inner)
        of_positions = inner.unflatten(0, (n_images, -1)).sum(0, dtype=ctx.dtype)
        grads = (
            (inner @ weight).view(shape),
            of_positions if ctx.has_positions else of_positions.sum(0),
            inner.T @ x,
            grad.T @ hidden,
            grad.sum(0, dtype=ctx.dtype),
        )
        return *(g.to(ctx.dtype) for g in grads), None


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

    def forward(self, x, condition=None, product_dtype=None):
        """Map x to z.

        Parameters
        ----------
        x : Tensor of shape (n_images, n_positions, n_features)
        condition : GridCondition or None
            Shared by all images.
        product_dtype : torch.dtype, default=None
            Of the network's products where gradients are wanted; None = that of x.

        Returns
        -------
        z : Tensor of shape (n_images, n_positions, n_features)
        log_det : Tensor of shape (n_images, n_positions)
        """
        passive, active = x.split((self.n_passive, self.n_active), dim=-1)
        log_scale, shift = self._coupling(passive, condition, product_dtype)
        active = torch.addcmul(shift, active, log_scale.exp())
        scale, offset = self._scale()[: self.n_passive], self.offset[: self.n_passive]
        mapped = torch.cat((torch.addcmul(offset, passive, scale), active), dim=-1)
        log_det = log_scale.sum(-1) + scale.log().sum()
        return F.linear(mapped, self.mix.to(x.dtype)), log_det

    def inverse(self, z, condition=None):
        """Map z back to x; shapes as in `forward`, without the log-determinant."""
        mapped = F.linear(z, self.mix.T.to(z.dtype))
        passive, active = mapped.split((self.n_passive, self.n_active), dim=-1)
        passive = (passive - self.offset[: self.n_passive]) / self._scale()[: self.n_passive]
        log_scale, shift = self._coupling(passive, condition)
        return torch.cat((passive, (active - shift) * (-log_scale).exp()), dim=-1)

    def _coupling(self, passive, condition, product_dtype=None):
        """Log-scale and shift of the active channels, with the block's affine map after them."""
        scale, offset = self._scale()[self.n_passive :], self.offset[self.n_passive :]
        bias = self.hidden_bias
        if condition is not None:
            bias = condition.linear(self.condition_weight, bias)
        if torch.is_grad_enabled():
            # The affine map joins the network's last layer, which is smaller than a batch.
            of_log_scale, of_shift = self.output_weight.chunk(2)
            weight = torch.cat((0.1 * of_log_scale, 0.1 * scale[:, None] * of_shift))
            of_log_scale, of_shift = self.output_bias.chunk(2)
            output_bias = torch.cat((0.1 * of_log_scale, 0.1 * scale * of_shift + offset))
            dtype = product_dtype or passive.dtype
            output = _HiddenLayer.apply(
                passive, bias, self.hidden_weight, weight, output_bias, dtype
            )
            raw_log_scale, shift = output.chunk(2, dim=-1)
        else:
            hidden = F.linear(passive, self.hidden_weight).add_(bias).relu_()
            output = F.linear(hidden, self.output_weight, self.output_bias).mul_(0.1)
            raw_log_scale, shift = output.chunk(2, dim=-1)
            shift = torch.addcmul(offset, shift, scale)
        return torch.add(scale.log(), raw_log_scale.tanh(), alpha=self.clamp), shift

    def _scale(self):
        return 0.1 * F.softplus(self.raw_scale, beta=0.5)
