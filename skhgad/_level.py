"""One level of the model: linear start, flow and mixture, from raw features to evidence."""

from torch import nn

from ._losses import log_likelihood
from ._mixture import entropy


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

    def forward(self, x):
        """Log-likelihood of every class and entropy of the class posterior, at every position.

        Parameters
        ----------
        x : Tensor of shape (n_images, n_positions, n_features)
            Raw features.

        Returns
        -------
        log_likelihood : Tensor of shape (n_images, n_positions, n_classes)
            Per dimension, in nats: a / d - ln(2 pi) / 2.
        entropy : Tensor of shape (n_images, n_positions)
            In nats.
        """
        z, log_det = self.latent(x)
        density = self.mixture.log_density_within(z)
        likelihood = log_likelihood(density, log_det[..., None], self.n_features)
        return likelihood, entropy(self.mixture.class_logits_of(z))
