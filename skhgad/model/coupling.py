"""Conditional affine coupling blocks in a row."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from .coupling_gradient import BlockWeights, CouplingFunction, of_blocks, run
from .workspace import Workspace

# scale = 0.1 * softplus(raw, beta=0.5); this raw value gives a scale of exactly 1.
_RAW_UNIT_SCALE = 2.0 * math.log(math.expm1(5.0))


def random_orthogonal(n_features, generator):
    """Draw a float64 orthogonal matrix uniformly (Haar measure)."""
    gaussian = torch.randn(n_features, n_features, generator=generator, dtype=torch.float64)
    q, r = torch.linalg.qr(gaussian)
    return q * torch.sign(torch.diagonal(r))


def linear_parameters(n_in, n_out, generator):
    """Draw weight and bias of a linear layer as `torch.nn.Linear` does, from `generator`."""
    bound = 1.0 / math.sqrt(max(n_in, 1))
    weight = torch.empty(n_out, n_in).uniform_(-bound, bound, generator=generator)
    bias = torch.empty(n_out).uniform_(-bound, bound, generator=generator)
    return weight, bias


class CouplingBlocks(nn.Module):
    r"""Blocks in a row: affine coupling, a per-channel affine map, a fixed orthogonal channel mix.

    With :math:`x = (x_1, x_2)` and :math:`(s, t) = 0.1 \, \mathrm{MLP}(x_1, c)`, a block is

    .. math::

        z = R \, \bigl( g \odot (x_1, \; x_2 \odot e^{\alpha \tanh s} + t) + b \bigr),
        \qquad
        \log |\det| = \sum \alpha \tanh s + \sum \log g .

    The same map as FrEIA's ``AllInOneBlock`` with ``affine_clamping=alpha``,
    ``global_affine_type="SOFTPLUS"`` and ``permute_soft=True``. Parameters have the blocks along
    their first axis. With one channel a block is its affine map.

    Parameters
    ----------
    n_features, n_blocks : int
    n_conditions : tuple of 2 int, default=(0, 0)
        Channels of the condition c, a `GridCondition`: of the columns and of the rows.
    hidden_ratio : float, default=2.0
        Width of the hidden layer over that of the input (x_1, c).
    clamp : float, default=1.9
        :math:`\alpha`, the largest log-scale.
    identity_start : bool, default=False
        Start with s = t = 0, so that each block is a rotation.
    generator : torch.Generator
    """

    def __init__(
        self,
        n_features,
        n_conditions=(0, 0),
        *,
        n_blocks=1,
        hidden_ratio=2.0,
        clamp=1.9,
        identity_start=False,
        generator,
    ):
        super().__init__()
        n_passive, n_active = n_features - n_features // 2, n_features // 2
        n_in = n_passive + sum(n_conditions)
        n_hidden = max(1, round(hidden_ratio * n_in))
        self.clamp = clamp
        # The condition enters linearly: its share of the hidden layer is computed once for each
        # row and column instead of once for each vector.
        shapes = {
            "hidden_weight": (n_hidden, n_passive),
            "column_weight": (n_hidden, n_conditions[0]),
            "row_weight": (n_hidden, n_conditions[1]),
            "hidden_bias": (n_hidden,),
            "output_weight": (2 * n_active, n_hidden),
            "output_bias": (2 * n_active,),
            "raw_scale": (n_features,),
            "offset": (n_features,),
        }
        for name, shape in shapes.items():
            setattr(self, name, nn.Parameter(torch.zeros(n_blocks, *shape)))
        # float64 until the owner casts the module: rounded to float32 first, the mix would be
        # orthogonal only to 1e-7.
        mix = torch.empty(n_blocks, n_features, n_features, dtype=torch.float64)
        self.register_buffer("mix", mix)
        with torch.no_grad():
            self.raw_scale.fill_(_RAW_UNIT_SCALE)
            for i in range(n_blocks):
                weight, self.hidden_bias[i] = linear_parameters(n_in, n_hidden, generator)
                self.hidden_weight[i], self.column_weight[i], self.row_weight[i] = weight.split(
                    (n_passive, *n_conditions), dim=1
                )
                weight, bias = linear_parameters(n_hidden, 2 * n_active, generator)
                if not identity_start:
                    self.output_weight[i], self.output_bias[i] = weight, bias
                self.mix[i] = random_orthogonal(n_features, generator)
        self._frozen = None

    def forward(self, x, condition=None, product_dtype=None, workspace=None):
        """Map x (n_images, n_positions, n_features) to z of the same shape.

        Also returns log_det (n_images, n_positions). All images share the condition.
        `product_dtype` is that of the networks' products where gradients are wanted; None = that of
        x. The call overwrites the previous call's results in `workspace`.
        """
        if not len(self.mix):
            return x, x.new_zeros(x.shape[:-1])
        workspace = Workspace() if workspace is None else workspace
        workspace.rewind()
        if torch.is_grad_enabled():
            weights, dtype = self._weights(), product_dtype or x.dtype
            z, log_det = CouplingFunction.apply(
                x, condition, self.clamp, dtype, workspace, *weights
            )
            return z, log_det + weights.log_scale.sum()
        blocks, log_scale = self.folded_blocks(condition)
        z, log_det, _ = run(x, blocks, self.clamp, workspace, keep=False)
        return z, log_det + log_scale

    def freeze(self, condition=None):
        """Compute once what mapping without gradient needs, and use it from now on.

        Parameters and condition, of all positions, must not change afterwards. Moving the module,
        loading a state and `drop_last_mix` undo it.
        """
        self.thaw()
        if len(self.mix):
            self._frozen = self.folded_blocks(condition)

    def thaw(self):
        """Undo `freeze`."""
        self._frozen = None

    @torch.no_grad()
    def folded_blocks(self, condition):
        """Return a list of Folded, one a block, and the 0-d log-determinant of all affine maps."""
        if self._frozen is not None and (condition is None or condition.positions is None):
            return self._frozen
        weights = self._weights()
        folded = weights.folded(condition, weights.mix.dtype, Workspace().empty)
        blocks = of_blocks(folded)
        if torch.equal(self.mix[-1], torch.eye(self.mix.shape[-1]).to(self.mix)):
            blocks[-1] = blocks[-1]._replace(mix=weights.log_scale[-1].exp())
        return blocks, weights.log_scale.sum()

    @torch.no_grad()
    def inverse(self, z, condition=None):
        """Map z back to x; shapes as in `forward`, without log-determinant and gradient."""
        weights = self._weights()
        blocks = of_blocks(weights.folded(condition, z.dtype, Workspace().empty))
        for i, block in reversed(list(enumerate(blocks))):
            mapped = z @ weights.mix[i] - weights.offset[i]
            coupled = mapped * (-weights.log_scale[i]).exp()
            n_active = z.shape[-1] // 2
            passive, active = coupled.split((z.shape[-1] - n_active, n_active), dim=-1)
            raw, shift = block.network(passive)
            active = (active - shift) * (-self.clamp * raw.tanh()).exp()
            z = torch.cat((passive, active), dim=-1)
        return z

    def _weights(self):
        log_scale = (0.1 * F.softplus(self.raw_scale, beta=0.5)).log()
        return BlockWeights(
            self.column_weight, self.row_weight, self.hidden_bias, self.hidden_weight,
            self.output_weight, self.output_bias, log_scale, self.offset,
            self.mix.to(log_scale.dtype),
        )  # fmt: skip

    @torch.no_grad()
    def drop_last_mix(self):
        """Rotate z so that the last mix becomes the identity, which scoring skips.

        Returns the rotation (n_features, n_features), to multiply rows in the space of z from the
        right.
        """
        self.thaw()
        if not len(self.mix):
            return torch.eye(self.mix.shape[-1]).to(self.mix)
        turn = self.mix[-1].clone()
        self.mix[-1] = torch.eye(len(turn))
        return turn

    def _apply(self, fn, recurse=True):
        self.thaw()  # what was kept is of another device or dtype
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args, **kwargs):
        self.thaw()
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self):
        return {**self.__dict__, "_frozen": None}
