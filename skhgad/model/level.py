"""One level of the model: linear start, flow and mixture, from raw features to evidence."""

import torch
from torch import nn

from .losses import log_likelihood


class LevelModel(nn.Module):
    """What is known of one level after fit.

    Parameters
    ----------
    start : LinearStart
    flow : ConditionalFlow
    mixture : HierarchicalMixture
    map_shape : tuple (height, width)
        Layout of the positions.
    """

    def __init__(self, start, flow, mixture, map_shape):
        super().__init__()
        self.start = start
        self.flow = flow
        self.mixture = mixture
        self.map_shape = tuple(map_shape)

    @property
    def n_features(self):
        """Channels of the level's vectors."""
        return self.mixture.means.shape[1]

    def latent(self, x):
        """Map raw feature vectors to latent ones.

        Parameters
        ----------
        x : Tensor of shape (n_images, n_positions, n_features)

        Returns
        -------
        z : Tensor of shape (n_images, n_positions, n_features)
        log_det : Tensor of shape (n_images, n_positions)
        """
        started, start_log_det = self.start(x)
        z, log_det = self.flow(started)
        return z, log_det + start_log_det

    @torch.no_grad()
    def drop_last_mix(self):
        """Turn the latent space so that scoring has one product less; densities stay."""
        turn = self.flow.blocks.drop_last_mix()
        for centers in (self.mixture.means, self.mixture.offsets):
            centers.copy_(centers @ turn)

    def class_log_likelihood(self, z):
        """How likely images are under every class, by the covariance that all classes share.

        Parameters
        ----------
        z : Tensor of shape (n_images, n_positions, n_features)
            From `latent`.

        Returns
        -------
        Tensor of shape (n_images, n_classes)
            Sum over the positions, in nats, up to a constant of each image.
        """
        return self.mixture.class_discriminants(z.mean(1)) * z.shape[1]  # linear in z

    def evidence(self, z, log_det, codes):
        """Judge every position.

        Parameters
        ----------
        z, log_det
            From `latent`.
        codes : Tensor of shape (n_images,), int64
            Class of each image.

        Returns
        -------
        likelihood : Tensor of shape (n_images, n_positions)
            Log-likelihood under the class, per dimension, in nats: a / d - ln(2 pi) / 2.
        background : Tensor of shape (n_images, n_positions), or None
            The same under the background; None where none was fitted.
        entropy : Tensor of shape (n_images, n_positions)
            Of the class posterior, in nats; see `HierarchicalMixture.posterior_entropy`.
        """
        present = codes.unique().tolist()
        if len(present) == 1:
            density = self.mixture.log_density_of(z, present[0])
        else:
            density = torch.empty_like(log_det)
            for code in present:
                own = codes == code
                density[own] = self.mixture.log_density_of(z[own], code)
        background = None
        if self.mixture.background_mean is not None:
            background = log_likelihood(
                self.mixture.log_density_background(z), log_det, self.n_features
            )
        likelihood = log_likelihood(density, log_det, self.n_features)
        return likelihood, background, self.mixture.posterior_entropy(z, codes)
