"""The normalizing flow of one level: a linear start, then coupling blocks."""

import math

import torch
from torch import nn

from ._coupling import CouplingBlock, GridCondition


def position_codes(height, width, n_channels):
    r"""Return fixed 2-D sine/cosine position codes.

    Half of the channels code the column, half the row; in each half, channels 2i and 2i + 1 are
    sine and cosine of position times :math:`10^{-4 \cdot 2i / (D/2)}`.

    Parameters
    ----------
    height, width : int
        Size of the feature map.
    n_channels : int
        D, a multiple of 4.

    Returns
    -------
    GridCondition
        Of float32.
    """
    if n_channels % 4:
        raise ValueError(f"n_channels must be a multiple of 4, got {n_channels}.")
    half = n_channels // 2
    frequency = torch.exp(
        torch.arange(0, half, 2, dtype=torch.float64) * -(math.log(1e4) / max(half, 1))
    )

    def code(length):
        angle = torch.arange(length, dtype=torch.float64)[:, None] * frequency
        return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1).float()

    return GridCondition(code(width), code(height))


class LinearStart(nn.Module):
    """A fixed, invertible linear map (x - mean) W, its log-determinant counted.

    Parameters
    ----------
    mean : array-like of shape (n_features,)
    matrix : array-like of shape (n_features, n_features)
        W, acting on rows; invertible.
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


class ConditionalFlow(nn.Module):
    """Coupling blocks in a row, conditioned on position codes.

    Parameters
    ----------
    n_features : int
    codes : GridCondition or None
        Position codes of the map; None for feature vectors.
    n_blocks : int, default=12
    hidden_ratio, clamp, identity_start, generator
        See `CouplingBlock`.
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
        self.blocks = nn.ModuleList(
            CouplingBlock(
                n_features,
                0 if codes is None else codes.columns.shape[1] + codes.rows.shape[1],
                hidden_ratio=hidden_ratio,
                clamp=clamp,
                identity_start=identity_start,
                generator=generator,
            )
            for _ in range(n_blocks)
        )

    def forward(self, x, positions=None, product_dtype=None):
        """Map feature vectors to the latent space.

        Parameters
        ----------
        x : Tensor of shape (n_images, n_positions, n_features)
        positions : Tensor of shape (n_positions,), int64, or None
            Which positions of the map the second axis holds; None = all of them, in order.
        product_dtype : torch.dtype, default=None
            See `CouplingBlock.forward`.

        Returns
        -------
        z : Tensor of shape (n_images, n_positions, n_features)
        log_det : Tensor of shape (n_images, n_positions)
        """
        codes = self._codes(positions)
        log_det = x.new_zeros(x.shape[:-1])
        for block in self.blocks:
            x, block_log_det = block(x, codes, product_dtype)
            log_det = log_det + block_log_det
        return x, log_det

    def inverse(self, z, positions=None):
        """Map latent vectors back; shapes as in `forward`."""
        codes = self._codes(positions)
        for block in reversed(self.blocks):
            z = block.inverse(z, codes)
        return z

    def _codes(self, positions):
        if self.column_codes is None:
            return None
        return GridCondition(self.column_codes, self.row_codes, positions)
