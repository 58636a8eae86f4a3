"""From features to class, anomaly map and image score, every constant frozen at fit."""

import math

import torch
from torch import nn
from torch.nn import functional as F

CRITERIA = ("likelihood_entropy", "likelihood", "entropy")
NORMALIZATIONS = ("standardized", "exponential")
# Entropy of the class posterior, in nats, below which differences are numerical noise.
_ENTROPY_FLOOR = 1e-2
_BLUR_REFERENCE = 256


def gaussian_blur(maps, sigma):
    """Blur maps with a Gaussian cut at four sigma, edges replicated.

    Parameters
    ----------
    maps : Tensor of shape (n, height, width)
    sigma : float
        In positions.

    Returns
    -------
    Tensor of shape (n, height, width)
    """
    radius = math.ceil(4 * sigma)
    if not radius or maps.shape[-1] * maps.shape[-2] == 1:
        return maps
    offsets = torch.arange(-radius, radius + 1, dtype=maps.dtype, device=maps.device)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    maps = F.pad(maps[:, None], (radius,) * 4, mode="replicate")
    maps = F.conv2d(F.conv2d(maps, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))
    return maps[:, 0]


def resize(maps, size):
    """Bilinear resizing of maps (n, height, width) to `size`."""
    if tuple(maps.shape[1:]) == tuple(size):
        return maps
    return F.interpolate(maps[:, None], tuple(size), mode="bilinear", align_corners=False)[:, 0]


class ScoringModel(nn.Module):
    """The fitted levels and the frozen constants that turn their output into scores.

    Parameters
    ----------
    levels : list of LevelModel
    map_size : tuple (height, width)
        Grid on which levels are summed, (1, 1) for feature vectors.
    criterion : {"likelihood_entropy", "likelihood", "entropy"}
    normalization : {"standardized", "exponential"}
        "exponential": the published maps, exp(value - max), subtracted from their maximum and
        multiplied. "standardized": the negative log-likelihood of each level in standard
        deviations from the mean over normal samples of the class, plus the log-entropy likewise.
    blur_sigma : float
        In pixels of a map 256 pixels high.
    entropy_weight : float, default=1.0
        Weight of the standardized log-entropy beside the likelihood.
    """

    def __init__(self, levels, map_size, criterion, normalization, blur_sigma, entropy_weight=1.0):
        super().__init__()
        self.levels = nn.ModuleList(levels)
        self.map_size = tuple(map_size)
        self.criterion = criterion
        self.normalization = normalization
        self.blur_sigma = blur_sigma
        self.entropy_weight = entropy_weight
        n_levels, n_classes = len(self.levels), self.n_classes
        self.register_buffer("likelihood_location", torch.zeros(n_levels, n_classes))
        self.register_buffer("likelihood_scale", torch.ones(n_levels, n_classes))
        self.register_buffer("entropy_location", torch.zeros(n_levels, n_classes))
        self.register_buffer("log_entropy_location", torch.zeros(n_classes))
        self.register_buffer("log_entropy_scale", torch.ones(n_classes))
        # Affine map per class of image scores and maps: see `_calibration.class_scales`.
        self.register_buffer("score_location", torch.zeros(n_classes))
        self.register_buffer("score_scale", torch.ones(n_classes))

    @property
    def n_classes(self):
        """Number of product classes."""
        return self.levels[0].mixture.means.shape[0]

    def evidence(self, features):
        """Ask the levels, before any normalisation.

        Parameters
        ----------
        features : list of Tensor of shape (n, n_positions, n_features)

        Returns
        -------
        likelihoods : list of Tensor of shape (n, n_positions, n_classes)
        entropies : list of Tensor of shape (n, n_positions)
        """
        pairs = [level(x) for level, x in zip(self.levels, features, strict=True)]
        return [pair[0] for pair in pairs], [pair[1] for pair in pairs]

    def class_log_likelihood(self, likelihoods):
        """Log-likelihood of the whole image under each class, Tensor of shape (n, n_classes).

        Sum over positions and levels, in nats.
        """
        return sum(
            level.n_features * likelihood.sum(1)
            for level, likelihood in zip(self.levels, likelihoods, strict=True)
        )

    def forward(self, features, codes=None):
        """Anomaly maps on the model's grid.

        Parameters
        ----------
        features : list of Tensor of shape (n, n_positions, n_features)
        codes : Tensor of shape (n,), int64, or None
            Class of each image; None = infer it.

        Returns
        -------
        maps : Tensor of shape (n, height, width)
            Higher = more anomalous. An image's anomaly score is the maximum of its map.
        codes : Tensor of shape (n,), int64
        """
        likelihoods, entropies = self.evidence(features)
        if codes is None:
            codes = self.class_log_likelihood(likelihoods).argmax(1)
        maps = self.raw_maps(likelihoods, entropies, codes)
        location, scale = self.score_location[codes], self.score_scale[codes]
        return (maps - location[:, None, None]) / scale[:, None, None], codes

    def raw_maps(self, likelihoods, entropies, codes):
        """Anomaly maps before the classes are put on one scale, Tensor (n, height, width)."""
        terms = []
        if self.criterion != "entropy":
            terms.append(self._likelihood_map(likelihoods, codes))
        if self.criterion != "likelihood":
            terms.append(self._entropy_map(entropies, codes))
        if self.normalization == "exponential":
            return torch.stack([self._blur(term) for term in terms]).prod(0)
        return self._blur(sum(terms))

    def normality_maps(self, values, location, codes):
        """Sum exp(value - maximum) over levels on the grid, the published normality, at most L."""
        return sum(
            self._on_grid((value - location[index, codes, None]).clamp_max(0).exp(), index)
            for index, value in enumerate(values)
        )

    def _likelihood_map(self, likelihoods, codes):
        rows = torch.arange(len(codes), device=codes.device)
        own = [likelihood[rows, :, codes] for likelihood in likelihoods]
        if self.normalization == "exponential":
            return len(own) - self.normality_maps(own, self.likelihood_location, codes)
        location, scale = self.likelihood_location, self.likelihood_scale
        # Longer vectors carry more evidence, as in the sum of log-likelihoods.
        widest = max(level.n_features for level in self.levels)
        return sum(
            (level.n_features / widest)
            * self._on_grid((location[i, codes, None] - value) / scale[i, codes, None], i)
            for i, (level, value) in enumerate(zip(self.levels, own, strict=True))
        )

    def _entropy_map(self, entropies, codes):
        values = [-entropy for entropy in entropies]
        anomaly = len(values) - self.normality_maps(values, self.entropy_location, codes)
        if self.normalization == "exponential":
            return anomaly
        location = self.log_entropy_location[codes, None, None]
        scale = self.log_entropy_scale[codes, None, None] / self.entropy_weight
        return (self.log_entropy(anomaly) - location) / scale

    @staticmethod
    def log_entropy(anomaly):
        """Logarithm of an entropy map, floored where only rounding speaks."""
        return (anomaly + _ENTROPY_FLOOR).log()

    def _on_grid(self, values, level):
        maps = values.unflatten(1, self.levels[level].map_shape)
        return resize(maps, self.map_size)

    def _blur(self, maps):
        return gaussian_blur(maps, self.blur_sigma * self.map_size[0] / _BLUR_REFERENCE)


