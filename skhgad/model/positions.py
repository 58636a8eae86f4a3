"""Position codes of a feature map, and their linear map."""

import math
from typing import NamedTuple

import torch


def position_codes(height, width, n_channels):
    r"""Return fixed 2-D sine/cosine position codes, a GridCondition of float32.

    Half of the D channels, a multiple of 4, code the column, half the row. In each half, channels
    2i and 2i + 1 are sine and cosine of position times :math:`10^{-4 \cdot 2i / (D/2)}`.
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


class GridCondition(NamedTuple):
    """Condition of the positions of a grid: the code of its column beside the code of its row.

    `columns` (width, n_of_columns) and `rows` (height, n_of_rows) hold the codes. `positions`,
    int64, are row-major places on the grid; None = all, in order.
    """

    columns: torch.Tensor
    rows: torch.Tensor
    positions: torch.Tensor | None = None

    def bias(self, column_weight, row_weight, hidden_bias, empty):
        """Map the condition linearly, at the cost of one row and one column of the grid.

        Weights are (n_blocks, n_out, n_of_columns or n_of_rows), `hidden_bias` (n_blocks, n_out),
        the result (n_blocks, n_positions, n_out).
        """
        of_columns = self.columns @ column_weight.flatten(0, 1).T
        of_rows = self.rows @ row_weight.flatten(0, 1).T
        of_rows = of_rows + hidden_bias.flatten()
        mapped = empty(of_rows, len(of_rows), *of_columns.shape)
        torch.add(of_rows[:, None], of_columns, out=mapped)
        mapped = mapped.flatten(0, 1).unflatten(1, hidden_bias.shape)
        mapped = mapped if self.positions is None else mapped[self.positions]
        return mapped.transpose(0, 1)

    def bias_gradients(self, grad, empty):
        """Return the gradients of the first three arguments of `bias`."""
        n_blocks, _, n_out = grad.shape
        if self.positions is not None:
            n_positions = len(self.rows) * len(self.columns)
            all_positions = grad.new_zeros(n_blocks, n_positions, n_out)
            grad = all_positions.index_add_(1, self.positions, grad)
        grad = grad.unflatten(1, (len(self.rows), len(self.columns)))
        of_columns, of_rows = grad.sum(1), grad.sum(2)
        weights = []
        for summed, codes in ((of_columns, self.columns), (of_rows, self.rows)):
            weight = empty(summed, n_blocks, n_out, codes.shape[1])
            torch.mm(summed.transpose(1, 2).flatten(0, 1), codes, out=weight.flatten(0, 1))
            weights.append(weight[:])  # a view: see `CouplingFunction.backward`
        return *weights, of_rows.sum(1)
