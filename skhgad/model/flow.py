"""The normalizing flow of one level."""

import math

import torch
from torch import nn

from .coupling import CouplingBlocks
from .positions import GridCondition


class LinearStart(nn.Module):
    """A fixed linear map (x - mean) W, its log-determinant counted.

    W is invertible, or leads to fewer axes. What the axes leave out of x is then a Gaussian of
    equal variance in all directions, and its log-density is counted with the log-determinant.

    Parameters
    ----------
    mean : Tensor of shape (n_features,)
    matrix : Tensor of shape (n_features, n_axes)
        W. With fewer axes than features its columns are orthogonal.
    rest_variance : float, default=1.0
        Of what the axes leave out.
    """

    def __init__(self, mean, matrix, rest_variance=1.0):
        super().__init__()
        mean = torch.as_tensor(mean, dtype=torch.float64)
        matrix = torch.as_tensor(matrix, dtype=torch.float64)
        n_features, n_axes = matrix.shape
        lengths = matrix.norm(dim=0)
        if n_features == n_axes:
            log_det = torch.linalg.slogdet(matrix)[1]
        else:
            rest = 0.5 * (n_features - n_axes) * math.log(rest_variance)
            log_det = lengths.log().sum() - rest
        # float64 until the owner casts the module: raw features may be of any magnitude.
        self.register_buffer("mean", mean)
        self.register_buffer("matrix", matrix)
        self.register_buffer("log_det", log_det)
        if n_features > n_axes:
            self.register_buffer("lengths", lengths)
            self.register_buffer("rest_variance", torch.tensor(rest_variance).to(mean))

    @property
    def leaves_out(self):
        """Whether there are fewer axes than features."""
        return self.matrix.shape[0] > self.matrix.shape[1]

    def forward(self, x):
        """Return the mapped x and the log-determinant: a 0-d Tensor, or one for each vector."""
        moved = x - self.mean
        z = moved @ self.matrix
        if not self.leaves_out:
            return z, self.log_det
        rest = moved.square().sum(-1) - (z / self.lengths).square().sum(-1)
        return z, self.log_det - 0.5 * rest.clamp_min(0) / self.rest_variance

    def inverse(self, z):
        """Undo `forward`; what the axes leave out becomes zero."""
        flat = z.reshape(-1, z.shape[-1])
        if self.leaves_out:
            flat = (flat / self.lengths.square()) @ self.matrix.T
        else:
            flat = torch.linalg.solve(self.matrix.T, flat.T).T
        return flat.reshape(*z.shape[:-1], -1) + self.mean


def identity_start(n_features, n_axes=None):
    """Return a start that changes nothing: the flow sees the raw features, or the first of them."""
    return LinearStart(torch.zeros(n_features), torch.eye(n_features, n_axes or n_features))


class ConditionalFlow(nn.Module):
    """Coupling blocks conditioned on the position codes of a map, or on None for feature vectors.

    See `CouplingBlocks` for the other parameters.
    """

    def __init__(
        self,
        n_features,
        codes=None,
        *,
        n_blocks=12,
        hidden_ratio=2.0,
        clamp=1.9,
        identity_start=False,
        generator,
    ):
        super().__init__()
        self.register_buffer("column_codes", codes and codes.columns)
        self.register_buffer("row_codes", codes and codes.rows)
        self.blocks = CouplingBlocks(
            n_features,
            (0, 0) if codes is None else (codes.columns.shape[1], codes.rows.shape[1]),
            n_blocks=n_blocks,
            hidden_ratio=hidden_ratio,
            clamp=clamp,
            identity_start=identity_start,
            generator=generator,
        )

    def forward(self, x, positions=None, product_dtype=None, workspace=None):
        """Map feature vectors to the latent space; see `CouplingBlocks.forward`.

        `positions`, int64, are those of the map on the second axis of `x`; None = all, in order.
        """
        return self.blocks(x, self._codes(positions), product_dtype, workspace)

    def inverse(self, z, positions=None):
        """Map latent vectors back; shapes as in `forward`."""
        return self.blocks.inverse(z, self._codes(positions))

    def freeze(self):
        """Keep what mapping whole images without gradient needs; see `CouplingBlocks.freeze`."""
        self.blocks.freeze(self._codes(None))

    def _codes(self, positions):
        if self.column_codes is None:
            return None
        return GridCondition(self.column_codes, self.row_codes, positions)
