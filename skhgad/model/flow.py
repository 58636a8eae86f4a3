"""The normalizing flow of one level."""

import torch
from torch import nn

from .coupling import CouplingBlocks
from .positions import GridCondition


class LinearStart(nn.Module):
    """A fixed, invertible linear map (x - mean) W, its log-determinant counted.

    `mean` has shape (n_features,); `matrix`, which is W, has shape (n_features, n_features).
    """

    def __init__(self, mean, matrix):
        super().__init__()
        mean = torch.as_tensor(mean, dtype=torch.float64)
        matrix = torch.as_tensor(matrix, dtype=torch.float64)
        log_det = torch.linalg.slogdet(matrix)[1]
        # float64 until the owner casts the module: raw features may be of any magnitude.
        self.register_buffer("mean", mean)
        self.register_buffer("matrix", matrix)
        self.register_buffer("log_det", log_det)

    def forward(self, x):
        """Return the mapped x and the log-determinant, a 0-d Tensor."""
        return (x - self.mean) @ self.matrix, self.log_det

    def inverse(self, z):
        """Undo `forward`."""
        flat = z.reshape(-1, z.shape[-1])
        return torch.linalg.solve(self.matrix.T, flat.T).T.reshape(z.shape) + self.mean


def identity_start(n_features):
    """Return a start that changes nothing: the flow sees the raw features."""
    return LinearStart(torch.zeros(n_features), torch.eye(n_features))


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
