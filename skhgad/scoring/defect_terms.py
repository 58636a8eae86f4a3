"""What known defects change in the evidence of a level: a direction and a weight of each class."""

import torch
from torch import nn


class DefectTerm(nn.Module):
    """How much farther vectors lie in the direction of known defects than most normals do.

    It is subtracted from the log-likelihood ratio of the level. What lies less far has 0: being
    unlike the known defects makes nothing more normal.

    Parameters
    ----------
    directions : Tensor of shape (n_classes, n_axes)
        In the latent space. Zero for a class that is not corrected.
    offsets : Tensor of shape (n_classes,)
        What is added to the products; sums below 0 count as 0.
    """

    def __init__(self, directions, offsets):
        super().__init__()
        self.register_buffer("directions", directions)
        self.register_buffer("offsets", offsets)

    def forward(self, z, codes):
        """Return Tensor (n, n_positions) from latent vectors (n, n_positions, n_axes)."""
        products = z @ self.directions[codes][:, :, None]
        return (products[..., 0] + self.offsets[codes][:, None]).clamp_min(0)

    def of_classes(self, corrected):
        """Return the same for the classes that a bool sequence chooses, and nothing for others."""
        chosen = torch.as_tensor(corrected, device=self.offsets.device)
        nothing = torch.zeros_like(self.offsets)
        return DefectTerm(
            torch.where(chosen[:, None], self.directions, torch.zeros_like(self.directions)),
            torch.where(chosen, self.offsets, nothing),
        )

    def extended(self, order):
        """Return the same for more classes, which are not corrected; `order` as in the model's."""
        n_new = len(order) - len(self.offsets)
        nothing = self.directions.new_zeros(n_new, self.directions.shape[1])
        directions = torch.cat((self.directions, nothing))
        offsets = torch.cat((self.offsets, self.offsets.new_zeros(n_new)))
        return DefectTerm(directions[order], offsets[order])

    def without(self, codes):
        """Return the same without some classes, Tensor of int64."""
        kept = torch.ones(len(self.offsets), dtype=torch.bool)
        kept[codes] = False
        return DefectTerm(self.directions[kept], self.offsets[kept])
