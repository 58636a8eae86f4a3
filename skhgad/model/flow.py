"""The normalizing flow of one level."""

import math

import torch
from torch import nn

from .coupling import CouplingBlocks
from .positions import GridCondition


class LinearStart(nn.Module):
    """A fixed linear map (x - mean) W, its log-determinant counted.

    W is invertible, or leads to fewer axes than there are features. One more axis then holds the
    length of what W leaves out, in units of `rest_scale`. This axis stands for n_features - n_axes
    directions of equal variance: one, and `n_merged` more.

    Parameters
    ----------
    mean : Tensor of shape (n_features,)
    matrix : Tensor of shape (n_features, n_axes)
        W. With fewer axes than features its columns are orthogonal.
    rest_scale : float, default=None
        Needed with fewer axes than features.
    powers : FeaturePowers, default=None
        Comes before the linear map.
    row_weights : Tensor of shape (n_rows, n_axes), default=None
        What `axes_of_rows` makes W of, where it is made of rows. It is not used here: a file that
        holds the rows needs no W beside them.
    shrinkage : float, default=None
        That of the covariance which W whitens. It is not used here, nor saved.
    """

    def __init__(
        self, mean, matrix, rest_scale=None, powers=None, row_weights=None, shrinkage=None
    ):
        super().__init__()
        self.powers, self.shrinkage = powers, shrinkage
        mean = torch.as_tensor(mean, dtype=torch.float64)
        matrix = torch.as_tensor(matrix, dtype=torch.float64)
        n_features, n_axes = matrix.shape
        if rest_scale is None:
            log_det = torch.linalg.slogdet(matrix)[1]
        else:
            lengths = matrix.norm(dim=0)
            log_det = lengths.log().sum() - (n_features - n_axes) * math.log(rest_scale)
        # float64 until the owner casts the module: raw features may be of any magnitude.
        self.register_buffer("mean", mean)
        self.register_buffer("matrix", matrix)
        self.register_buffer("log_det", log_det)
        if rest_scale is not None:
            self.register_buffer("lengths", lengths)
            self.register_buffer("rest_scale", mean.new_tensor(rest_scale))
        if row_weights is not None:
            self.register_buffer("row_weights", row_weights)

    @property
    def has_rest(self):
        """Whether the last axis is the length of what the others leave out."""
        return self.matrix.shape[0] > self.matrix.shape[1]

    @property
    def n_axes(self):
        """Number of features that `forward` returns."""
        return self.matrix.shape[1] + self.has_rest

    @property
    def n_merged(self):
        """Number of directions beyond one that the last axis stands for."""
        return self.matrix.shape[0] - self.n_axes

    def forward(self, x):
        """Return the mapped x and the log-determinant, a 0-d Tensor; with powers, one a vector."""
        moved, log_det = self.powered(x) - self.mean, self.log_det
        if self.powers is not None:
            log_det = log_det + self.powers.log_slopes(x).sum(-1)
        z = moved @ self.matrix
        if not self.has_rest:
            return z, log_det
        # Not the difference of the squares: of the training rows it would be rounding alone.
        left_out = moved - (z / self.lengths.square()) @ self.matrix.T
        rest = left_out.norm(dim=-1) / self.rest_scale
        return torch.cat((z, rest[..., None]), dim=-1), log_det

    def powered(self, x):
        """Return x after its powers."""
        return x if self.powers is None else self.powers(x)

    def products(self, x, matrix):
        """Return the products of the mapped x and a matrix (n_axes, m), in one; without a rest."""
        return (self.powered(x) - self.mean) @ (self.matrix @ matrix)

    def inverse(self, z):
        """Undo `forward`; what the axes leave out becomes zero."""
        flat = z.reshape(-1, z.shape[-1])
        if self.has_rest:
            flat = (flat[:, :-1] / self.lengths.square()) @ self.matrix.T
        else:
            flat = torch.linalg.solve(self.matrix.T, flat.T).T
        x = flat.reshape(*z.shape[:-1], -1) + self.mean
        return x if self.powers is None else self.powers.inverse(x)


def identity_start(n_features, n_seen=None):
    """Return a start that changes nothing: the flow sees the raw features.

    With `n_seen` it sees so many of them, and the length of the others.
    """
    if n_seen is None:
        return LinearStart(torch.zeros(n_features), torch.eye(n_features))
    return LinearStart(torch.zeros(n_features), torch.eye(n_features, n_seen), 1.0)


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
