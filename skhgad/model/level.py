"""One level of the model, from raw features to evidence."""

import math

import torch
from torch import nn

from .class_densities import ClassDensities
from .flow import ConditionalFlow, identity_start
from .mixture import HierarchicalMixture, class_means, log_likelihood
from .nearest import NearestNormals
from .positions import position_codes


class LevelModel(nn.Module):
    """Everything that is fitted for one level of features.

    `mixture` is the prior that training learns. `densities` score; None = those of the mixture,
    with unit covariances. `map_shape` is (height, width). `nearest` keeps normal vectors to compare
    others with, None = none.
    """

    def __init__(self, start, flow, mixture, map_shape, densities=None, nearest=None):
        super().__init__()
        self.start = start
        self.flow = flow
        self.mixture = mixture
        self.densities = densities
        self.nearest = nearest
        self.map_shape = tuple(map_shape)

    @property
    def n_features(self):
        """Channels of the level's raw vectors."""
        return len(self.start.mean)

    @property
    def n_axes(self):
        """Length of the level's latent vectors."""
        return self.mixture.means.shape[1]

    @property
    def is_linear(self):
        """Whether latent vectors are a linear map of the raw ones, each by itself."""
        return not len(self.flow.blocks.mix) and not self.start.has_rest

    @property
    def has_one_position(self):
        """Whether each sample is one vector, no map."""
        return math.prod(self.map_shape) == 1

    @property
    def keeps_rows(self):
        """Whether `nearest` keeps rows of a table, whose distance is a term of its own."""
        return self.nearest is not None and self.has_one_position

    @property
    def n_centers(self):
        """Centers of each class, int64 Tensor (n_classes,)."""
        if self.densities is not None:
            return self.densities.center_counts
        return torch.full((len(self.mixture.means),), self.mixture.n_components)

    def latent(self, x):
        """Map raw features (n_images, n_positions, n_features) to latent vectors of the same shape.

        Also returns the log-determinants, of shape (n_images, n_positions).
        """
        started, start_log_det = self.start(x)
        z, log_det = self.flow(started)
        return z, log_det + start_log_det

    @torch.no_grad()
    def drop_last_mix(self):
        """Turn the latent space so that scoring has one product less; densities do not change."""
        turn = self.flow.blocks.drop_last_mix()
        for centers in (self.mixture.means, self.mixture.offsets):
            centers.copy_(centers @ turn)

    def class_log_likelihood(self, z, inside=None):
        """Log-likelihoods (n_images, n_classes) of images, from their latent vectors.

        They use one covariance that all classes share. They are summed over the positions, in nats,
        up to a constant of each image: over those of the bool Tensor `inside` (n_images,
        n_positions), or all.
        """
        source = self.mixture if self.densities is None else self.densities
        if self.has_one_position and source is self.densities and source.has_several_centers:
            return source.class_log_densities(z[:, 0])
        discriminants = source.class_discriminants
        if source is self.densities and self._has_modes:
            discriminants = source.mode_discriminants
        # Linear in z, so the mean position stands for all.
        if inside is not None:
            weights = inside[..., None].to(z)
            counts = weights.sum(1)
            mean = (z * weights).sum(1) / counts.clamp_min(1)
            return discriminants(mean) * counts
        return discriminants(z.mean(1)) * z.shape[1]

    @property
    def _has_modes(self):
        """Whether samples are maps, of several modes in a class."""
        return self.densities is not None and self.densities.has_modes and not self.has_one_position

    def evidence(self, z, log_det, codes, *, with_entropy=True):
        """Judge every position, from the results of `latent` and the class of each image.

        Returns three Tensors (n_images, n_positions): log-likelihood under the class, per
        dimension, in nats, a / d - ln(2 pi) / 2, less the penalty of `NearestNormals` where maps
        have any; the log-likelihood under the background, or None where none was fitted; and
        `posterior_entropy`, or None if not asked for.
        """
        likelihood = log_likelihood(self.log_density(z, codes), log_det, self.n_features)
        if self.nearest is not None and not self.keeps_rows:
            likelihood = likelihood - self.nearest.penalty(z, codes)
        background = None
        if self.densities is not None and self.densities.has_background:
            background = log_likelihood(
                self.background_log_density(z, codes), log_det, self.n_features
            )
        entropy = self.posterior_entropy(z, codes) if with_entropy else None
        return likelihood, background, entropy

    def novelty(self, x):
        """How new raw feature vectors (n, 1, n_features) are, (n,); see `NearestNormals.novelty`.

        None where no rows of a table are kept.
        """
        return self.nearest.novelty(self.moved(x[:, 0])) if self.keeps_rows else None

    def moved(self, x):
        """Raw feature vectors (n, n_features) after their powers, from the mean: not whitened."""
        return self.start.powered(x) - self.start.mean

    def background_log_density(self, z, codes):
        """Log-density under the background; see `ClassDensities.log_density_background`."""
        return self.densities.log_density_background(z, codes)

    def posterior_entropy(self, z, codes):
        """Entropy of the class posterior; see `HierarchicalMixture.posterior_entropy`."""
        return self.mixture.posterior_entropy(z, codes)

    def standardised(self, z, code, draws):
        """Map latent vectors (n, n_features) of a class to standard Gaussian ones, if it fits them.

        See `ClassDensities.standardised`. An axis that holds a length is left out.
        """
        source = self.mixture if self.densities is None else self.densities
        vectors = source.standardised(z, code, draws)
        return vectors[:, :-1] if self.start.has_rest else vectors

    def first_center(self, code):
        """Return the first center of a class, and the inverse square root of its covariance.

        float64 Tensors (n_axes,) and (n_axes, n_axes), on the CPU.
        """
        if self.densities is not None:
            return self.densities.first_center(code)
        center = self.mixture.means[code].detach().double().cpu()
        return center, torch.eye(len(center), dtype=torch.float64)

    def log_density(self, z, codes):
        """Log-density of each position under the class of its image; shapes as in `evidence`."""
        present = codes.unique().tolist()
        if len(present) == 1:
            return self.log_density_of(z, present[0])
        density = torch.empty_like(z[..., 0])
        for code in present:
            chosen = codes == code
            density[chosen] = self.log_density_of(z[chosen], code)
        return density

    def log_density_of(self, z, code):
        """Log-density of each position under one class; see `ClassDensities.log_density_of`."""
        if self._has_modes:
            return self.densities.log_density_in_modes(z, code)
        source = self.mixture if self.densities is None else self.densities
        return source.log_density_of(z, code)


