"""Coupling blocks in few operations, with a gradient written by hand."""

from typing import NamedTuple

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_OUTPUT_FACTOR = 0.1  # of the networks' output


class BlockWeights(NamedTuple):
    """Parameters of `CouplingBlocks` in the order of `CouplingFunction`; `mix` gets no gradient."""

    column_weight: torch.Tensor
    row_weight: torch.Tensor
    hidden_bias: torch.Tensor
    hidden_weight: torch.Tensor
    output_weight: torch.Tensor
    output_bias: torch.Tensor
    log_scale: torch.Tensor
    offset: torch.Tensor
    mix: torch.Tensor

    def folded(self, condition, dtype, empty):
        """Join weights that act one after the other; the networks get `dtype`."""
        bias = self.hidden_bias[:, None]
        if condition is not None:
            weights = self.column_weight, self.row_weight
            bias = condition.bias(*weights, self.hidden_bias, empty)
        networks = (
            torch.mul(values, factor, out=empty(values, *values.shape, dtype=dtype))
            for values, factor in (
                (bias, 1.0),
                (self.hidden_weight, 1.0),
                (self.output_weight, _OUTPUT_FACTOR),
                (self.output_bias, _OUTPUT_FACTOR),
            )
        )
        mix_bias = (self.mix @ self.offset[..., None])[..., 0]
        return Folded(*networks, self.mix * self.log_scale.exp()[:, None], mix_bias)


class Folded(NamedTuple):
    """Weights of the blocks, joined where two linear maps follow each other.

    Shapes, after the axis of blocks: `bias` (n_positions, n_hidden), with one position for all
    without a condition; `hidden` (n_hidden, n_passive); `output` (2 * n_active, n_hidden);
    `output_bias` (2 * n_active,); `mix` (n_features, n_features), the affine map and the mix after
    it; `mix_bias` (n_features,). A single block may have a vector as `mix`: the affine map alone,
    where the mix is the identity.
    """

    bias: torch.Tensor
    hidden: torch.Tensor
    output: torch.Tensor
    output_bias: torch.Tensor
    mix: torch.Tensor
    mix_bias: torch.Tensor

    def network(self, passive):
        """Return the output of a single block's network: log-scale before the clamp, and shift."""
        hidden = (F.linear(passive, self.hidden) + self.bias).relu()
        return F.linear(hidden, self.output, self.output_bias).chunk(2, dim=-1)


class Record(NamedTuple):
    """Intermediate values that the gradient needs, of shape (n_blocks, n_vectors, channels).

    `network_input` has the dtype of the networks. `hidden` is taken after the ReLU, `coupled`
    before the affine map. `scaled` are the active channels times `factor`.
    """

    network_input: torch.Tensor
    hidden: torch.Tensor
    tanh: torch.Tensor
    factor: torch.Tensor
    scaled: torch.Tensor
    coupled: torch.Tensor


def of_blocks(arrays):
    """Split stacked arrays into a list with one tuple a block."""
    return [type(arrays)(*block) for block in zip(*map(torch.unbind, arrays), strict=True)]


def run(x, blocks, clamp, workspace, *, keep):
    """Map vectors block by block, with the arithmetic of `CouplingBlocks`.

    Returns z and log_det, without that of the affine maps, shaped as by `CouplingBlocks.forward`;
    and the Record if `keep`, which the gradient needs.
    """
    shape, n_vectors, n_features = x.shape, x.shape[0] * x.shape[1], x.shape[2]
    n_active, dtype = n_features // 2, blocks[0].hidden.dtype
    n_passive, n_kept = n_features - n_active, len(blocks) if keep else 1

    def empty(width, dtype=None):
        return workspace.empty(x, n_kept, n_vectors, width, dtype=dtype)

    coupled, tanh = empty(n_features), empty(n_active)
    network_input = coupled[..., :n_passive] if dtype == x.dtype else empty(n_passive, dtype)
    factor, scaled = (empty(n_active), empty(n_active)) if keep else (tanh, tanh)
    hidden = empty(len(blocks[0].hidden), dtype)
    record = Record(network_input, hidden, tanh, factor, scaled, coupled)
    places = of_blocks(record) if keep else of_blocks(record) * len(blocks)
    z, log_det = workspace.empty(x, n_vectors, n_features), x.new_zeros(n_vectors)
    x = x.flatten(0, 1)
    for block, place in zip(blocks, places, strict=True):
        passive, active = x.split((n_passive, n_active), dim=1)
        place.coupled[:, :n_passive] = passive
        if dtype != x.dtype:
            place.network_input.copy_(passive)
        torch.mm(place.network_input, block.hidden.T, out=place.hidden)
        place.hidden.unflatten(0, shape[:2]).add_(block.bias).relu_()
        output = torch.addmm(block.output_bias, place.hidden, block.output.T)
        place.tanh.copy_(output[:, :n_active]).tanh_()
        log_det.add_(place.tanh.sum(1), alpha=clamp)
        torch.mul(place.tanh, clamp, out=place.factor).exp_()
        torch.mul(active, place.factor, out=place.scaled)
        torch.add(place.scaled, output[:, n_active:], out=place.coupled[:, n_passive:])
        if block.mix.ndim == 1:
            x = torch.addcmul(block.mix_bias, place.coupled, block.mix, out=z)
        else:
            x = torch.addmm(block.mix_bias, place.coupled, block.mix.T, out=z)
    return x.view(shape), log_det.view(shape[:-1]), record if keep else None