@torch.no_grad()
def fit_normalizers(model, blocks):
    """Freeze the constants of the maps from normal samples.

    Parameters
    ----------
    model : ScoringModel
        Changed in place.
    blocks : callable
        Each call iterates over (features, codes).
    """
    likelihoods, entropies, all_codes = [], [], []
    for features, codes in blocks():
        block_likelihoods, block_entropies = model.evidence(features)
        rows = torch.arange(len(codes), device=codes.device)
        likelihoods.append([value[rows, :, codes] for value in block_likelihoods])
        entropies.append([-value for value in block_entropies])
        all_codes.append(codes)
    codes = torch.cat(all_codes)
    for index in range(len(model.levels)):
        value = torch.cat([block[index] for block in likelihoods])
        negative_entropy = torch.cat([block[index] for block in entropies])
        if model.normalization == "exponential":
            model.likelihood_location[index] = _per_class(model, codes, value, torch.amax)
            model.entropy_location[index] = _per_class(model, codes, negative_entropy, torch.amax)
        else:
            model.likelihood_location[index] = _per_class(model, codes, value, torch.mean)
            model.likelihood_scale[index] = _per_class(model, codes, value, _spread)
    if model.normalization == "standardized":
        anomaly = torch.cat(
            [
                len(block) - model.normality_maps(block, model.entropy_location, own)
                for block, own in zip(entropies, all_codes, strict=True)
            ]
        )
        log_entropy = model.log_entropy(anomaly)
        model.log_entropy_location[:] = _per_class(model, codes, log_entropy, torch.mean)
        model.log_entropy_scale[:] = _per_class(model, codes, log_entropy, _spread)


def _per_class(model, codes, values, statistic):
    """Compute `statistic` of each class's values; of all values for a class without any."""
    overall = statistic(values)
    return torch.stack(
        [
            statistic(values[codes == code]) if (codes == code).any() else overall
            for code in range(model.n_classes)
        ]
    )


def _spread(values):
    """Return the standard deviation, or 1 where nothing varies, so that division is defined."""
    spread = values.std(correction=0)
    return torch.where(spread > 1e-6, spread, torch.ones_like(spread))