def empty_level(
    parameters,
    n_features,
    map_shape,
    n_classes,
    generator=None,
    *,
    n_blocks=None,
    n_axes=None,
    has_rest=False,
    has_means=True,
):
    """Create an untrained level from its shapes alone; its start is the identity.

    `map_shape` is (height, width). `n_blocks` None = that of the parameters. `n_axes` is the number
    of latent features, None = `n_features`, and `has_rest` tells whether the last one is a length;
    see `LinearStart`. `has_means` False: the class means are zero, because stored ones take their
    place.
    """
    generator = torch.Generator() if generator is None else generator
    n_axes = n_features if n_axes is None else n_axes
    position_channels = parameters["position_channels"]
    is_conditioned = position_channels and math.prod(map_shape) > 1
    flow = ConditionalFlow(
        n_axes,
        position_codes(*map_shape, position_channels) if is_conditioned else None,
        n_blocks=parameters["n_blocks"] if n_blocks is None else n_blocks,
        hidden_ratio=parameters["hidden_ratio"],
        clamp=parameters["clamp"],
        identity_start=parameters["start"] == "whitened",
        generator=generator,
    )
    means = torch.zeros(n_classes, n_axes)
    if has_means:
        means = class_means(n_classes, n_axes, parameters["class_separation"])
    mixture = HierarchicalMixture(
        means,
        prior_components(parameters),
        offset_scale=parameters["center_scale"],
        generator=generator,
    )
    start = identity_start(n_features, n_axes - 1 if has_rest else None)
    return LevelModel(start.float(), flow, mixture, map_shape)


def prior_components(parameters):
    """Centers of each class in the prior; one where those of the densities are found later."""
    n_components = parameters["n_components"]
    return n_components if isinstance(n_components, int) else 1


def room_for_nearest(level, n_axes, n_kept, n_sets, kind):
    """Give a level nearest normals, all zero, for the stored ones to be loaded into."""
    n_classes, n_latent = level.mixture.means.shape
    length = level.n_features if level.has_one_position else n_latent
    level.nearest = NearestNormals(n_classes, length, n_axes, n_kept, n_sets, kind)


def room_for_densities(level, *, n_centers, n_whiteners, has_background, n_own_backgrounds):
    """Give a level densities, all zero, for the stored ones to be loaded into."""
    level.densities = ClassDensities(
        *level.mixture.means.shape,
        n_centers=n_centers,
        n_whiteners=n_whiteners,
        has_background=has_background,
        n_own_backgrounds=n_own_backgrounds,
    )