class CouplingFunction(torch.autograd.Function):
    """`run` with its gradient, in a third of the operations that autograd would record."""

    @staticmethod
    def forward(ctx, x, condition, clamp, dtype, workspace, *parameters):
        """Map x of shape (n_images, n_positions, n_features); `parameters` as in `BlockWeights`."""
        folded = BlockWeights(*parameters).folded(condition, dtype, workspace.empty)
        z, log_det, record = run(x, of_blocks(folded), clamp, workspace, keep=True)
        ctx.condition, ctx.clamp, ctx.workspace = condition, clamp, workspace
        ctx.save_for_backward(parameters[-1], *folded, *record)
        return z, log_det

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, grad_log_det):
        """Return the gradients in the order of the inputs of `forward`."""
        rotation, *tensors = ctx.saved_tensors
        n_folded = len(Folded._fields)
        folded, record = Folded(*tensors[:n_folded]), Record(*tensors[n_folded:])
        shape, empty = grad.shape, ctx.workspace.empty
        n_images, n_positions, n_features = shape
        n_vectors, n_active = n_images * n_positions, n_features // 2
        n_passive, (n_blocks, n_hidden, _) = n_features - n_active, folded.hidden.shape
        grads = Folded(
            empty(record.hidden, n_blocks, n_positions, n_hidden),
            empty(grad, *folded.hidden.shape),
            empty(grad, *folded.output.shape),
            torch.empty_like(folded.output_bias),
            None,
            torch.empty_like(folded.mix_bias),
        )
        of_log_scale = torch.empty_like(folded.mix_bias)
        # Buffers for the gradients of one block, reused by the next.
        of_hidden = empty(record.hidden, n_vectors, n_hidden)
        of_output = empty(record.hidden, n_vectors, 2 * n_active)
        of_log_det = ctx.clamp * grad_log_det.reshape(-1, 1)
        other = empty(grad, n_vectors, n_features)
        grad = empty(grad, n_vectors, n_features).copy_(grad.flatten(0, 1))
        # Sums over vectors as matrix products: sum() would first copy bfloat16 to float32.
        ones = of_output.new_ones(1, n_vectors)
        blocks = list(zip(of_blocks(folded), of_blocks(record), strict=True))
        for i, (block, kept) in reversed(list(enumerate(blocks))):
            torch.sum(grad, 0, out=grads.mix_bias[i])
            grad, other = torch.mm(grad, block.mix, out=other), grad
            torch.sum(torch.mul(grad, kept.coupled, out=other), 0, out=of_log_scale[i])
            of_active = grad[:, n_passive:]
            of_tanh = torch.addcmul(of_log_det, of_active, kept.scaled, value=ctx.clamp)
            of_output[:, :n_active] = torch.ops.aten.tanh_backward(of_tanh, kept.tanh)
            of_output[:, n_active:] = of_active
            of_active *= kept.factor
            torch.mm(of_output, block.output, out=of_hidden)
            torch.ops.aten.threshold_backward.grad_input(
                of_hidden, kept.hidden, 0, grad_input=of_hidden
            )
            of_images = of_hidden.view(n_images, -1)
            torch.mm(ones[:, :n_images], of_images, out=grads.bias[i].view(1, -1))
            grads.hidden[i] = of_hidden.T @ kept.network_input
            torch.mul(of_output.T @ kept.hidden, _OUTPUT_FACTOR, out=grads.output[i])
            torch.mm(ones, of_output, out=grads.output_bias[i : i + 1])
            if i or ctx.needs_input_grad[0]:
                grad[:, :n_passive] += of_hidden @ block.hidden
        of_bias = empty(grad, *grads.bias.shape).copy_(grads.bias)
        if ctx.condition is None:
            of_bias = None, None, of_bias.sum(1)
        else:
            of_bias = ctx.condition.bias_gradients(of_bias, empty)
        # Return views: autograd copies a gradient tensor that another reference holds.
        return (
            grad.view(shape), *[None] * 4, *of_bias, grads.hidden[:], grads.output[:],
            _OUTPUT_FACTOR * grads.output_bias.to(grad.dtype), of_log_scale,
            (grads.mix_bias[:, None] @ rotation)[:, 0], None,
        )  # fmt: skip
